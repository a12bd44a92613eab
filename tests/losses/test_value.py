"""Losses of action values, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import value


def test_termination_cuts_the_target_and_a_time_limit_does_not():
    assert value.td_target(jnp.array(1.0), jnp.array(0.0), jnp.array(5.0)) == 1.0
    assert value.td_target(jnp.array(1.0), jnp.array(0.9), jnp.array(5.0)) == 5.5


def test_no_gradient_through_a_target():
    assert jax.grad(value.td_target, 2)(jnp.array(1.0), jnp.array(0.9), jnp.array(5.0)) == 0.0


def test_double_q_value():
    online, target = jnp.array([1.0, 3.0, 2.0]), jnp.array([10.0, 20.0, 30.0])
    assert value.double_q_value(online, target) == 20.0  # Double DQN: chosen by one, judged by the other
    assert value.double_q_value(target, target) == 30.0  # DQN: the maximum


@pytest.mark.parametrize(
    "error, delta, expected, slope",
    [
        (0.5, 1.0, 0.125, 0.5),  # 0.5^2 / 2
        (-0.5, 1.0, 0.125, -0.5),
        (3.0, 1.0, 2.5, 1.0),  # 1 (3 - 1/2)
        (-3.0, 2.0, 4.0, -2.0),  # 2 (3 - 2/2)
        (3.0, 1e6, 4.5, 3.0),  # half the square
        (1e-3, 1e6, 5e-7, 1e-3),  # a large delta rounds nothing off
    ],
)
def test_huber(error, delta, expected, slope):
    np.testing.assert_allclose(value.huber(jnp.array(error), delta), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(value.huber)(jnp.array(error), delta), slope, rtol=1e-6)


def test_dueling():
    # mean advantage 2: 10 + [1, 2, 3] - 2
    np.testing.assert_allclose(value.dueling(jnp.array(10.0), jnp.array([1.0, 2.0, 3.0])), [9.0, 10.0, 11.0])


def test_decoupled_change_by_hand():
    """Utilities 1 and 4, 1 and 3 before, a target of 3: the second is 1 off by itself and has moved by 1; the first stayed."""
    utilities, old, target = jnp.array([1.0, 4.0]), jnp.array([1.0, 3.0]), jnp.array(3.0)
    weight = 1.0 - np.exp(-1.0)
    np.testing.assert_allclose(value.decoupled_change(utilities, old, target), weight, rtol=1e-6)
    slope = jax.grad(value.decoupled_change, (0, 1, 2))(utilities, old, target)
    np.testing.assert_allclose(slope[0], [0.0, 2.0 * weight], rtol=1e-6)  # weights are constants
    assert not slope[1].any() and slope[2] == 0.0
    moved = value.decoupled_change(jnp.array([0.0, 3.0]), old, target)  # 3 off, and moved by 1; the second is right
    np.testing.assert_allclose(moved, 1.0 - np.exp(-3.0), rtol=1e-6)


def test_margin_by_hand():
    """Of 2 against 1.7, itself and 5 with a margin of 0.5: short by 0.2, by 0.5, which is a constant, and by 3.5."""
    q, index = jnp.array([1.7, 2.0, 5.0]), jnp.int32(1)
    np.testing.assert_allclose(value.margin(q, index, 0.5), (0.2 + 0.5 + 3.5) / 3, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(value.margin)(q, index, 0.5), [1 / 3, -2 / 3, 1 / 3], rtol=1e-6)
    assert value.margin(jnp.array([1.0, 2.0]), index, 0.5) == 0.25
