"""The functions of IQ-Learn: as their formulas say, concave, and continued by straight lines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import inverse

FORMULAS = {
    "chi_square": lambda r: r - r**2 / (4 * 0.7),
    "reverse_kl": lambda r: -np.exp(-(r + 1)),
    "hellinger": lambda r: r / (1 + r),
    "jensen_shannon": lambda r: np.log(2 - np.exp(-r)),
    "total_variation": lambda r: np.minimum(r, 0.5),
}
INSIDE = np.linspace(-0.49, 3.0, 50)
ANYWHERE = np.linspace(-60.0, 60.0, 400)


def of(name, reward):
    return np.asarray(jax.vmap(inverse.DIVERGENCES[name], (0, None))(jnp.float32(reward), 0.7), np.float64)


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name):
    assert FORMULAS.keys() == inverse.DIVERGENCES.keys()
    np.testing.assert_allclose(of(name, INSIDE), FORMULAS[name](INSIDE), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_concave_and_finite_everywhere(name):
    """Also where the formulas have no value: a reward of -60 is no NaN, and its gradient pulls it up."""
    slope = np.asarray(jax.vmap(jax.grad(inverse.DIVERGENCES[name]), (0, None))(jnp.float32(ANYWHERE), 0.7))
    assert np.isfinite(of(name, ANYWHERE)).all() and np.isfinite(slope).all()
    assert (np.diff(slope) <= 1e-6 * np.abs(slope[:-1])).all() and slope[0] > 0
    step = 0.05
    middle = of(name, ANYWHERE)
    assert (of(name, ANYWHERE - step) + of(name, ANYWHERE + step) <= 2 * middle + 1e-4 * np.abs(middle) + 1e-5).all()


def test_the_reward_of_values():
    assert float(inverse.soft_reward(jnp.float32(3.0), jnp.float32(2.0), 0.9)) == pytest.approx(1.2)


@pytest.mark.parametrize("length", [5, 3])
def test_tokens_of_a_completion(length):
    """Against loops: nothing follows the last token, whether others might have; with chi_square it is the likelihood and a square.
    What pads it has neither value nor gradient."""
    rng, gamma, alpha = np.random.default_rng(length), 0.9, 0.7
    logits, tokens, there = rng.normal(size=(5, 4)), rng.integers(0, 4, 5), np.arange(5) < length
    value = np.log(np.exp(logits).sum(1))
    q = logits[np.arange(5), tokens]
    reward = np.zeros(5)
    for t in range(length):
        reward[t] = q[t] - (gamma * value[t + 1] if t + 1 < length else 0.0)
    close = lambda found, true: np.testing.assert_allclose(found, true, rtol=1e-5, atol=1e-6)
    args = jnp.float32(q), jnp.float32(value), jnp.asarray(there)
    close(inverse.token_rewards(*args, gamma), reward)
    expected = np.where(there, value - q + reward**2 / (4 * alpha), 0.0)
    close(inverse.iq_of_tokens(*args, gamma, alpha), expected)
    close(inverse.iq_of_tokens(*args, gamma, 1e9), np.where(there, value - q, 0.0))
    ahead = np.where(there, value - (q - reward), 0.0)
    hellinger = inverse.iq_of_tokens(*args, gamma, alpha, "hellinger")
    shown = np.where(there, ahead - np.asarray(of("hellinger", reward)), 0.0)
    close(hellinger, shown)

    slope = jax.grad(lambda q: inverse.iq_of_tokens(q, *args[1:], gamma, alpha).sum())(args[0])
    close(slope, np.where(there, reward / (2 * alpha) - 1.0, 0.0))
    slope = jax.grad(lambda value: inverse.iq_of_tokens(args[0], value, args[2], gamma, alpha).sum())(args[1])
    before = np.where(np.arange(5) > 0, np.append(0.0, reward[:-1]), 0.0)  # of the reward that each value is taken off
    close(slope, np.where(there, 1.0 - gamma * before / (2 * alpha), 0.0))
