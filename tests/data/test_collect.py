"""What is recorded is what was done."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from rljax import distributions
from rljax.data.collect import collect
from rljax.envs import make as make_env
from rljax.networks.policies import log_prob_of
from rljax.types import Agent


def test_actions_are_as_the_environment_takes_them_and_as_likely_as_that():
    env = make_env("gymnax/Pendulum-v1")
    policy = lambda observation: distributions.normal(
        jnp.full((len(observation), 1), 0.5), jnp.full((len(observation), 1), 0.0)
    )

    def act(state, observation, memory, key, explore=True):
        return policy(observation).sample(seed=key), memory, {}

    def log_prob(state, observation, action, explore=True):
        return log_prob_of(policy(observation), env.spec, action, explore)

    agent = Agent(lambda key: (), act, None, log_prob=log_prob)
    steps = jax.jit(lambda key: collect(env, agent, (), key, 16, 100, True))(jax.random.key(0))
    action, told = np.asarray(steps.action)[:, 0], np.asarray(steps.extras["log_prob"])
    assert np.abs(action).max() == 1.0
    for border, chance in ((action == 1.0, norm.sf(0.5)), (action == -1.0, norm.cdf(-1.5))):
        assert abs(border.mean() - chance) < 0.05
        np.testing.assert_allclose(told[border], np.log(chance), rtol=1e-5)
    inside = np.abs(action) < 1.0
    np.testing.assert_allclose(told[inside], norm.logpdf(action[inside], 0.5), rtol=1e-4)
