"""Duals of matching: by numpy, with an absorbing state against its steps written out, and by the slope of what is minimised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import dual

REWARD, VALUE, NEXT = (jnp.float32(np.random.default_rng(i).normal(size=4)) for i in range(3))
ENDED = jnp.array([False, True, False, True])


def test_residuals_and_their_means_by_hand():
    x, mass = dual.residuals(REWARD, VALUE, NEXT, ENDED, 0.9)
    expected = np.asarray(REWARD + 0.9 * np.where(ENDED, 0.0, NEXT) - VALUE)
    np.testing.assert_allclose(x, expected, rtol=1e-6)
    np.testing.assert_array_equal(mass, np.ones(4))
    weight = jnp.array([1.0, 2.0, 0.0, 5.0])
    times = np.asarray(weight)
    assert float(dual.mean(x, weight)) == pytest.approx((times * expected).sum() / 8.0, rel=1e-5)
    assert float(dual.log_mean_exp(x, weight)) == pytest.approx(
        np.log((times * np.exp(expected)).sum() / 8.0), rel=1e-5
    )
    conjugate = np.where(expected < -2.0, -1.0, expected + expected**2 / 4.0)
    assert float(dual.chi_square_conjugate(x, weight)) == pytest.approx((times * conjugate).sum() / 8.0, rel=1e-5)


@pytest.mark.parametrize("divergence", dual.DIVERGENCES)
def test_an_absorbing_state_is_as_if_its_steps_were_written_out(divergence):
    """Two terminations, each followed by steps of mass gamma^t in a state of the value v / (1 - gamma) that leads to itself."""
    gamma, pay, v = 0.9, 0.3, -0.4
    x, mass = dual.residuals(REWARD, VALUE, NEXT, ENDED, gamma, pay, v)
    there = np.where(ENDED, v / (1 - gamma), NEXT)
    live = REWARD + gamma * there - VALUE
    absorbed = np.full(600, pay + gamma * v / (1 - gamma) - v / (1 - gamma))
    each = np.tile(gamma ** np.arange(1, 301), 2)
    conjugate = dual.DIVERGENCES[divergence].conjugate
    written_out = (
        jnp.float32(np.concatenate([live, absorbed])),
        jnp.float32(np.concatenate([np.ones(4), each])),
    )
    assert float(conjugate(x, mass)) == pytest.approx(float(conjugate(*written_out)), rel=1e-4)


@pytest.mark.parametrize("divergence", dual.DIVERGENCES)
def test_the_weight_is_the_slope_of_the_conjugate_and_holds_no_gradient(divergence):
    x, mass = jnp.array([0.5, -3.0, 1.2, 0.0]), jnp.array([1.0, 1.0, 2.0, 4.0])
    conjugate, weight = dual.DIVERGENCES[divergence]
    np.testing.assert_allclose(mass / mass.sum() * weight(x, mass), jax.grad(conjugate)(x, mass), atol=1e-6)
    np.testing.assert_array_equal(jax.grad(lambda x: weight(x, mass).sum())(x), np.zeros(4))


def test_weights_of_the_kl_form_do_not_know_where_zero_is():
    x, mass = jnp.array([0.5, -3.0, 1.2]), jnp.array([1.0, 1.0, 2.0])
    np.testing.assert_allclose(dual.kl_weight(x, mass), dual.kl_weight(x + 40.0, mass), rtol=1e-5)


def test_mixture_loss_by_hand():
    shown, own = jnp.array([0.2, -1.0]), jnp.array([0.7, 0.1, -0.3])
    ones = jnp.ones_like
    loss = dual.mixture_loss(shown, ones(shown), own, ones(own), jnp.float32(0.25), 0.05)
    gradient = jax.grad(dual.mixture_loss, (0, 2, 4))(shown, ones(shown), own, ones(own), jnp.float32(0.25), 0.05)
    shown, own = np.asarray(shown), np.asarray(own)
    expected = np.log(0.95 * np.exp(shown).mean() + 0.05 * np.exp(own).mean()) - 0.95 * 0.25 - 0.05 * own.mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    total = 0.95 * np.exp(shown).mean() + 0.05 * np.exp(own).mean()
    np.testing.assert_allclose(gradient[0], 0.95 * np.exp(shown) / 2.0 / total, rtol=1e-5)
    np.testing.assert_allclose(gradient[1], 0.05 * (np.exp(own) / total - 1.0) / 3.0, rtol=1e-4, atol=1e-7)
    assert float(gradient[2]) == pytest.approx(-0.95)
