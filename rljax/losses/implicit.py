"""Losses of a state value learnt from actions in the data alone, for one transition, and the weights that its policy gives them.

All take the difference d = Q(s, a) - V(s), whose Q is a constant, and one number that says how far above the data's mean action
V is to lie. They are interchangeable (`VALUE_LOSSES`): IQL, XQL and f-DVL differ in nothing else.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = Float[Array, ""]
Number = Scalar | float  # a hyperparameter, traced or not


def expectile_loss(difference: Scalar, expectile: Number) -> Scalar:
    """|tau - 1(d < 0)| d^2: V becomes the tau-expectile of Q, the mean at 0.5, towards the maximum at 1.

    IQL: Kostrikov et al., 2021 (arXiv:2110.06169), equation 5.
    """
    chex.assert_rank(difference, 0)
    return jnp.where(difference < 0.0, 1.0 - expectile, expectile) * jnp.square(difference)


def gumbel_loss(difference: Scalar, temperature: Number, clip: float = 7.0) -> Scalar:
    """e^z - z - 1 with z = d / T: V becomes T log E exp(Q / T), the mean for large T, the maximum for small.

    XQL: Garg et al., 2023 (arXiv:2301.02328). Above z = `clip` the exponential goes on as its tangent, so that the
    loss stays convex and its gradient finite.
    """
    chex.assert_rank(difference, 0)
    z = difference / temperature
    low = jnp.minimum(z, clip)
    return jnp.exp(low) * (1.0 + z - low) - z - 1.0


def chi_square_loss(difference: Scalar, weight: Number) -> Scalar:
    """lambda f*(d) - (1 - lambda) d, with the conjugate of the Pearson divergence f(x) = (x - 1)^2 over x >= 0.

    f*(d) = d + d^2 / 4 above -2, and -1 below. Where no d is below -2, V lies 4 - 2 / lambda above the mean of Q: nothing at
    lambda = 1 / 2, and with it all values rise. f-DVL: Sikchi et al., 2023 (arXiv:2302.08560).
    """
    chex.assert_rank(difference, 0)
    inside = jnp.maximum(difference, -2.0)
    return weight * (inside + jnp.square(inside) / 4.0) - (1.0 - weight) * difference


def total_variation_loss(difference: Scalar, weight: Number) -> Scalar:
    """lambda max(d, 0) - (1 - lambda) d: V becomes a quantile of Q, that of level 2 - 1 / lambda.

    f-DVL with the total variation: arXiv:2302.08560; the level follows where the gradient vanishes.
    """
    chex.assert_rank(difference, 0)
    return weight * jnp.maximum(difference, 0.0) - (1.0 - weight) * difference


VALUE_LOSSES = {
    "expectile": expectile_loss,
    "gumbel": gumbel_loss,
    "chi_square": chi_square_loss,
    "total_variation": total_variation_loss,
}


def advantage_weight(advantage: Scalar, inverse_temperature: Number, cap: Number) -> Scalar:
    """min(exp(beta A), cap), a constant: how much the policy copies an action.

    Peng et al., 2019 (arXiv:1910.00177), equation 9; Nair et al., 2020 (arXiv:2006.09359), equation 13.
    """
    chex.assert_rank(advantage, 0)
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(inverse_temperature * advantage), cap))


def chi_square_weight(difference: Scalar, cap: Number) -> Scalar:
    """(f*)'(d) = max(1 + d / 2, 0) of `chi_square_loss`, capped, a constant: how much more often than the data an action is taken.

    Mao et al., 2024 (arXiv:2402.00348); Sikchi et al., 2023 (arXiv:2302.08560).
    """
    chex.assert_rank(difference, 0)
    return jax.lax.stop_gradient(jnp.clip(1.0 + 0.5 * difference, 0.0, cap))


def indicator_weight(advantage: Scalar) -> Scalar:
    """1(A > 0), a constant: the policy copies what is better than its own actions, and nothing else.

    CRR: Wang et al., 2020 (arXiv:2006.15134), equation 3.
    """
    chex.assert_rank(advantage, 0)
    return jax.lax.stop_gradient(jnp.float32(advantage > 0.0))
