"""Numbers worked out by hand or by numpy, and where gradients flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import conservative

Q = jnp.array([1.0, -0.5, 2.0])


def test_conservative_gap_by_hand():
    # log(e^1 + e^-0.5 + e^2) = log(2.718282 + 0.606531 + 7.389056) = 2.371539
    np.testing.assert_allclose(conservative.conservative_gap(Q, Q[1]), 2.371539 + 0.5, rtol=1e-6)


def test_conservative_gap_pushes_the_soft_maximum_down_and_the_data_up():
    """Its gradient is the softmax of Q, and -1 for the data's action. A constant soft maximum would give 0 for the first."""
    down, up = jax.grad(conservative.conservative_gap, (0, 1))(Q, jnp.array(0.3))
    np.testing.assert_allclose(down, np.exp(Q) / np.exp(Q).sum(), rtol=1e-6)
    assert up == -1.0


def test_sampled_gap_by_numpy():
    density = np.array([0.5, 2.0, 0.25])
    expected = np.log(np.mean(np.exp(np.float64(Q)) / density)) - 0.3
    log_density = jnp.log(jnp.array(density, jnp.float32))
    np.testing.assert_allclose(
        conservative.sampled_conservative_gap(Q, log_density, jnp.array(0.3)), expected, rtol=1e-6
    )


def test_sampled_gap_pushes_rarely_drawn_actions_down_harder_and_holds_densities_constant():
    density = np.array([0.5, 2.0, 0.25])
    log_density = jnp.log(jnp.array(density, jnp.float32))
    down, of_density, up = jax.grad(conservative.sampled_conservative_gap, (0, 1, 2))(Q, log_density, jnp.array(0.3))
    weight = np.exp(np.float64(Q)) / density
    np.testing.assert_allclose(down, weight / weight.sum(), rtol=1e-5)
    np.testing.assert_array_equal(of_density, np.zeros(3))
    assert up == -1.0


def test_sampled_gap_is_the_full_one_where_every_action_is_drawn_once():
    """Uniformly over three actions: the density of each is 1 / 3."""
    sampled = conservative.sampled_conservative_gap(Q, jnp.full(3, -jnp.log(3.0)), Q[0])
    np.testing.assert_allclose(sampled, conservative.conservative_gap(Q, Q[0]), rtol=1e-6)


@pytest.mark.parametrize("gap, slope", [(3.0, -4.0), (0.5, 1.0)])
def test_multiplier_loss_asks_for_more_above_the_target(gap, slope):
    # alpha (target - gap) with alpha = 2 and target 1; its derivative in log alpha is the same number
    loss, got = jax.value_and_grad(conservative.multiplier_loss)(jnp.log(2.0), jnp.array(gap), 1.0)
    np.testing.assert_allclose([loss, got], [slope, slope], rtol=1e-6)
    assert jax.grad(conservative.multiplier_loss, 1)(jnp.log(2.0), jnp.array(gap), 1.0) == 0.0


def test_gradient_similarity_by_numpy():
    gradient = np.random.default_rng(0).normal(size=(5, 3))
    unit = gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    cosines = unit @ unit.T
    expected = (cosines.sum() - np.trace(cosines)) / 4.0
    got = conservative.gradient_similarity(jnp.array(gradient, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("second, similarity", [([2.0, 0.0], 2.0), ([0.0, 3.0], 0.0), ([-0.1, 0.0], -2.0)])
def test_gradient_similarity_of_two_is_twice_their_cosine(second, similarity):
    got = conservative.gradient_similarity(jnp.array([[1.0, 0.0], second]))
    np.testing.assert_allclose(got, similarity, atol=1e-6)


def test_gradient_similarity_of_a_flat_critic_is_zero_with_a_finite_slope():
    gradient = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    value, slope = jax.value_and_grad(conservative.gradient_similarity)(gradient)
    assert value == 0.0
    assert np.isfinite(slope).all()


def test_calibrated_q_is_the_floor_below_it_and_has_no_slope_there():
    q, floor = jnp.array([-1.0, 0.5, 2.0]), jnp.float32(0.5001)
    np.testing.assert_allclose(conservative.calibrated_q(q, floor), [0.5001, 0.5001, 2.0])
    of_q, of_floor = jax.grad(lambda q, floor: conservative.calibrated_q(q, floor).sum(), (0, 1))(q, floor)
    np.testing.assert_array_equal(of_q, [0.0, 0.0, 1.0])
    assert of_floor == 0.0
