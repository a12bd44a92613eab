"""Linear systems: steps by hand, and a controller that solves the Riccati equation and that nothing near it beats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from rljax.agents.behaviour import linear as optimal
from rljax.check import check_env
from rljax.envs import linear, make
from rljax.envs.linear import LinearState
from rljax.errors import UserError


def test_steps_by_hand():
    """A push of 1 for 0.1 s from (0.2, -0.1); what is asked beyond the box counts as its border."""
    env = linear.double_integrator(episode_length=5)
    check_env(env)
    state = LinearState(jnp.array([0.2, -0.1]), jnp.int32(3))
    for asked in (1.0, 7.0):
        following, step = env.step(state, jnp.array([asked]), jax.random.key(0))
        np.testing.assert_allclose(step.observation, [0.2 - 0.1 * 0.1 + 0.5 * 0.1**2, -0.1 + 0.1], atol=1e-7)
        np.testing.assert_allclose(step.reward, -(0.2**2 + 0.1 * 0.1**2 + 0.5), rtol=1e-6)
        assert not step.terminated and not step.truncated
    _, step = env.step(following, jnp.zeros(1), jax.random.key(0))
    assert step.truncated and not step.terminated


def test_starts_and_noise():
    env = make("rljax/DoubleIntegrator?dimensions=2&start=0.4&noise=0.05")
    check_env(env)
    state, observation = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_array_equal(state.position, observation)
    np.testing.assert_allclose(observation.std(0), np.full(4, 0.4 / np.sqrt(3)), rtol=0.05)
    step = lambda state, key: env.step(state, jnp.zeros(2), key)[1].observation
    after = jax.vmap(step)(state, jax.random.split(jax.random.key(1), 4000))
    np.testing.assert_allclose((after - observation @ env.dynamics.T).std(0), np.full(4, 0.05), rtol=0.05)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_the_controller_solves_the_riccati_equation(dimensions):
    env = linear.double_integrator(dimensions, discount=0.95)
    gain, cost = linear.riccati(env)
    a, b, q, r = (np.float64(x) for x in (env.dynamics, env.control, env.state_cost, env.control_cost))
    expected = scipy.linalg.solve_discrete_are(np.sqrt(0.95) * a, np.sqrt(0.95) * b, q, r)
    np.testing.assert_allclose(cost, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        gain, np.linalg.solve(r + 0.95 * b.T @ expected @ b, 0.95 * b.T @ expected @ a), rtol=1e-4, atol=1e-5
    )


def test_the_controller_costs_what_is_said_and_others_cost_more():
    env = linear.double_integrator(discount=0.9, episode_length=300)
    gain, cost = linear.riccati(env)
    agent = optimal.make(env)
    starts = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 8))[1]
    assert np.abs(starts @ gain.T).max() < 1.0  # it never asks for more than the box

    def paid(gain, start):
        def step(state, _):
            state, step = env.step(state, -gain @ state.position, jax.random.key(0))
            return state, step.reward

        return (0.9 ** jnp.arange(300) * jax.lax.scan(step, LinearState(start, jnp.int32(0)), length=300)[1]).sum()

    of_all = jax.jit(jax.vmap(paid, (None, 0)))
    best = of_all(gain, starts)
    np.testing.assert_allclose(best, -jnp.einsum("ni,ij,nj->n", starts, cost, starts), rtol=1e-4)
    for change in ((0.2, 0.0), (-0.2, 0.0), (0.0, 0.2), (0.0, -0.2)):
        assert (of_all(gain + jnp.array([change]), starts) < best).all()
    action, _, _ = agent.act((), starts, (), jax.random.key(0), False)
    np.testing.assert_allclose(action, -starts @ gain.T, rtol=1e-5, atol=1e-6)
    noisy, _, _ = agent.act((), jnp.zeros((4000, 2)), (), jax.random.key(0), True)
    assert float(noisy.std()) == pytest.approx(0.1, rel=0.05)


def test_what_cannot_be_is_refused():
    for options in ("dimensions=0", "control_cost=0.0"):
        with pytest.raises(UserError, match="control_cost=.* above 0"):
            make(f"rljax/DoubleIntegrator?{options}")
