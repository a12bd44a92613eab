"""Off-policy DAE: probes, and the exact values, advantages and luck of a game of chance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import train
from rljax.agents.online import dae
from rljax.envs import probes, tabular
from rljax.types import Continuous, Discrete, EnvSpec, Transition

SMALL = dict(
    hidden=(32,), learning_rate=1e-2, target_rate=0.1, target_period=1, huber_delta=1e6, exploration_steps=1e9, num_envs=4,
    batch_size=64, capacity=1600, warmup=200, num_steps=3, num_outcomes=3,
)  # fmt: skip


def learned(env, iterations, **changes):
    config = dae.Config(**SMALL | changes)
    agent = dae.make(env.spec, config)
    learner = train.make(agent, dae.source(env, config))
    state = jax.jit(lambda key: learner.run(learner.init(key), iterations)[0])(jax.random.key(0))
    return agent, dae.Parts(env.spec, config), state.agent


def policy_values(parts, state, observation):
    """V, and advantages centred under the policy [B, A]."""
    value, raw = parts.values(state.q.params, observation)
    probs = jax.nn.softmax(parts.values(state.target, observation)[1] / parts.config.temperature)
    return value, raw - (probs * raw).sum(-1, keepdims=True), probs


def gamble():
    """From 0: the first action leads to 1, which pays 1, or as likely to 2, which pays -1; the second to 3, which pays 0.3.
    Half of those who have come to 3 find that it is the end before it pays, and are paid nothing."""
    transition = np.zeros((5, 2, 5))
    transition[0, 0, [1, 2]], transition[0, 1, [3, 4]] = 0.5, 0.5
    transition[1:, :, 4] = 1.0
    reward = np.zeros((5, 2))
    reward[1:4] = [[1.0], [-1.0], [0.6]]
    return tabular.TabularMDP(
        transition=jnp.float32(transition), reward=jnp.float32(reward), discount=jnp.float32(0.9),
        start=jnp.eye(5)[0], terminal=jnp.arange(5) == 4, episode_length=10, one_hot=True,
    )  # fmt: skip


def test_a_gamble_is_taken_apart():
    agent, parts, state = learned(gamble(), 2_000, gamma=0.9, hidden=(64,))
    values, advantages, probs = policy_values(parts, state, jnp.eye(5)[:4])
    q = 0.9 * np.array([0.0, 0.3])
    expected = probs[0] @ q
    np.testing.assert_allclose(values, [expected, 1.0, -1.0, 0.6], atol=0.1)
    np.testing.assert_allclose(advantages[0], q - expected, atol=0.1)
    action, _, _ = agent.act(state, jnp.eye(5)[:1], (), jax.random.key(0), False)
    assert action[0] == 1
    following = jnp.array([1, 2, 3, 4])
    ended, one_hot = following == 4, jnp.eye(5)
    steps = Transition(
        one_hot[jnp.zeros(4, int)], jnp.array([0, 0, 1, 1]), jnp.zeros(4), ended, jnp.zeros(4, bool), one_hot[following]
    )
    luck, _ = parts.luck(state.q.params, steps)
    np.testing.assert_allclose(luck, [1.0, -1.0, 0.3, -0.3], atol=0.15)  # to end early is bad luck


def test_the_better_action_is_found():
    agent, parts, state = learned(probes.ObservationActionReward(), 400, gamma=0.9, luck=False)
    observation = jnp.array([[-1.0], [1.0]])
    np.testing.assert_array_equal(agent.act(state, observation, (), jax.random.key(0), False)[0], [0, 1])
    values, advantages, _ = policy_values(parts, state, observation)
    np.testing.assert_allclose(values[:, None] + advantages, [[1.0, -1.0], [-1.0, 1.0]], atol=0.1)


def test_a_time_limit_is_no_termination():
    _, parts, state = learned(probes.TimeLimit(), 800, gamma=0.7, luck=False)
    np.testing.assert_allclose(parts.values(state.q.params, jnp.zeros((1, 1)))[0], 1 / 0.3, atol=0.1)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="DAE is for discrete actions"):
        dae.make(EnvSpec((3,), Continuous((2,))))
    with pytest.raises(ValueError, match="num_outcomes=1 must be at least 2"):
        dae.make(EnvSpec((3,), Discrete(2)), dae.Config(num_outcomes=1))
    with pytest.raises(ValueError, match="double=True"):
        dae.make(EnvSpec((3,), Discrete(2)), dae.Config(double=True))
