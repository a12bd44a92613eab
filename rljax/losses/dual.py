"""Means of residuals d = r + gamma V(s') - V(s) whose minimum over V is a match of two distributions of steps.

Residuals [N] come with a mass [N] each, how often they count. What follows a termination is an absorbing state that is lived in for
ever: one residual more, whose mass is that of all steps there.

Duals of stationary distributions: Nachum & Dai, 2020 (arXiv:2001.01866).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rljax.losses.implicit import chi_square_loss

Scalar = Float[Array, ""]
Number = Scalar | float  # a hyperparameter, traced or not


def residuals(
    reward: Float[Array, " B"],
    value: Float[Array, " B"],
    next_value: Float[Array, " B"],
    terminated: Bool[Array, " B"],
    gamma: Number,
    absorbed_reward: Number = 0.0,
    absorbed_value: Number | None = None,
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """r + gamma V(s') - V(s) of each step, and its mass.

    Args:
      absorbed_reward: of a step in the absorbing state.
      absorbed_value: (1 - gamma) times the absorbing state's value; None: it is worth 0, no step there counts, and N is B.
    """
    goes_on = gamma * (1.0 - terminated) * next_value
    if absorbed_value is None:
        return reward + goes_on - value, jnp.ones_like(value)
    steps_after = gamma / (1.0 - gamma)
    live = reward + goes_on + steps_after * terminated * absorbed_value - value
    mass = jnp.append(jnp.ones_like(value), steps_after * terminated.sum())
    return jnp.append(live, absorbed_reward - absorbed_value), mass


def mean(x: Float[Array, " N"], mass: Float[Array, " N"]) -> Scalar:
    """sum_i m_i x_i / sum_i m_i."""
    return (mass * x).sum() / mass.sum()


def log_mean_exp(x: Float[Array, " N"], mass: Float[Array, " N"]) -> Scalar:
    """log of the mean of exp(x): the dual of KL (Donsker & Varadhan). No gradient is held back."""
    return jax.nn.logsumexp(x, b=mass) - jnp.log(mass.sum())


def kl_weight(x: Float[Array, " N"], mass: Float[Array, " N"]) -> Float[Array, " N"]:
    """exp(x) over its mean: what x says of how much more often a step should be taken. A constant.

    exp(x) alone has no scale: adding a number to V changes nothing in the loss, but multiplies it.
    """
    return jax.lax.stop_gradient(jnp.exp(x - log_mean_exp(x, mass)))


def chi_square_conjugate(x: Float[Array, " N"], mass: Float[Array, " N"]) -> Scalar:
    """Mean of f*(x) with f(w) = (w - 1)^2 over w >= 0 (see `implicit.chi_square_loss`)."""
    return mean(jax.vmap(chi_square_loss, (0, None))(x, 1.0), mass)


def chi_square_weight(x: Float[Array, " N"], mass: Float[Array, " N"]) -> Float[Array, " N"]:
    """(f*)'(x) = max(1 + x / 2, 0), a constant."""
    return jax.lax.stop_gradient(jnp.maximum(1.0 + 0.5 * x, 0.0))


class Divergence(NamedTuple):
    """conjugate: (x, mass) -> what of the residuals is minimised.  weight: (x, mass) -> how often a step is to be taken, over how
    often it was."""

    conjugate: Callable
    weight: Callable


DIVERGENCES = {
    "kl": Divergence(log_mean_exp, kl_weight),
    "chi_square": Divergence(chi_square_conjugate, chi_square_weight),
}


def mixture_loss(
    demonstrated: Float[Array, " N"],
    demonstrated_mass: Float[Array, " N"],
    other: Float[Array, " M"],
    other_mass: Float[Array, " M"],
    starts: Scalar,
    share: Number,
) -> Scalar:
    """ValueDICE's objective, minimised over nu and maximised over the policy: Kostrikov et al., 2020 (arXiv:1912.05032).

    log E exp(x) - (1 - share) starts - share E_other[x], with the first mean over both, in which `other` has this share.

    Args:
      demonstrated, other: x = nu(s, a) - gamma nu(s', a') with a' of the policy.
      starts: (1 - gamma) times the mean of nu(s, a), a of the policy, over states that episodes start in.
    """
    x = jnp.concatenate([demonstrated, other])
    shares = (1.0 - share) / demonstrated_mass.sum(), share / other_mass.sum()
    mass = jnp.concatenate([shares[0] * demonstrated_mass, shares[1] * other_mass])
    return log_mean_exp(x, mass) - (1.0 - share) * starts - share * mean(other, other_mass)
