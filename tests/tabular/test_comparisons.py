"""Estimates from judgements against scipy's, confidence regions that hold the truth as often as they say, pessimism."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from rljax.experiments.studies import pessimism as study
from rljax.losses import preference
from rljax.tabular import comparisons as lib

pytestmark = pytest.mark.usefixtures("float64")


def problem(count, ranked, dimension=3, seed=0, norm=1.0):
    """theta with |theta| = norm, features of judgements and rankings."""
    theta_key, feature_key, key = jax.random.split(jax.random.key(seed), 3)
    theta = jax.random.normal(theta_key, (dimension,))
    features = jax.random.normal(feature_key, (count, ranked, dimension))
    theta = norm * theta / jnp.linalg.norm(theta)
    return theta, features, lib.draw(theta, features, key)


def log_likelihood(theta, features, ranks, pairs):
    """Of rankings, or of all their pairs, draw by draw in numpy; its mean."""
    total = 0.0
    for scores, rank in zip(features @ theta, ranks):
        scores = scores[np.argsort(rank)]
        if pairs:
            terms = [-np.log1p(np.exp(b - a)) for i, a in enumerate(scores) for b in scores[i + 1 :]]
            total += np.mean(terms)
        else:
            total += sum(scores[i] - np.log(np.exp(scores[i:]).sum()) for i in range(len(scores)))
    return total / len(ranks)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("bound", [5.0, 0.3])
def test_estimates_are_scipys(pairs, bound):
    """With the ball's bound idle and at work."""
    _, features, ranks = problem(40, 4)
    loss = preference.pairwise if pairs else preference.plackett_luce
    found = np.asarray(jax.jit(lib.fit, static_argnums=0)(loss, features, ranks, bound))
    x, r = np.asarray(features), np.asarray(ranks)
    inside = {"type": "ineq", "fun": lambda theta: bound**2 - theta @ theta}
    best = optimize.minimize(
        lambda theta: -log_likelihood(theta, x, r, pairs), np.zeros(3), method="SLSQP", constraints=inside, tol=1e-12
    )
    np.testing.assert_allclose(found, best.x, atol=1e-5)
    assert (np.linalg.norm(found) < 0.99 * bound) == (bound == 5.0)


def test_without_doubt_the_estimate_rests_on_the_ball():
    """All judgements agree: the likelihood rises for ever along one direction."""
    features = jnp.array([[[1.0, 0.0], [0.0, 0.0]]] * 5)
    found = lib.fit(preference.pairwise, features, jnp.array([[0, 1]] * 5), 2.0)
    np.testing.assert_allclose(found, [2.0, 0.0], atol=1e-6)


def test_pairs_of_two_are_the_ranking():
    _, features, ranks = problem(50, 2)
    fit = jax.jit(lib.fit, static_argnums=0)
    pairs, whole = (fit(loss, features, ranks, 4.0) for loss in (preference.pairwise, preference.plackett_luce))
    np.testing.assert_allclose(pairs, whole, atol=1e-9)


def test_design_is_the_mean_over_pairs():
    _, features, _ = problem(7, 3)
    x = np.asarray(features)
    differences = np.array([x[i, j] - x[i, k] for i in range(7) for j in range(3) for k in range(j)])
    np.testing.assert_allclose(lib.design(features), differences.T @ differences / len(differences), rtol=1e-12)


def test_derivatives_are_finite_differences():
    theta, features, ranks = problem(20, 3)
    x, r = np.asarray(features), np.asarray(ranks)
    value = lambda theta: -log_likelihood(theta, x, r, False)
    gradient, hessian = lib.derivatives(preference.plackett_luce, theta, features, ranks)
    np.testing.assert_allclose(gradient, optimize.approx_fprime(np.asarray(theta), value, 1e-6), atol=1e-5)
    slope = jax.jit(lambda theta: lib.derivatives(preference.plackett_luce, theta, features, ranks)[0])
    moved = np.array([slope(theta + 1e-6 * step) for step in np.eye(3)])
    np.testing.assert_allclose(hessian, (moved - np.asarray(slope(theta))) / 1e-6, atol=1e-5)


@pytest.mark.parametrize("ranked", [2, 4])
def test_the_region_holds_the_truth_at_least_as_often_as_it_says(ranked):
    """400 sets of judgements of bounded features; Wald's region is exact for many judgements, to 4 standard errors."""
    count, dimension, failure, ridge, bound = 200, 3, 0.2, 1e-6, 2.0
    theta, features, _ = problem(count, ranked, norm=0.9)
    features = features / jnp.linalg.norm(features, axis=-1, keepdims=True)  # |theta . x| <= 2 bound

    def covered(key):
        ranks = lib.draw(theta, features, key)
        found = lib.fit(preference.plackett_luce, features, ranks, bound, num_steps=6)
        _, information = lib.derivatives(preference.plackett_luce, found, features, ranks)
        error = found - theta
        distance = lambda matrix: jnp.sqrt(error @ (matrix + ridge * jnp.eye(dimension)) @ error)
        far = lib.radius(count, dimension, ranked, failure, ridge, bound, 2.0 * bound)
        near = lib.asymptotic_radius(count, dimension, failure, 0.0, bound)
        return distance(lib.design(features)) <= far, distance(information) <= near

    sure, wald = jax.jit(jax.vmap(covered))(jax.random.split(jax.random.key(1), 400))
    assert sure.mean() >= 1.0 - failure
    assert abs(wald.mean() - (1.0 - failure)) < 4 * np.sqrt(failure * (1 - failure) / 400)


@pytest.mark.parametrize("ranked", [2, 3, 5])
def test_the_curvature_behind_the_radius_is_the_least_there_is(ranked):
    """A probability of two things, over scores that differ by `spread` at most: by brute force over corners and points between."""
    spread = 1.5
    grid = np.stack(np.meshgrid(*[np.linspace(0.0, spread, 4)] * ranked), -1).reshape(-1, ranked)
    p = np.exp(grid) / np.exp(grid).sum(1, keepdims=True)
    least = min((p[:, i] * p[:, j]).min() for i in range(ranked) for j in range(i))
    found = lib.radius(1.0, 1, ranked, np.exp(-1.0), 0.0, 1.0, spread)
    noise = 0.5 * (ranked - 1) * np.sqrt(5.0)
    np.testing.assert_allclose(found, 2.0 * noise / (least * ranked * (ranked - 1) / 2), rtol=1e-9)


def test_the_lower_bound_is_the_worst_theta_of_the_region():
    rng = np.random.default_rng(0)
    theta, root = rng.normal(size=3), rng.normal(size=(3, 3))
    matrix, features, reference = root @ root.T + np.eye(3), rng.normal(size=(4, 3)), rng.normal(size=3)
    directions = rng.normal(size=(200_000, 3))
    directions /= np.sqrt(np.einsum("nd,de,ne->n", directions, matrix, directions))[:, None]
    worst = ((theta + 0.7 * directions) @ (features - reference).T).min(0)
    found = lib.lower_bound(theta, matrix, 0.7, features, reference)
    assert (found <= worst + 1e-12).all()
    np.testing.assert_allclose(found, worst, atol=2e-3)


def test_the_pessimistic_policy_is_scipys():
    """Over three contexts of three actions, where the best policy draws."""
    rng = np.random.default_rng(1)
    theta, root = rng.normal(size=4), rng.normal(size=(4, 4))
    matrix, features = root @ root.T + 0.1 * np.eye(4), rng.normal(size=(3, 3, 4))
    contexts, reference = np.array([0.5, 0.3, 0.2]), np.zeros(4)
    policy, gap = jax.jit(functools.partial(lib.pessimistic_policy, num_steps=2000))(
        *map(jnp.asarray, (theta, matrix, 1.0, features, contexts, reference))
    )
    value = lambda policy: float(
        lib.lower_bound(theta, matrix, 1.0, np.einsum("s,sa,sad->d", contexts, policy, features), reference)
    )
    best = optimize.minimize(
        lambda x: -value(x.reshape(3, 3)), np.full(9, 1 / 3), method="SLSQP", bounds=[(0, 1)] * 9, tol=1e-12,
        constraints={"type": "eq", "fun": lambda x: x.reshape(3, 3).sum(1) - 1},
    )  # fmt: skip
    np.testing.assert_allclose(policy.sum(1), 1.0, rtol=1e-9)
    assert 0 <= gap < 1e-3 and value(policy) == pytest.approx(-best.fun, abs=1e-3)
    assert ((policy > 0.01) & (policy < 0.99)).any()


def test_where_actions_were_hardly_asked_about_pessimism_loses_less():
    """40 draws of 800 judgements: greedy takes an action that was asked about once in about half, the lower bounds in none; where
    all were asked about both are all but right."""
    partial, full = (study.losses_of_policies([800], everywhere, 40)[:, 0] for everywhere in (False, True))
    assert (partial[:, 0] > 0.01).mean() > 0.25 and (partial[:, 1:] == 0.0).mean() > 0.95
    assert (full < 0.5).all() and full.mean() < 0.1


def test_rankings_waste_less_than_their_pairs():
    """Of five things, over 60 draws of 200 judgements: the squared error of the pairs' estimate is higher."""
    found = study.estimation_errors([200], 5, 60)
    ratio, low, high = study.mean_squared_ratio(found["pairs"], found["rankings"])
    assert 1.0 < low < ratio < high < 1.5
