"""Losses over sampled paths equal what they stand for where all paths are sampled: exact likelihoods and divergences,
differentiated through the exact solution of a small MDP."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import paths
from rljax.tabular import solvers

STATES, ACTIONS, HORIZON, START = 3, 2, 4, 1


def all_paths(coins):
    """Visits [M, S, A] of all paths from START, alike likely under uniform actions, and P [S, A, S]. With `coins` each action leads
    to one of two states by the toss of a coin, else to the first."""
    successor = np.array([[[1, 2], [2, 0]], [[0, 1], [2, 2]], [[0, 1], [1, 2]]])
    successor = successor if coins else successor[..., :1]
    visits = []
    for choice in itertools.product(range(ACTIONS), range(successor.shape[-1]), repeat=HORIZON):
        visit, state = np.zeros((STATES, ACTIONS)), START
        for action, toss in zip(choice[::2], choice[1::2]):
            visit[state, action] += 1
            state = successor[state, action, toss]
        visits.append(visit)
    return np.array(visits), jnp.asarray(np.eye(STATES)[successor].mean(2))


@pytest.mark.parametrize("coins", [False, True])
def test_the_likelihoods_gradient_is_exact_where_all_paths_are_sampled(coins, float64):
    visits, transition = all_paths(coins)
    rng = np.random.default_rng(0)
    reward, demos = jnp.asarray(rng.normal(size=(STATES, ACTIONS))), visits[rng.integers(0, len(visits), 5)]
    log_density = jnp.full(len(visits), -HORIZON * np.log(ACTIONS))

    def exact(reward):
        q = solvers.path_q_until(transition, reward, HORIZON)
        return solvers.soft_value(q[0, START]) - (demos * reward).sum((1, 2)).mean()

    def sampled(reward):
        returns = lambda visits: (visits * reward).sum((1, 2))
        return paths.log_partition(returns(visits), log_density) - returns(demos).mean()

    np.testing.assert_allclose(sampled(reward), exact(reward), rtol=1e-10)
    gradient = jax.grad(sampled)(reward)
    np.testing.assert_allclose(gradient, jax.grad(exact)(reward), atol=1e-10)
    weight = paths.path_weights((visits * reward).sum((1, 2)), log_density)
    np.testing.assert_allclose(gradient, np.einsum("m,msa->sa", weight, visits) - demos.mean(0), atol=1e-10)


def test_any_sampler_gives_the_partition_function_in_the_mean(float64):
    rng = np.random.default_rng(1)
    returns, density = jnp.asarray(rng.normal(size=4)), np.array([0.1, 0.2, 0.3, 0.4])
    drawn = np.repeat(range(4), [1, 2, 3, 4])
    found = paths.log_partition(returns[drawn], jnp.log(density)[drawn])
    np.testing.assert_allclose(found, np.log(np.exp(returns).sum()), rtol=1e-12)


def test_demonstrations_among_the_samples_change_nothing_once_the_reward_is_right(float64):
    """Ten demonstrations of four paths as often as the reward says, twenty samples that are uniform."""
    returns = jnp.log(jnp.arange(1.0, 5.0))
    demos, own = np.repeat(range(4), [1, 2, 3, 4]), np.repeat(range(4), 5)
    sampled, log_prob = np.concatenate([own, demos]), jnp.full(30, np.log(0.25))

    def loss(returns):
        partition = paths.log_partition(returns[own], log_prob[:20])
        density = jax.vmap(paths.joint_log_density, (0, 0, None, None))(returns[sampled], log_prob, partition, 1 / 3)
        return paths.log_partition(returns[sampled], density)

    np.testing.assert_allclose(loss(returns), np.log(10.0), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(loss)(returns), [0.1, 0.2, 0.3, 0.4], rtol=1e-12)
    joint = paths.joint_log_density(jnp.float64(0.3), jnp.float64(-1.2), jnp.float64(2.0), 0.25)
    np.testing.assert_allclose(joint, np.log(0.25 * np.exp(0.3 - 2.0) + 0.75 * np.exp(-1.2)), rtol=1e-12)


DIVERGENCES = {
    "forward_kl": lambda u: u * jnp.log(u),
    "reverse_kl": lambda u: -jnp.log(u),
    "jensen_shannon": lambda u: u * jnp.log(u) - (1 + u) * jnp.log((1 + u) / 2),
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_divergences_gradient_is_exact_where_all_paths_are_sampled(name, float64):
    """Differentiated through the soft-optimal policy's visits on the one hand, the covariance over paths on the other."""
    assert DIVERGENCES.keys() == paths.SCORES.keys()
    visits, transition = all_paths(coins=False)
    rng = np.random.default_rng(2)
    reward, demonstrated = jnp.asarray(rng.normal(size=STATES)), jnp.asarray(rng.dirichlet(np.ones(STATES)))
    visits, start = visits.sum(-1), jnp.eye(STATES)[START]

    def share(reward):
        q = solvers.path_q_until(transition, jnp.tile(reward[:, None], (1, ACTIONS)), HORIZON)
        return solvers.occupancy_until(transition, solvers.soft_policy(q), start).mean(0)

    def exact(reward):
        return (share(reward) * DIVERGENCES[name](demonstrated / share(reward))).sum()

    score = jnp.vectorize(paths.SCORES[name])(jnp.log(demonstrated / share(reward)))
    log_density = jnp.full(len(visits), -HORIZON * np.log(ACTIONS))

    def over_paths(reward):
        returns = visits @ reward
        return paths.covariance(visits @ score / HORIZON, returns, paths.path_weights(returns, log_density))

    gradient = jax.grad(exact)(reward)
    assert np.abs(gradient).max() > 0.01
    np.testing.assert_allclose(jax.grad(over_paths)(reward), gradient, atol=1e-10)


def test_a_ratio_out_of_bounds_does_no_harm():
    assert float(paths.forward_kl(jnp.float32(50.0))) == pytest.approx(-np.exp(10.0))
