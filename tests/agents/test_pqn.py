"""PQN: its targets by hand, and what it must learn on probes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import train
from rljax.agents.online import pqn
from rljax.envs import probes
from rljax.types import Continuous, Discrete, EnvSpec, Model, Rollout, Transition

SMALL = dict(
    learning_rate=1e-2, gamma=0.9, reward_scale=1.0, exploration_steps=1e9, anneal_learning_rate=False,
    num_envs=8, rollout_length=8, num_minibatches=4, hidden=(32,),
)  # fmt: skip


def learned(env, observations, num_iterations=60, **changes):
    """Q [observations, actions] after training."""
    config = pqn.Config(**{**SMALL, **changes})
    agent = pqn.make(env.spec, config)
    learner = train.make(agent, pqn.source(env, config))
    state, _ = jax.jit(lambda key: learner.run(learner.init(key), num_iterations))(jax.random.key(0))
    network = pqn.FeedForward(env.spec.action.num_actions, layer_norm=True, **pqn.structure(env.spec, config))
    return np.asarray(network.apply(state.agent.q.params, jnp.array(observations)[:, None]))


def test_credit_goes_back_two_steps():
    np.testing.assert_allclose(learned(probes.TwoStepCredit(), [0.0, 1.0]), [[0.9], [1.0]], atol=0.05)


def test_actions_are_told_apart():
    q = learned(probes.ObservationActionReward(), [-1.0, 1.0])
    np.testing.assert_allclose(q, [[1.0, -1.0], [-1.0, 1.0]], atol=0.1)


def test_a_time_limit_is_no_termination():
    q = learned(probes.TimeLimit(), [0.0], num_iterations=300, gamma=0.7)
    np.testing.assert_allclose(q, [[1 / 0.3]], atol=0.1)


def test_loss_by_hand():
    """Three steps in one environment, the second truncated; Q is linear in the observation, without layer norm."""
    spec = EnvSpec((1,), Discrete(2))
    config = pqn.Config(
        gamma=0.5, trace=0.8, reward_scale=2.0, hidden=(), num_epochs=1, num_minibatches=1, anneal_learning_rate=False
    )
    agent = pqn.make(spec, config)
    column = lambda *x: jnp.array(x)[:, None]
    steps = Transition(
        observation=column([1.0], [2.0], [0.0]),
        action=column(0, 1, 0),
        reward=column(1.0, 2.0, 3.0),
        terminated=column(False, False, True),
        truncated=column(False, True, False),
        next_observation=column([2.0], [3.0], [9.0]),
    )
    kernel = {"kernel": jnp.array([[1.0, 2.0]]), "bias": jnp.zeros(2)}
    state = agent.init(jax.random.key(0))
    params = jax.tree.map(lambda old, new: new, state.q.params, {"params": {"Dense_0": kernel}})
    state = state._replace(q=Model(params, state.q.opt_state))
    _, metrics = agent.update(state, Rollout(steps, ()), jax.random.key(1))
    second = 2.0 * 2.0 + 0.5 * 6.0  # max Q of [3] is 6: cut off, not ended
    first = 2.0 * 1.0 + 0.5 * (0.2 * 4.0 + 0.8 * second)  # max Q of [2] is 4
    third = 2.0 * 3.0
    errors = np.array([first - 1.0, second - 4.0, third - 0.0])
    np.testing.assert_allclose(metrics["loss/q"], 0.5 * np.square(errors).mean(), rtol=1e-5)


def test_continuous_actions_are_refused():
    with pytest.raises(ValueError, match="PQN is for discrete actions"):
        pqn.make(EnvSpec((3,), Continuous((2,))))
