"""The likelihoods that agents tell are those of the actions that they draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.data.collect import uniform
from rljax.envs import probes
from rljax.experiments import catalog
from rljax.types import Continuous, Discrete, EnvSpec

DISCRETE = ("ppo", "sac", "dqn", "bc", "iql", "awac", "cql", "odice")
CONTINUOUS = ("ppo", "sac", "bc", "iql", "awac", "cql", "odice")
DRAWS = 20_000
OBSERVATION = jnp.array([2.0, -1.0, 0.5])


def made(name, action):
    """An agent with small networks, and its state."""
    changes = {"hidden": (8,)} | ({"epsilon_start": 0.4} if name == "dqn" else {})
    agent = catalog.agent(name).make(EnvSpec((3,), action, 10), catalog.configure(name, changes))
    return agent, agent.init(jax.random.key(1))


def draws(agent, state, explore):
    observation = jnp.broadcast_to(OBSERVATION, (DRAWS, 3))
    return np.asarray(jax.jit(agent.act, static_argnums=4)(state, observation, (), jax.random.key(2), explore)[0])


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize("name", DISCRETE)
def test_of_discrete_actions(name, explore):
    agent, state = made(name, Discrete(3))
    observation = jnp.broadcast_to(OBSERVATION, (3, 3))
    chances = np.exp(agent.log_prob(state, observation, jnp.arange(3), explore))
    frequencies = np.bincount(draws(agent, state, explore), minlength=3) / DRAWS
    assert chances.sum() == pytest.approx(1.0, abs=1e-5) and (chances.max() == 1.0) == (not explore)
    np.testing.assert_allclose(frequencies, chances, atol=0.015)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_of_continuous_actions(name):
    """The density, integrated between points inside of the box, against the share of actions there."""
    agent, state = made(name, Continuous((1,)))
    actions = draws(agent, state, True)[:, 0]
    observation = jnp.broadcast_to(OBSERVATION, (2001, 3))
    points = np.quantile(actions[np.abs(actions) < 0.99], [0.05, 0.5, 0.95]).astype(np.float32)
    for low, high in zip(points, points[1:]):
        grid = np.linspace(low, high, 2001, dtype=np.float32)
        density = np.exp(agent.log_prob(state, observation, jnp.array(grid)[:, None], True))
        share = ((actions > low) & (actions < high)).mean()
        assert share > 0.05 and np.trapezoid(density, grid) == pytest.approx(share, abs=0.015)
    with pytest.raises(ValueError, match="A deterministic policy of continuous actions has no density"):
        agent.log_prob(state, observation, jnp.array(grid)[:, None], False)


def test_of_uniform_actions():
    for env, chance in ((probes.ActionReward(), 0.5), (probes.ActionReward(continuous=True), 0.5)):
        found = uniform(env).log_prob((), jnp.zeros((4, 1)), None, True)
        np.testing.assert_allclose(found, [np.log(chance)] * 4, rtol=1e-6)


def test_a_memory_or_no_density_means_not_known():
    spec = EnvSpec((3,), Continuous((1,)), 10)
    assert catalog.agent("td3").make(spec).log_prob is None
    ppo = catalog.agent("ppo")
    assert ppo.make(spec, ppo.Config(memory=4)).log_prob is None and ppo.make(spec).log_prob is not None
