"""The sum tree against plain sums in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import train
from rljax.agents.online import dqn
from rljax.data import priorities
from rljax.envs import probes


def leaves(state, capacity):
    return np.asarray(state.levels[0]).ravel()[:capacity]


def total(state):
    return np.asarray(state.levels[-1]).sum()


def made(priority, alpha=1.0):
    """Priorities with exactly p = `priority`."""
    priority = jnp.asarray(priority, jnp.float32)
    empty = priorities.init(len(priority))
    return priorities.update(empty, jnp.arange(len(priority)), priority - priorities.SMALLEST, alpha)


@pytest.mark.parametrize("capacity, sizes", [(1, [1]), (16, [1]), (17, [2, 1]), (256, [16, 1]), (257, [17, 2, 1])])
def test_levels(capacity, sizes):
    assert [level.shape for level in priorities.init(capacity).levels] == [(size, 16) for size in sizes]


def test_every_node_is_the_sum_of_its_children_after_many_writes():
    rng, capacity = np.random.default_rng(0), 1000
    state, reference = priorities.init(capacity), np.zeros(capacity, np.float32)
    update = jax.jit(priorities.update)
    for _ in range(300):
        slot = rng.choice(capacity, 32, replace=False)
        priority = np.float32(
            10.0 ** rng.uniform(-6, 6, 32)
        )  # differences in float32 would leave debris of the large ones
        state = update(state, slot, priority, 1.0)
        reference[slot] = priority + np.float32(priorities.SMALLEST)
    np.testing.assert_array_equal(leaves(state, capacity), reference)
    for level, above in zip(state.levels, state.levels[1:], strict=False):
        sums = np.asarray(level, np.float64).sum(-1)
        np.testing.assert_allclose(np.asarray(above).ravel()[: len(sums)], sums, rtol=1e-6)
    np.testing.assert_allclose(total(state), reference.astype(np.float64).sum(), rtol=1e-6)
    state = update(state, np.arange(capacity), np.full(capacity, 1e-3, np.float32), 1.0)
    np.testing.assert_allclose(total(state), capacity * (1e-3 + 1e-6), rtol=1e-6)


def test_of_a_slot_written_twice_the_larger_priority_stays():
    slot = jnp.array([2, 0, 2, 2])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        order = np.array(order)
        state = made([9.0, 9.0, 9.0, 9.0])  # what stood there before does not count
        state = priorities.update(state, slot[order], jnp.array([1.0, 4.0, 3.0, 2.0])[order], 1.0)
        np.testing.assert_allclose(leaves(state, 4), [4.0, 9.0, 3.0, 9.0], rtol=1e-5)
        np.testing.assert_allclose(total(state), 25.0, rtol=1e-5)


def test_new_experience_has_the_largest_priority_ever_seen():
    state = priorities.init(4)
    state = priorities.insert(state, jnp.array([0, 1]), 0.5)
    np.testing.assert_allclose(leaves(state, 4), [1.0, 1.0, 0.0, 0.0])  # 1 before anything is known
    state = priorities.update(state, jnp.array([0]), jnp.array([16.0]), 0.5)
    state = priorities.update(state, jnp.array([0]), jnp.array([4.0]), 0.5)
    state = priorities.insert(state, jnp.array([1, 2]), 0.5)  # slot 1 is overwritten
    np.testing.assert_allclose(leaves(state, 4), [2.0, 4.0, 4.0, 0.0], rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_frequencies_are_the_priorities_to_the_power_of_alpha(alpha):
    rng, capacity = np.random.default_rng(1), 37
    priority = rng.uniform(0.1, 5.0, capacity)
    expected = priority**alpha / (priority**alpha).sum()
    state = made(priority, alpha)
    # one a batch: independent draws, not stratified
    draw = jax.jit(lambda key: priorities.sample(state, key, (20_000, 1))[0])
    counts = np.bincount(np.asarray(draw(jax.random.key(0))).ravel(), minlength=48)
    assert (counts[capacity:] == 0).all()
    chi_square = np.square(counts[:capacity] - 20_000 * expected) / (20_000 * expected)
    assert chi_square.sum() < 68.0  # 36 degrees of freedom: above once in a thousand
    # stratified batches have the same means and smaller spreads
    slots = np.asarray(priorities.sample(state, jax.random.key(1), (200, 100))[0]).ravel()
    np.testing.assert_allclose(np.bincount(slots, minlength=48)[:capacity] / slots.size, expected, atol=2e-3)


def test_strata_each_give_one():
    slots, power = priorities.sample(made(np.ones(8)), jax.random.key(0), (5, 8))
    np.testing.assert_array_equal(slots, np.tile(np.arange(8), (5, 1)))  # equal priorities: each slot is a stratum
    np.testing.assert_allclose(power, np.ones((5, 8)), rtol=1e-5)


def test_empty_slots_are_never_drawn():
    state = priorities.insert(priorities.init(1000), jnp.array([3, 500, 501, 999]), 0.7)
    state = priorities.update(state, jnp.array([3, 999]), jnp.array([1e-5, 0.3]), 0.7)
    slots = np.asarray(priorities.sample(state, jax.random.key(0), (400, 256))[0])
    assert set(slots.ravel()) <= {3, 500, 501, 999} and 999 in slots


def test_weights_by_hand():
    # p = 1 2 3 4, P = .1 .2 .3 .4; (4 P)^-1 = 2.5 1.25 .8333 .625; divided by the batch's largest
    weights = lambda slot, beta: priorities.importance_weights(jnp.array(slot) + 1.0, beta)
    np.testing.assert_allclose(weights([0, 1, 2, 3], 1.0), [1.0, 1 / 2, 1 / 3, 1 / 4], rtol=1e-5)
    np.testing.assert_allclose(weights([0, 1, 2, 3], 0.5), [1.0, 0.70711, 0.57735, 0.5], rtol=1e-4)
    np.testing.assert_allclose(weights([3, 1], 1.0), [1 / 2, 1.0], rtol=1e-5)  # of this batch, not of all
    np.testing.assert_allclose(weights([[3, 1], [2, 2]], 1.0), [[1 / 2, 1.0], [1.0, 1.0]], rtol=1e-5)
    np.testing.assert_allclose(weights([0, 1, 2, 3], 0.0), np.ones(4))


def test_over_seeds_and_exponents():
    alphas = jnp.array([0.0, 0.5, 1.0])
    states = jax.vmap(lambda alpha: made([1.0, 4.0, 9.0], alpha))(alphas)
    np.testing.assert_allclose(states.levels[0].sum((1, 2)), [3.0, 6.0, 14.0], rtol=1e-5)
    slots, power = jax.vmap(lambda state, key: priorities.sample(state, key, (9000,)))(
        states, jax.random.split(jax.random.key(0), 3)
    )
    np.testing.assert_array_equal(power, jax.vmap(lambda leaves, slot: leaves[0, slot])(states.levels[0], slots))
    shares = np.stack([np.bincount(np.asarray(s), minlength=3) / 9000 for s in slots])
    expected = [[1 / 3] * 3, [1 / 6, 2 / 6, 3 / 6], [1 / 14, 4 / 14, 9 / 14]]
    np.testing.assert_allclose(shares, expected, atol=2e-3)  # stratified: far closer than independent draws


def test_what_the_update_found_comes_back_to_the_source():
    """Constant reward 1 and Q = 0: |TD error| is 1 wherever a sample was drawn."""
    env = probes.ConstantReward()
    config = dqn.Config(prioritised=True, num_envs=2, batch_size=16, capacity=8, warmup=6, hidden=(4,))
    agent, source = dqn.make(env.spec, config), dqn.source(env, config)
    learner = train.make(agent, source)

    @jax.jit
    def run(key):
        start = learner.init(key)
        end, metrics = learner.step(start)
        return start.source[2], end.source[2], metrics

    before, after, metrics = run(jax.random.key(0))
    np.testing.assert_allclose(leaves(before, 8), [1.0] * 6 + [0.0] * 2)
    np.testing.assert_allclose(metrics["q/mean"], 0.0, atol=1e-6)  # biases start at 0 and the observation is 0
    # 16 strata over 8 slots of equal weight draw every one
    np.testing.assert_allclose(leaves(after, 8), (1.0 + 1e-6) ** 0.6 * np.ones(8), rtol=1e-6)
