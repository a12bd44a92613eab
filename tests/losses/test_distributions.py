"""TanhNormal against the change of variables worked out in float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import distributions
from rljax.types import Continuous

MEAN, LOG_STD = np.array([0.3, -1.2]), np.array([-0.5, 0.4])


def density(action, mean=MEAN, log_std=LOG_STD):
    """log N(atanh a; mean, std) - log(1 - a^2), summed over dimensions."""
    u, std = np.arctanh(action), np.exp(log_std)
    normal = -0.5 * ((u - mean) / std) ** 2 - log_std - 0.5 * np.log(2.0 * np.pi)
    return (normal - np.log1p(-(action**2))).sum(-1)


@pytest.mark.parametrize("action", [[0.0, 0.0], [0.5, -0.7], [-0.9, 0.2], [0.99, -0.99], [0.999, 0.5]])
def test_log_prob_is_the_change_of_variables(action):
    policy = distributions.TanhNormal(jnp.float32(MEAN), jnp.float32(LOG_STD))
    np.testing.assert_allclose(policy.log_prob(jnp.float32(action)), density(np.array(action)), rtol=1e-4)


def test_log_prob_at_the_border_is_that_just_inside():
    policy = distributions.TanhNormal(jnp.float32(MEAN), jnp.float32(LOG_STD))
    inside = density(np.float64(np.float32([1.0 - 1e-6, -1.0 + 1e-6])))
    np.testing.assert_allclose(policy.log_prob(jnp.array([1.0, -1.0])), inside, rtol=0.02)
    gradient = jax.grad(lambda mean: distributions.TanhNormal(mean, jnp.zeros(2)).log_prob(jnp.array([1.0, -1.0])))
    np.testing.assert_allclose(gradient(jnp.zeros(2)), np.arctanh(1.0 - 1e-6) * np.array([1.0, -1.0]), rtol=0.02)


def test_density_integrates_to_one():
    action = np.linspace(-1.0, 1.0, 20_001)[1:-1, None]
    policy = distributions.TanhNormal(jnp.array([0.4]), jnp.array([-0.3]))
    np.testing.assert_allclose(np.exp(jax.vmap(policy.log_prob)(jnp.float32(action))).sum() * 1e-4, 1.0, atol=1e-3)


def test_sample_and_log_prob_agrees_with_log_prob():
    batch = 1000
    mean, log_std = jnp.tile(jnp.float32(MEAN), (batch, 1)), jnp.tile(jnp.float32(LOG_STD), (batch, 1))
    policy = distributions.TanhNormal(mean, log_std)
    action, log_prob = policy.sample_and_log_prob(seed=jax.random.key(0))
    assert action.shape == (batch, 2) and log_prob.shape == (batch,)
    inside = np.abs(np.asarray(action)).max(axis=1) < 0.999  # beyond, the inverse in float32 loses digits
    assert inside.mean() > 0.9
    np.testing.assert_allclose(log_prob[inside], policy.log_prob(action)[inside], atol=5e-3)
    np.testing.assert_allclose(log_prob[inside], density(np.float64(action))[inside], atol=5e-3)


def test_log_prob_of_saturated_samples_is_right_and_has_a_gradient():
    # mean 10: tanh rounds to 1. log pi = log N(u) - 2 (log 2 - u - softplus(-2u)), finite where the inverse is not
    def log_prob(mean):
        return distributions.TanhNormal(mean, jnp.zeros(1)).sample_and_log_prob(seed=jax.random.key(0))[1]

    noise = float(jnp.arctanh(distributions.TanhNormal(jnp.zeros(1), jnp.zeros(1)).sample(seed=jax.random.key(0)))[0])
    u = 10.0 + noise
    right = -0.5 * noise**2 - 0.5 * np.log(2.0 * np.pi) - 2.0 * (np.log(2.0) - u - np.log1p(np.exp(-2.0 * u)))
    np.testing.assert_allclose(log_prob(jnp.array([10.0])), right, rtol=1e-4)
    np.testing.assert_allclose(jax.grad(log_prob)(jnp.array([10.0])), [2.0], rtol=1e-4)  # d/du of 2 u


def test_mode_is_the_action_of_the_mean():
    policy = distributions.TanhNormal(jnp.float32(MEAN), jnp.float32(LOG_STD))
    np.testing.assert_allclose(policy.mode(), np.tanh(MEAN), rtol=1e-6)


def test_bounded_log_std_spans_its_range():
    low, high = distributions.LOG_STD_RANGE
    np.testing.assert_allclose(
        distributions.bounded_log_std(jnp.array([-50.0, 0.0, 50.0])), [low, (low + high) / 2, high]
    )


def test_what_is_clipped_to_a_box_has_a_likelihood_that_sums_to_one():
    box = Continuous((1,))
    action = jnp.linspace(-1.0, 1.0, 20_001)[:, None]
    policy = distributions.normal(jnp.full((len(action), 1), 0.4), jnp.full((len(action), 1), -0.3))
    likelihood = np.exp(distributions.log_prob_in_box(policy, box, action))
    np.testing.assert_allclose(likelihood[0] + likelihood[-1] + likelihood[1:-1].sum() * 1e-4, 1.0, atol=1e-3)
    beyond = distributions.log_prob_in_box(policy[:1], box, jnp.array([[7.0]]))
    np.testing.assert_allclose(np.exp(beyond), likelihood[-1:], rtol=1e-6)


def test_weights_of_clipped_actions_are_1_in_the_mean():
    # E_b[pi(a) / b(a)] = 1, of what is clipped too; by densities before clipping it is not
    box, size = Continuous((2,)), 200_000
    other, own = (distributions.normal(jnp.full((size, 2), mean), jnp.full((size, 2), -0.2)) for mean in (0.5, 0.2))
    action = distributions.in_box(box, other.sample(seed=jax.random.key(0)))
    weight = lambda log_prob: np.exp(np.float64(log_prob(own) - log_prob(other))).mean()
    assert abs(weight(lambda policy: distributions.log_prob_in_box(policy, box, action)) - 1.0) < 0.01
    assert abs(weight(lambda policy: policy.log_prob(action)) - 1.0) > 0.02
