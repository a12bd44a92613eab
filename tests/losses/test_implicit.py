"""Value losses from the data's actions: against their definitions, and against what their minimum must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import implicit

Q = np.array([0.0, 1.0, 2.0, 5.0])  # of four equally frequent actions


def minimiser(loss, parameter):
    """The V that minimises the mean loss of Q - V, by a fine grid."""
    grid = np.linspace(-3.0, 9.0, 24_001)
    losses = jax.vmap(lambda v: jax.vmap(lambda q: loss(q - v, parameter))(jnp.array(Q)).mean())(jnp.array(grid))
    return grid[np.asarray(losses).argmin()]


def test_expectile():
    """At 1/2 the mean; else where the weighted deviations balance, tau E(Q - V)+ = (1 - tau) E(V - Q)+."""
    assert float(implicit.expectile_loss(jnp.float32(2.0), 0.7)) == pytest.approx(2.8)
    assert float(implicit.expectile_loss(jnp.float32(-2.0), 0.7)) == pytest.approx(1.2)
    assert minimiser(implicit.expectile_loss, 0.5) == pytest.approx(Q.mean(), abs=1e-3)
    v = minimiser(implicit.expectile_loss, 0.9)
    assert 0.9 * np.maximum(Q - v, 0).sum() == pytest.approx(0.1 * np.maximum(v - Q, 0).sum(), rel=2e-2)
    assert minimiser(implicit.expectile_loss, 0.999) > 4.9


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gumbel_gives_the_log_of_the_mean_exponential(temperature):
    expected = temperature * np.log(np.mean(np.exp(Q / temperature)))
    assert minimiser(implicit.gumbel_loss, temperature) == pytest.approx(expected, abs=2e-3)


def test_gumbel_goes_on_as_its_tangent():
    slope = jax.grad(implicit.gumbel_loss)
    at = lambda z: float(slope(jnp.float32(z), 1.0))
    assert at(6.9) == pytest.approx(np.exp(6.9) - 1.0, rel=1e-4)
    assert at(8.0) == at(80.0) == pytest.approx(np.exp(7.0) - 1.0, rel=1e-4)
    below, above = (float(implicit.gumbel_loss(jnp.float32(z), 1.0)) for z in (7.0 - 1e-3, 7.0 + 1e-3))
    assert above - below == pytest.approx(2e-3 * np.exp(7.0), rel=1e-2)


@pytest.mark.parametrize("difference", [-10.0, -4.0, -2.0, -1.0, 0.0, 3.0])
def test_chi_square_is_the_conjugate_of_its_divergence(difference):
    """f*(d) = max over x >= 0 of x d - (x - 1)^2, by brute force; a form without the bend grows again below -4."""
    x = np.linspace(0.0, 10.0, 100_001)
    conjugate = (x * difference - (x - 1.0) ** 2).max()
    assert float(implicit.chi_square_loss(jnp.float32(difference), 1.0)) == pytest.approx(conjugate, abs=1e-4)
    mixed = float(implicit.chi_square_loss(jnp.float32(difference), 0.8))
    assert mixed == pytest.approx(0.8 * conjugate - 0.2 * difference, abs=1e-4)


def test_chi_square_lies_above_the_mean_by_what_its_weight_says():
    close = jnp.array([0.0, 0.1, 0.2, 0.5])  # so that no difference falls below -2
    loss = lambda v, weight: jax.vmap(lambda q: implicit.chi_square_loss(q - v, weight))(close).mean()
    for weight in (0.5, 0.6):
        at = close.mean() + 4.0 - 2.0 / weight
        assert abs(float(jax.grad(loss)(at, weight))) < 1e-6


def test_total_variation_gives_a_quantile():
    """The level of weight 2/3 is 1/2: any V between the middle values. Of weight 0.8 it is 3/4."""
    assert 1.0 <= minimiser(implicit.total_variation_loss, 2 / 3) <= 2.0
    assert 2.0 - 1e-3 <= minimiser(implicit.total_variation_loss, 0.8) <= 5.0
    assert minimiser(implicit.total_variation_loss, 0.9) == pytest.approx(5.0, abs=1e-3)


def test_weight_is_capped_and_constant():
    assert float(implicit.advantage_weight(jnp.float32(0.5), 3.0, 100.0)) == pytest.approx(np.exp(1.5), rel=1e-6)
    assert float(implicit.advantage_weight(jnp.float32(5.0), 3.0, 100.0)) == 100.0
    assert float(jax.grad(implicit.advantage_weight)(jnp.float32(0.5), 3.0, 100.0)) == 0.0
