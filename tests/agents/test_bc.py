"""Cloning against what is known of the data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.offline import bc
from rljax.data import dataset as dataset_lib
from rljax.envs import probes
from rljax.types import Continuous, Discrete, EnvSpec, Transition

SMALL = bc.Config(learning_rate=3e-3, hidden=(32,), batch_size=64, num_updates=4)


def data(action):
    """One-step episodes in which the observations -1 and 1 alternate."""
    size = len(action)
    observation = np.where(np.arange(size) % 2 == 0, -1.0, 1.0).astype(np.float32)[:, None]
    yes = np.ones(size, bool)
    return dataset_lib.from_transitions(
        Transition(observation, action, np.zeros(size, np.float32), yes, ~yes, observation)
    )


def test_discrete_policy_has_the_frequencies_of_the_data(learn_offline):
    """After -1 three of four actions are 2, after 1 all are 0."""
    after = np.array([2, 0, 2, 0, 2, 0, 1, 0] * 8)
    env = dataclasses.make_dataclass("Env", ["spec"])(EnvSpec((1,), Discrete(3)))
    agent, state = learn_offline(bc, SMALL, env, data(after), 500)
    action, _, _ = agent.act(state, jnp.tile(jnp.array([[-1.0], [1.0]]), (4000, 1)), (), jax.random.key(0), True)
    drawn = np.asarray(action).reshape(-1, 2)
    np.testing.assert_allclose(np.bincount(drawn[:, 0], minlength=3) / 4000, [0.0, 0.25, 0.75], atol=0.05)
    assert (drawn[:, 1] == 0).mean() > 0.97
    greedy, _, _ = agent.act(state, jnp.array([[-1.0], [1.0]]), (), jax.random.key(0), False)
    assert greedy.tolist() == [2, 0]


def test_continuous_policy_is_the_normal_of_the_data(learn_offline):
    """Most likely: mean of the actions after each observation, and one deviation for both."""
    noise = np.random.default_rng(0).normal(0.0, 0.2, 4000)
    actions = np.clip(np.where(np.arange(4000) % 2 == 0, -0.3, 0.4) + noise, -1.0, 1.0).astype(np.float32)[:, None]
    env = probes.ObservationActionReward(continuous=True)
    assert isinstance(env.spec.action, Continuous)
    agent, state = learn_offline(bc, SMALL, env, data(actions), 1000)
    mean, _, _ = agent.act(state, jnp.array([[-1.0], [1.0]]), (), jax.random.key(0), False)
    np.testing.assert_allclose(mean[:, 0], [actions[::2].mean(), actions[1::2].mean()], atol=0.03)
    assert float(jnp.exp(state.params["params"]["log_std"][0])) == pytest.approx(0.2, abs=0.02)


def test_the_best_tenth_alone_is_cloned(learn_offline):
    """Returns say which half of the data is good; its action is 1, the other's 0."""
    size = 400
    good = np.arange(size) >= size // 2
    steps = data(good.astype(np.int32)).transition.replace(reward=jnp.float32(good))
    whole = dataset_lib.from_transitions(steps)
    best = dataset_lib.weighted(whole, dataset_lib.top_weights(whole, 0.1))
    env = probes.ObservationActionReward()
    agent, state = learn_offline(bc, SMALL, env, best, 300)
    action, _, _ = agent.act(state, jnp.zeros((1000, 1)), (), jax.random.key(0), True)
    assert (np.asarray(action) == 1).mean() > 0.97
