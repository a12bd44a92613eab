"""DecQN and REValueD: best actions and targets over all joint actions, losses by numpy, and what they learn."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import train
from rljax.agents.online import decqn, revalued
from rljax.envs import probes
from rljax.types import Continuous, Discrete, EnvSpec, Sample, Transition

SPEC = EnvSpec((3,), Continuous((3,), -2.0, 2.0))
SMALL = dict(hidden=(8,), learning_rate=1e-2, huber_delta=0.05)
BINS = np.array([-2.0, 0.0, 2.0])
JOINT = np.array(list(itertools.product(range(3), repeat=3)))  # [27, D]


def batch(size=12):
    """Random transitions by actions at random; every second one terminated; weights that differ."""
    rng = np.random.default_rng(0)
    terminated = np.arange(size) % 2 == 0
    steps = Transition(
        rng.normal(size=(size, 3)), BINS[rng.integers(0, 3, (size, 3))], rng.normal(size=size), terminated,
        np.zeros(size, bool), rng.normal(size=(size, 3)),
    )  # fmt: skip
    sample = Sample(steps, 0.9 * (1.0 - terminated), np.linspace(0.5, 1.5, size), np.arange(size))
    return jax.tree.map(lambda x: jnp.asarray(x, {"f": jnp.float32, "i": jnp.int32, "b": bool}[x.dtype.kind]), sample)


def joint_values(config, params, observation):
    """Of all joint actions by each critic, [E, B, 27], and the utilities [E, B, D, bins]."""
    output = np.float64(decqn.network(SPEC, config).apply(params, observation))
    utilities = output.reshape(*output.shape[:2], 3, config.num_bins)
    return np.stack([sum(utilities[:, :, i, one[i]] for i in range(3)) / 3 for one in JOINT], -1), utilities


@pytest.mark.parametrize(
    "config", [decqn.Config(**SMALL), revalued.Config(**SMALL, num_critics=4)], ids=["decqn", "revalued"]
)
def test_best_actions_targets_and_losses_over_all_joint_actions(config):
    agent, given = decqn.make(SPEC, config), batch()
    state = agent.init(jax.random.key(0))
    other = agent.init(jax.random.key(1)).target
    state, steps = state._replace(target=other), given.transition
    q, utilities = joint_values(config, state.q.params, steps.observation)
    best, _, _ = agent.act(state, steps.observation, (), jax.random.key(0), False)
    np.testing.assert_array_equal(best, BINS[JOINT[q.mean(0).argmax(-1)]])

    after, _ = joint_values(config, other, steps.next_observation)
    online, _ = joint_values(config, state.q.params, steps.next_observation)
    after, chosen = after.mean(0), (online if config.double else after).mean(0).argmax(-1)
    target = np.float64(steps.reward) + np.float64(given.discount) * after[np.arange(12), chosen]
    index = np.searchsorted(BINS, steps.action)
    of_taken = lambda x: np.take_along_axis(x, index[None, ..., None], -1)[..., 0]  # [E, B, D]
    taken = of_taken(utilities)
    error = np.abs(target - taken.mean(-1))
    expected = np.where(error <= 0.05, 0.5 * error**2, 0.05 * (error - 0.025))
    if config.regularised:
        old = of_taken(joint_values(config, other, steps.observation)[1])
        weight = 1.0 - np.exp(-np.abs(target[:, None] - taken))
        expected = expected + 0.5 * (weight * (taken - old) ** 2).sum(-1)
    _, metrics = jax.jit(agent.update)(state, given, jax.random.key(0))
    np.testing.assert_allclose(metrics["loss/q"], (np.float64(given.weight) * expected.sum(0)).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["priority"], error.mean(0), rtol=1e-4)


def test_exploration_is_of_all_dimensions_at_once_and_by_one_critic():
    config = revalued.Config(**SMALL, num_critics=2, epsilon_start=0.4, epsilon_end=0.4)
    agent = decqn.make(SPEC, config)
    state = agent.init(jax.random.key(0))
    observation = jnp.broadcast_to(jnp.array([0.3, -1.0, 2.0]), (20_000, 3))
    q, _ = joint_values(config, state.q.params, observation[:1])
    greedy = BINS[JOINT[q[:, 0].argmax(-1)]]  # by each critic
    assert (greedy[0] != greedy[1]).any()
    action, _, _ = jax.jit(agent.act, static_argnums=4)(state, observation, (), jax.random.key(0), True)
    assert set(np.unique(action)) == set(BINS)
    for one in greedy:
        np.testing.assert_allclose((action == one).all(-1).mean(), 0.5 * 0.6 + 0.4 / 27, atol=0.012)


def test_q_is_the_nearest_sum_of_utilities():
    """A bandit of two dimensions whose joint rewards are no such sum; by least squares over all of its nine actions."""
    spec, reward = EnvSpec((1,), Continuous((2,))), np.random.default_rng(1).normal(size=(3, 3))
    joint = np.array(list(itertools.product(range(3), repeat=2)))
    action = jnp.array(joint - 1.0, jnp.float32)
    yes, blank = jnp.ones(9, bool), jnp.ones((9, 1))
    steps = Transition(blank, action, jnp.array(reward[*joint.T], jnp.float32), yes, ~yes, blank)
    given = Sample(steps, jnp.zeros(9), jnp.ones(9), jnp.arange(9))
    config = decqn.Config(hidden=(), learning_rate=0.05, huber_delta=1e6)
    agent = decqn.make(spec, config)
    step = lambda state, key: (agent.update(state, given, key)[0], ())
    keys = jax.random.split(jax.random.key(0), 500)
    state = jax.jit(lambda keys: jax.lax.scan(step, agent.init(keys[0]), keys)[0])(keys)
    utilities = np.asarray(decqn.network(spec, config).apply(state.q.params, blank[:1]))[0, 0].reshape(2, 3)
    nearest = reward.mean(1, keepdims=True) + reward.mean(0) - reward.mean()
    np.testing.assert_allclose((utilities[0][:, None] + utilities[1]) / 2, nearest, atol=1e-3)
    best, _, _ = agent.act(state, blank[:1], (), jax.random.key(0), False)
    np.testing.assert_array_equal(best[0] + 1, np.unravel_index(nearest.argmax(), (3, 3)))


def learned(module, env, observations, iterations, **changes):
    """Q [observations, bins] of the one dimension of a probe, and the best actions."""
    config = module.Config(
        hidden=(32,), learning_rate=1e-2, target_rate=0.1, huber_delta=1e6, exploration_steps=1e9, num_envs=4,
        batch_size=32, capacity=800, warmup=100, importance_steps=1600.0, **changes,
    )  # fmt: skip
    agent = module.make(env.spec, config)
    learner = train.make(agent, module.source(env, config))
    state = jax.jit(lambda key: learner.run(learner.init(key), iterations)[0])(jax.random.key(0))
    observation = jnp.array(observations)[:, None]
    q = decqn.network(env.spec, config).apply(state.agent.q.params, observation).mean(0)
    replay = state.source[1]
    assert (np.abs(np.asarray(replay.data.action) * (config.num_bins - 1) % 2 - (config.num_bins - 1) % 2) < 1e-5).all()
    return q, agent.act(state.agent, observation, (), jax.random.key(0), False)[0]


@pytest.mark.parametrize("module", [decqn, revalued])
def test_the_best_of_five_values_is_found(module):
    changes = dict(num_bins=5, gamma=0.9) | ({"num_critics": 3} if module is revalued else {})
    env = probes.ObservationActionReward(continuous=True)
    q, action = learned(module, env, [-1.0, 1.0], 600, **changes)
    np.testing.assert_allclose(action, [[-0.5], [0.5]], atol=1e-6)
    bins = np.linspace(-1.0, 1.0, 5)
    np.testing.assert_allclose(q, -np.square(bins - np.array([[-0.5], [0.5]])), atol=0.1)


def test_a_time_limit_is_no_termination():
    q, _ = learned(decqn, probes.TimeLimit(continuous=True), [0.0], 1_000, gamma=0.7)
    np.testing.assert_allclose(q, [[1 / 0.3] * 3], atol=0.1)  # taken for a termination it is far below


def test_what_cannot_be_is_refused():
    with pytest.raises(
        ValueError, match="DecQN cuts continuous actions into a few, and this environment's are discrete"
    ):
        decqn.make(EnvSpec((3,), Discrete(2)))
    with pytest.raises(ValueError, match="num_bins=1 must be at least 2"):
        revalued.make(SPEC, revalued.Config(num_bins=1))
