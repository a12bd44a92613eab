"""Losses of probabilistic models, and measures of what an ensemble does not know, by numpy and by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.losses import dynamics


def test_gaussian_loss_is_twice_the_likelihood_of_scipy_and_least_at_the_moments():
    from scipy.stats import norm

    mean, log_variance, target = np.array([0.5, -1.0, 2.0]), np.array([0.0, 1.2, -3.0]), np.array([0.1, 1.0, 2.2])
    expected = -2.0 * norm.logpdf(target, mean, np.exp(0.5 * log_variance)).mean() - np.log(2.0 * np.pi)
    loss = dynamics.gaussian_loss(*(jnp.float32(x) for x in (mean, log_variance, target)))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    # over a sample its slope is 0 at the sample's mean and variance, and nowhere near
    sample = jnp.float32(np.random.default_rng(0).normal(3.0, 2.0, 500))
    slope = jax.grad(
        lambda m, v: jax.vmap(lambda y: dynamics.gaussian_loss(m[None], v[None], y[None]))(sample).mean(), (0, 1)
    )
    at = sample.mean(), jnp.log(sample.var())
    np.testing.assert_allclose(slope(*at), 0.0, atol=1e-5)
    assert all(abs(slope(at[0] + 0.1, at[1] + 0.1)[i]) > 1e-2 for i in range(2))


def test_beta_weighs_each_number_by_its_variance_and_leaves_its_own_optimum():
    mean, log_variance, target = jnp.float32([0.5, -1.0]), jnp.float32([1.4, -2.0]), jnp.float32([0.1, 1.0])
    by = lambda beta: jax.grad(lambda m, v: dynamics.gaussian_loss(m, v, target, beta), (0, 1))(mean, log_variance)
    for plain, half in zip(by(0.0), by(0.5)):
        np.testing.assert_allclose(half, plain * np.exp(0.5 * np.asarray(log_variance)), rtol=1e-5)
    np.testing.assert_allclose(by(1.0)[0], np.asarray(mean - target), rtol=1e-5)  # of the mean of two squares


def test_soft_bounds_hold_far_away_and_nothing_is_flat_between():
    low, high = jnp.float32([-10.0]), jnp.float32([0.5])
    bounded = lambda x: dynamics.softly_bounded(jnp.float32([x]), low, high)[0]
    softplus = lambda x: np.log1p(np.exp(x))
    for x in (-30.0, -10.0, -5.0, 0.0, 0.5, 4.0):
        below = 0.5 - softplus(0.5 - x)
        np.testing.assert_allclose(bounded(x), -10.0 + softplus(below + 10.0), rtol=1e-5)
    np.testing.assert_allclose(bounded(-5.0), -5.0, atol=0.02)  # in the middle as it is
    assert -10.0 <= bounded(-1e3) < -9.999 and 0.5 <= bounded(1e3) < 0.5001
    assert all(jax.grad(bounded)(x) > 1e-3 for x in (-16.0, 0.0, 6.0))
    # the bounds learn where they bind
    by_bounds = jax.grad(lambda low, high: dynamics.softly_bounded(jnp.float32([9.0]), low, high)[0], (0, 1))(low, high)
    assert by_bounds[1][0] > 0.99 and abs(by_bounds[0][0]) < 1e-3


def test_uncertainty_by_hand():
    std = jnp.float32([[3.0, 4.0], [0.0, 5.5], [1.0, 1.0]])
    np.testing.assert_allclose(dynamics.largest_spread(std), 5.5)
    mean = jnp.float32([[0.0, 0.0], [3.0, 0.0], [0.0, 6.0]])  # of mean [1, 2]
    np.testing.assert_allclose(dynamics.largest_deviation(mean), np.sqrt(1.0 + 16.0), rtol=1e-6)
    assert dynamics.largest_deviation(jnp.ones((3, 2))) == 0.0


def test_inconsistency_is_between_models_and_not_within():
    value = jnp.float32([[1.0, 3.0], [4.0, 4.0], [8.0, 10.0]])  # means 2, 4, 9
    np.testing.assert_allclose(dynamics.bellman_inconsistency(value), np.sqrt((9.0 + 1.0 + 16.0) / 2.0), rtol=1e-6)
    assert dynamics.bellman_inconsistency(jnp.float32([[-9.0, 9.0], [9.0, -9.0]])) == 0.0
