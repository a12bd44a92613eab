"""Numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import actor_critic

Q = jnp.array([3.0, 1.0])


def test_clipped_q_is_the_lowest_for_each_action():
    assert actor_critic.clipped_q(Q) == 1.0
    np.testing.assert_allclose(actor_critic.clipped_q(jnp.array([[3.0, 0.0], [1.0, 2.0]])), [1.0, 0.0])
    assert actor_critic.clipped_q(Q[:1]) == 3.0


def test_soft_value_adds_the_entropy_of_one_action():
    # min(3, 1) - 0.5 * (-2) = 2
    assert actor_critic.soft_value(Q, jnp.array(-2.0), 0.5) == 2.0


def test_expected_soft_value_by_hand():
    # critics' lower opinions are 1 and 0; pi = (1/4, 3/4): 1/4 * 1 + 3/4 * 0 + 0.5 * H, H = ln 4 - 3/4 ln 3 = 0.562335
    q = jnp.array([[3.0, 0.0], [1.0, 2.0]])
    value = actor_critic.expected_soft_value(q, jnp.log(jnp.array([0.25, 0.75])), 0.5)
    np.testing.assert_allclose(value, 0.25 + 0.5 * 0.562335, rtol=1e-6)


def test_expected_soft_value_is_largest_at_the_softmax():
    """There it is alpha log sum exp(q / alpha), and the gradient in the logits is 0."""
    q, temperature = jnp.array([[1.0, -0.5, 0.3]]), 0.7
    value = lambda logits: actor_critic.expected_soft_value(q, jax.nn.log_softmax(logits), temperature)
    best = q[0] / temperature
    np.testing.assert_allclose(value(best), temperature * jax.nn.logsumexp(best), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(value)(best), np.zeros(3), atol=1e-6)
    assert value(best + jnp.array([0.5, 0.0, 0.0])) < value(best) - 1e-3


@pytest.mark.parametrize("entropy, sign", [(2.0, 1.0), (0.0, -1.0)])
def test_temperature_loss_asks_for_less_above_the_target(entropy, sign):
    # alpha (H - target) = 2 (entropy - 1); its derivative in log alpha is the same number
    loss, slope = jax.value_and_grad(actor_critic.temperature_loss)(jnp.log(2.0), jnp.array(entropy), 1.0)
    np.testing.assert_allclose([loss, slope], [2.0 * sign, 2.0 * sign], rtol=1e-6)
    assert jax.grad(actor_critic.temperature_loss, 1)(jnp.log(2.0), jnp.array(entropy), 1.0) == 0.0


def test_smoothed_action_clips_the_noise_and_then_the_action():
    action, noise = jnp.array([0.0, 0.0, 0.8, -0.9]), jnp.array([0.3, -2.0, 0.4, -2.0])
    np.testing.assert_allclose(actor_critic.smoothed_action(action, noise, 0.5), [0.3, -0.5, 1.0, -1.0])
