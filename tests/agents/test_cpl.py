"""CPL against the policy that judgements by regret were made of, and its relatives against what sets them apart."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.preference import cpl
from rljax.check import check_agent
from rljax.data import dataset as dataset_lib
from rljax.data import feedback as feedback_lib
from rljax.data.feedback import Feedback, Judged
from rljax.envs import tabular
from rljax.errors import UserError
from rljax.evaluate import agreement
from rljax.tabular import solvers
from rljax.types import Continuous, EnvSpec, Transition

GRID = tabular.gridworld(3, 3, discount=0.9)
SMALL = cpl.Config(
    learning_rate=3e-3, hidden=(64,), batch_size=256, num_updates=8, clone_updates=0.0, bias=1.0, segment=2
)


def soft_optimum(alpha):
    """pi* [S, A], and the optimal advantages of which it is exp(A / alpha)."""
    rule = lambda q: solvers.soft_value(q, alpha)
    q = solvers.optimal_q(GRID.transition, GRID.reward, GRID.discount, rule)
    return np.asarray(solvers.soft_policy(q, alpha)), np.asarray(q - rule(q)[:, None])


def by_regret(pairs_of_segments, alpha, seed=0, count=6000):
    """Judgements of pairs of two steps, anywhere, with the exact likelihood of each order as its weight."""
    _, advantage = soft_optimum(alpha)
    steps, start, score = pairs_of_segments(advantage, count, seed)
    second = 1.0 / (1.0 + np.exp(score[:, 0] - score[:, 1]))
    twice = lambda x: jnp.asarray(np.concatenate([x, x]))
    feedback = Feedback(
        twice(start),
        twice(np.full_like(start, 2)),
        jnp.asarray(np.repeat([[1, 0], [0, 1]], count, axis=0)),
        jnp.asarray(np.concatenate([second, 1.0 - second]), jnp.float32),
        jnp.zeros(2 * count, jnp.int32),
        2,
    )
    return dataset_lib.from_transitions(steps).replace(feedback=feedback)


def probabilities(agent, state, spec):
    every = jnp.eye(spec.observation_shape[0])
    return np.exp(
        np.stack([agent.log_prob(state, every, jnp.full(len(every), a)) for a in range(spec.action.num_actions)], 1)
    )


def learned(config, data, updates):
    """A policy, after so many updates on all judgements at once."""
    agent = cpl.make(GRID.spec, config)

    @jax.jit
    def run(data):
        every = feedback_lib.read(data, jnp.arange(data.feedback.size), jax.random.key(0))
        update = lambda state, _: (agent.update(state, every, None)[0], None)
        return jax.lax.scan(update, agent.init(jax.random.key(0)), length=updates)[0]

    return probabilities(agent, run(data), GRID.spec)


def test_plentiful_judgements_by_regret_give_the_optimal_soft_policy(pairs_of_segments):
    """And nothing else would: the same judgements at the wrong alpha give another one."""
    data = by_regret(pairs_of_segments, alpha=0.3, count=600)
    optimum, _ = soft_optimum(0.3)
    ends = np.asarray(GRID.terminal)
    distance = lambda config, updates: np.abs(learned(config, data, updates) - optimum)[~ends].sum(1).max()
    assert distance(SMALL.replace(alpha=0.3), 500) < 1e-3
    assert distance(SMALL.replace(alpha=1.0), 200) > 0.3


def batch(spec, count=6, length=3, seed=0):
    """Judged rankings of three segments, the last step of the last one missing."""
    keys = iter(jax.random.split(jax.random.key(seed), 9))
    shape = (count, 3, length)
    if isinstance(spec.action, Continuous):
        action = jax.random.uniform(next(keys), (*shape, spec.action.size), minval=-1.0)
    else:
        action = jax.random.randint(next(keys), shape, 0, spec.action.num_actions)
    observation = jax.random.normal(next(keys), (*shape, *spec.observation_shape))
    zeros = jnp.zeros(shape)
    steps = Transition(observation, action, zeros, zeros > 0, zeros > 0, observation)
    mask = jnp.ones(shape, bool).at[:, 2, -1].set(False)
    rank = jax.random.permutation(next(keys), jnp.tile(jnp.arange(3), (count, 1)), axis=1, independent=True)
    return Judged(steps, mask, rank, jnp.linspace(0.5, 1.5, count), jnp.zeros(count, jnp.int32))


CONTINUOUS = EnvSpec((2,), Continuous((2,)))


def test_the_loss_is_that_of_sums_of_squared_distances():
    config = SMALL.replace(alpha=0.7, bias=0.5, gamma=0.9, clone_weight=0.3)
    agent, judged = cpl.make(CONTINUOUS, config), batch(CONTINUOUS)
    state = agent.init(jax.random.key(1))
    _, metrics = jax.jit(agent.update)(state, judged, jax.random.key(2))
    flat = judged.transition.observation.reshape(-1, 2)
    mean = agent.act(state, flat, (), jax.random.key(0), False)[0].reshape(6, 3, 3, 2)
    near = -np.square(np.asarray(mean - judged.transition.action)).sum(-1) * np.asarray(judged.mask)
    score = 0.7 * (near * 0.9 ** np.arange(3)).sum(-1)
    losses = []
    for i in range(6):
        ordered = score[i][np.argsort(judged.rank[i])]
        pairs = [np.log1p(np.exp(0.5 * ordered[b] - ordered[a])) for a, b in itertools.combinations(range(3), 2)]
        losses.append(np.mean(pairs) * float(judged.weight[i]))
    clone = -near.sum() / judged.mask.sum()
    np.testing.assert_allclose(metrics["loss/policy"], np.mean(losses) + 0.3 * clone, rtol=1e-4)


def test_what_is_masked_changes_nothing():
    agent, judged = cpl.make(CONTINUOUS, SMALL), batch(CONTINUOUS)
    other = jnp.where(judged.mask[..., None], judged.transition.action, 0.77)
    changed = Judged(judged.transition.replace(action=other), judged.mask, judged.rank, judged.weight, judged.rater)
    state = agent.init(jax.random.key(1))
    update = jax.jit(agent.update)
    jax.tree.map(
        np.testing.assert_array_equal,
        update(state, judged, jax.random.key(2)),
        update(state, changed, jax.random.key(2)),
    )


@pytest.mark.parametrize("supervised", [False, True])
def test_it_clones_first_and_supervised_goes_on_with_the_best(supervised):
    """The first updates are the same whatever was judged; later ones are not, and SFT's see the best segments alone."""
    config = SMALL.replace(clone_updates=1.0, supervised=supervised)
    agent, judged = cpl.make(CONTINUOUS, config), batch(CONTINUOUS)
    turned = Judged(judged.transition, judged.mask, 2 - judged.rank, judged.weight, judged.rater)
    update = jax.jit(agent.update)
    start = agent.init(jax.random.key(1))
    one, other = (update(start, given, jax.random.key(2)) for given in (judged, turned))
    jax.tree.map(np.testing.assert_array_equal, one[0], other[0])
    np.testing.assert_array_equal(one[1]["loss/policy"], one[1]["loss/clone"])
    later, _ = update(one[0], judged, jax.random.key(3))
    later_turned, _ = update(one[0], turned, jax.random.key(3))
    moved = lambda a, b: max(np.abs(x - y).max() for x, y in zip(jax.tree.leaves(a.policy), jax.tree.leaves(b.policy)))
    assert moved(later, later_turned) > 0.0
    if supervised:
        best = judged.rank[..., None, None] == 0
        noise = jnp.where(best, judged.transition.action, -0.5)
        blurred = Judged(judged.transition.replace(action=noise), judged.mask, judged.rank, judged.weight, judged.rater)
        jax.tree.map(np.testing.assert_array_equal, update(one[0], blurred, jax.random.key(3))[0], later)


def test_a_reference_is_the_clone_and_stays():
    """While it clones the reference follows, then it rests, and scores begin at 0."""
    config = SMALL.replace(clone_updates=2.0, from_reference=True)
    agent, judged = cpl.make(CONTINUOUS, config), batch(CONTINUOUS)
    update = jax.jit(agent.update)
    states = [agent.init(jax.random.key(1))]
    for i in range(5):
        states.append(update(states[-1], judged, jax.random.key(i))[0])
    same = lambda a, b: all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))
    assert same(states[2].reference, states[1].policy.params)
    assert same(states[4].reference, states[3].reference) and same(states[5].reference, states[3].reference)
    assert not same(states[5].policy.params, states[5].reference)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), judged.transition)
    at_first = states[2]._replace(reference=states[2].policy.params)
    np.testing.assert_allclose(agent.reward(at_first, flat), 0.0, atol=1e-7)


def test_its_reward_orders_segments_as_they_were_judged(learn_offline, pairs_of_segments):
    data = by_regret(pairs_of_segments, alpha=0.3, count=500)
    sure = data.feedback.replace(rank=jnp.where(data.feedback.weight[:, None] > 0.5, data.feedback.rank, 0))
    agent, state = learn_offline(cpl, SMALL.replace(alpha=0.3), GRID, data, 200)
    check_agent(agent, GRID, cpl.source(GRID, SMALL, data))
    assert float(jax.jit(lambda data: agreement(agent, state, data))(data.replace(feedback=sure))) > 0.9


def test_an_unknown_likelihood_is_refused():
    with pytest.raises(UserError, match="There is no likelihood 'pairwize'; .*pairwise"):
        cpl.make(CONTINUOUS, SMALL.replace(likelihood="pairwize"))
