"""The ring against a list in numpy that forgets nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import sources, train
from rljax.agents.online import dqn
from rljax.data import replay
from rljax.envs import probes
from rljax.types import Transition

ROWS, LENGTH, NUM_ENVS, GAMMA = 12, 3, 2, 0.9


def random_steps(rng, length):
    """Steps [length, NUM_ENVS]; an observation is a number that occurs once."""
    shape = length, NUM_ENVS
    terminated = rng.random(shape) < 0.2
    return Transition(
        observation=rng.normal(size=(*shape, 3)).astype(np.float32),
        action=rng.integers(0, 4, shape).astype(np.int32),
        reward=rng.normal(size=shape).astype(np.float32),
        terminated=terminated,
        truncated=(rng.random(shape) < 0.2) & ~terminated,
        next_observation=rng.normal(size=(*shape, 3)).astype(np.float32),
    )


def filled(num_adds, seed=0):
    """A ring after `num_adds` additions and all steps ever added, in order, [num_adds * LENGTH, NUM_ENVS]."""
    steps = random_steps(np.random.default_rng(seed), num_adds * LENGTH)
    example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), steps)
    ring = replay.init(example, ROWS)
    for i in range(num_adds):
        ring = replay.add(ring, jax.tree.map(lambda x, i=i: x[i * LENGTH : (i + 1) * LENGTH], steps))
    return ring, steps


@pytest.mark.parametrize("num_adds", [1, 3, 4, 5, 9])
def test_keeps_the_latest_rows(num_adds):
    ring, steps = filled(num_adds)
    kept = min(num_adds * LENGTH, ROWS)
    assert int(ring.filled) == kept
    expected = np.sort(steps.reward[-kept:].ravel())
    slots = jnp.arange(kept * NUM_ENVS)  # those said to hold data
    np.testing.assert_array_equal(np.sort(replay.read(ring, slots, GAMMA).transition.reward), expected)


def test_lengths_must_divide_the_rows():
    ring, steps = filled(1)
    with pytest.raises(ValueError, match="12 rows takes steps in lengths that divide it, not 5"):
        replay.add(ring, jax.tree.map(lambda x: np.concatenate([x, x])[:5], steps))


def test_added_slots_are_where_add_writes():
    ring, _ = filled(5)
    slots = replay.added_slots(ring, LENGTH)
    new = random_steps(np.random.default_rng(1), LENGTH)
    read = replay.read(replay.add(ring, new), slots, GAMMA)
    np.testing.assert_array_equal(read.transition.reward, new.reward.ravel())


def joined(steps, time, column, num_steps):
    """Brute force: walk from `time` until `num_steps` are done, the episode ends or nothing newer is known."""
    total, discount, t = 0.0, 1.0, time
    while True:
        total += discount * steps.reward[t, column]
        discount *= GAMMA
        if steps.terminated[t, column]:
            discount = 0.0
        if (
            steps.terminated[t, column]
            or steps.truncated[t, column]
            or t == time + num_steps - 1
            or t + 1 == len(steps.reward)
        ):
            return total, discount, t
        t += 1


@pytest.mark.parametrize("num_adds", [1, 3, 4, 5, 10])  # part filled, just full, wrapped, wrapped twice
@pytest.mark.parametrize("num_steps", [1, 3, 5])
def test_joins_agree_with_brute_force(num_adds, num_steps):
    ring, steps = filled(num_adds, seed=num_adds)
    kept = min(num_adds * LENGTH, ROWS)
    slots = np.arange(kept * NUM_ENVS)
    sample = jax.jit(replay.read, static_argnums=3)(ring, slots, GAMMA, num_steps)
    first_time = num_adds * LENGTH - kept
    for slot in slots:
        row, column = divmod(int(slot), NUM_ENVS)
        time = next(t for t in range(first_time, num_adds * LENGTH) if t % ROWS == row)
        reward, discount, last = joined(steps, time, column, num_steps)
        got = jax.tree.map(lambda x, slot=slot: np.asarray(x[slot]), sample)
        np.testing.assert_array_equal(got.transition.observation, steps.observation[time, column])
        np.testing.assert_array_equal(got.transition.action, steps.action[time, column])
        np.testing.assert_array_equal(got.transition.next_observation, steps.next_observation[last, column])
        np.testing.assert_allclose(got.transition.reward, reward, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got.discount, discount, rtol=1e-6)
        assert got.transition.terminated == steps.terminated[last, column]
        assert got.transition.truncated == steps.truncated[last, column]
        assert got.weight == 1.0 and got.slot == slot


@pytest.mark.parametrize("num_adds, num_steps", [(3, 1), (3, 3), (9, 3)])
def test_each_source_of_a_reward_is_summed_as_the_reward_is(num_adds, num_steps):
    steps = random_steps(np.random.default_rng(num_adds), num_adds * LENGTH)
    rewards = np.random.default_rng(0).normal(size=(*steps.reward.shape, 2)).astype(np.float32)
    steps = steps.replace(reward=rewards.sum(-1), extras={"rewards": rewards})
    ring = replay.init(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), steps), ROWS)
    for i in range(num_adds):
        ring = replay.add(ring, jax.tree.map(lambda x, i=i: x[i * LENGTH : (i + 1) * LENGTH], steps))
    kept = min(num_adds * LENGTH, ROWS)
    sample = jax.jit(replay.read, static_argnums=3)(ring, np.arange(kept * NUM_ENVS), GAMMA, num_steps)
    found = np.asarray(sample.transition.extras["rewards"])
    for slot in range(kept * NUM_ENVS):
        row, column = divmod(slot, NUM_ENVS)
        time = next(t for t in range(num_adds * LENGTH - kept, num_adds * LENGTH) if t % ROWS == row)
        alone = [joined(steps.replace(reward=rewards[..., i]), time, column, num_steps)[0] for i in range(2)]
        np.testing.assert_allclose(found[slot], alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.sum(-1), sample.transition.reward, rtol=1e-5, atol=1e-5)


def test_samples_only_what_is_filled_and_all_of_it_for_every_seed():
    ring, _ = filled(2)
    rings = jax.tree.map(lambda x: jnp.stack([x, x]), ring)
    keys = jax.random.split(jax.random.key(0), 2)
    slots = np.asarray(jax.vmap(lambda ring, key: replay.sample_uniform(ring, key, 6000))(rings, keys))
    assert (slots[0] != slots[1]).any()
    for row in slots:
        counts = np.bincount(row, minlength=ROWS * NUM_ENVS)
        assert (counts[2 * LENGTH * NUM_ENVS :] == 0).all()
        # 12 slots, 500 each: chi-square with 11 degrees of freedom is above 31.3 once in a thousand
        assert np.square(counts[:12] - 500.0).sum() / 500.0 < 31.3


def test_source_under_the_loop_and_seeds():
    env = probes.TwoStepCredit()
    config = dqn.Config(
        num_envs=3, rollout_length=2, num_updates=2, batch_size=4, capacity=20, warmup=7, prioritised=True
    )
    agent, source = dqn.make(env.spec, config), dqn.source(env, config)
    assert (source.env_steps, source.warmup_steps, source.num_batches) == (6, 12, 2)
    learner = train.make(agent, source)
    start, end = jax.jit(jax.vmap(lambda key: both_ends(learner, key)))(jax.random.split(jax.random.key(0), 2))
    ring = start.source[1]
    assert ring.data.reward.shape == (2, 8, 3)  # 20 transitions are 4 rollouts of 2 x 3
    assert ring.filled.tolist() == [4, 4]
    assert end.source[1].filled.tolist() == [8, 8]
    assert end.agent.updates.tolist() == [10, 10]


def both_ends(learner, key):
    state = learner.init(key)
    return state, learner.run(state, 5)[0]


def test_prioritised_replay_wants_priorities():
    env, config = probes.TwoStepCredit(), dqn.Config(num_envs=2, batch_size=4, capacity=20, warmup=4)
    source = sources.replay(
        env,
        num_envs=2,
        length=1,
        capacity=20,
        warmup=4,
        batch_size=4,
        num_batches=1,
        gamma=0.9,
        priority_exponent=0.6,
    )
    learner = train.make(dqn.make(env.spec, config), source)
    with pytest.raises(ValueError, match="returns a `priority` for each sample"):
        jax.eval_shape(lambda key: learner.step(learner.init(key)), jax.random.key(0))


@pytest.mark.parametrize("num_adds, num_steps", [(1, 1), (3, 1), (5, 1), (9, 1), (3, 3), (9, 3)])
def test_the_next_action_is_that_of_the_next_step_of_the_same_episode(num_adds, num_steps):
    ring, steps = filled(num_adds)
    kept = min(num_adds * LENGTH, ROWS)
    found = replay.next_action(ring, jnp.arange(kept * NUM_ENVS), num_steps)
    reward = np.asarray(replay.read(ring, jnp.arange(kept * NUM_ENVS), GAMMA).transition.reward)
    last = len(steps.reward) - 1
    for slot, value in enumerate(reward):
        ((row, env),) = np.argwhere(steps.reward == value)
        row = joined(steps, row, env, num_steps)[2]
        followed = row < last and not (steps.terminated | steps.truncated)[row, env]
        assert found["has_next"][slot] == followed
        assert found["next_action"][slot] == steps.action[row + 1 if followed else row, env]


def test_outcomes_end_with_the_episode_the_newest_row_or_after_so_many_steps():
    ring, steps = filled(9)
    slots = jnp.arange(ROWS * NUM_ENVS)
    found = replay.read_outcomes(ring, slots, jnp.float32(GAMMA), 3)
    reward = np.asarray(replay.read(ring, slots, GAMMA).transition.reward)
    for slot, value in enumerate(reward):
        ((row, env),) = np.argwhere(steps.reward == value)
        outcome, discount = 0.0, 1.0
        for row in range(int(row), min(row + 3, len(steps.reward))):  # noqa: B020
            outcome, discount = outcome + discount * steps.reward[row, env], discount * GAMMA
            if steps.terminated[row, env] or steps.truncated[row, env]:
                break
        np.testing.assert_allclose(found["outcome"][slot], outcome, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            found["outcome_discount"][slot], 0.0 if steps.terminated[row, env] else discount, rtol=1e-5
        )
        np.testing.assert_array_equal(found["outcome_observation"][slot], steps.next_observation[row, env])


def stretches(done, length):
    """First rows and lengths of all that may be drawn, of one environment's `done` in order: within an episode, or all of one."""
    found = {}
    for i in range(len(done)):
        ends = np.flatnonzero(done[i : i + length - 1])
        if len(ends) and i > 0 and done[i - 1]:
            found[i] = ends[0] + 1
        elif not len(ends) and i + length <= len(done):
            found[i] = length
    return found


@pytest.mark.parametrize("num_adds", [2, 4, 7])
def test_segments_lie_within_episodes_and_all_are_drawn_alike(num_adds):
    """Before the ring is full, when it just is, and after; against a search in the steps in order."""
    ring, steps = filled(num_adds, seed=3)
    kept = jax.tree.map(lambda x: x[-min(num_adds * LENGTH, ROWS) :], steps)
    length = 3
    expected = {}
    for column in range(NUM_ENVS):
        for row, count in stretches(kept.done[:, column], length).items():
            expected[float(kept.reward[row, column])] = kept.reward[row : row + count, column]
    draws = 4000
    found, mask = jax.jit(lambda key: replay.segments(ring, key, (draws // 2, 2), length))(jax.random.key(0))
    rewards, mask = np.asarray(found.reward).reshape(draws, length), np.asarray(mask).reshape(draws, length)
    assert set(rewards[:, 0].tolist()) == set(expected) and mask[:, 0].all()
    for reward, where in zip(rewards, mask):
        np.testing.assert_array_equal(reward[where], expected[float(reward[0])])
    counts = np.array([(rewards[:, 0] == first).sum() for first in expected])
    p = 1 / len(expected)
    assert (np.abs(counts / draws - p) < 5 * np.sqrt(p * (1 - p) / draws)).all()


def test_a_ring_without_segments_says_so():
    ring, _ = filled(1)
    assert not replay.segments(ring, jax.random.key(0), (5,), 10)[1].any()
    with pytest.raises(ValueError, match="12 steps of each environment has no segments of 13"):
        replay.segments(ring, jax.random.key(0), (5,), 13)


@pytest.mark.parametrize("num_adds", [1, 3, 4, 5, 10])
def test_segments_read_at_slots_end_with_the_episode_or_the_newest_row(num_adds):
    ring, steps = filled(num_adds, seed=num_adds)
    kept = min(num_adds * LENGTH, ROWS)
    first_time = num_adds * LENGTH - kept
    read, mask = jax.jit(replay.read_segments, static_argnums=2)(ring, np.arange(kept * NUM_ENVS), 4)
    assert mask.shape == (kept * NUM_ENVS, 4) and 4 < mask.sum() < mask.size
    for slot in range(kept * NUM_ENVS):
        row, column = divmod(slot, NUM_ENVS)
        time = next(t for t in range(first_time, num_adds * LENGTH) if t % ROWS == row)
        done = (steps.terminated | steps.truncated)[time : time + 4, column]
        length = int(np.argmax(done)) + 1 if done.any() else len(done)
        np.testing.assert_array_equal(mask[slot], np.arange(4) < length)
        for name in ("observation", "action", "reward", "terminated", "next_observation"):
            expected = getattr(steps, name)[time : time + length, column]
            np.testing.assert_array_equal(getattr(read, name)[slot, :length], expected)


@pytest.mark.parametrize("num_adds", [1, 5])  # part filled, wrapped
def test_statistics_are_of_all_that_is_kept(num_adds):
    ring, steps = filled(num_adds)
    found, kept = replay.statistics(ring), slice(-ROWS, None)
    np.testing.assert_allclose(found["reward_size"], np.abs(steps.reward[kept]).mean(), rtol=1e-6)
    assert found["terminates"] == steps.terminated[kept].any()
    never = ring.replace(data=ring.data.replace(terminated=jnp.zeros_like(ring.data.terminated)))
    assert not replay.statistics(never)["terminates"]
