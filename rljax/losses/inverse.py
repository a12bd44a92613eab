"""Losses that make of values the reward under which they are soft-optimal, for one step, or for the tokens of one completion.

With r = Q(s, a) - gamma V(s'), values are changed so that demonstrations are paid and other steps are not; a concave phi says how
much more is too much. IQ-Learn: Garg et al., 2021 (arXiv:2106.12142).
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Scalar = Float[Array, ""]
Number = Scalar | float  # a hyperparameter, traced or not
EDGE = -0.5  # below it, functions that fall to minus infinity at -1 or -log 2 go on as straight lines


def soft_reward(q: Scalar, next_value: Scalar, discount: Number) -> Scalar:
    """r = Q(s, a) - discount V(s'): the reward for which Q is right (the inverse soft Bellman operator of arXiv:2106.12142)."""
    chex.assert_rank([q, next_value], 0)
    return q - discount * next_value


def chi_square(reward: Scalar, alpha: Number) -> Scalar:
    """r - r^2 / (4 alpha)."""
    chex.assert_rank(reward, 0)
    return reward - jnp.square(reward) / (4.0 * alpha)


def reverse_kl(reward: Scalar, alpha: Number) -> Scalar:
    """-exp(-(r + 1)), below -10 a straight line."""
    chex.assert_rank(reward, 0)
    safe = jnp.maximum(reward, -10.0)
    return -jnp.exp(-(safe + 1.0)) * (1.0 - (reward - safe))


def hellinger(reward: Scalar, alpha: Number) -> Scalar:
    """r / (1 + r), of the squared Hellinger distance."""
    chex.assert_rank(reward, 0)
    safe = jnp.maximum(reward, EDGE)
    return safe / (1.0 + safe) + (reward - safe) / (1.0 + EDGE) ** 2


def jensen_shannon(reward: Scalar, alpha: Number) -> Scalar:
    """log(2 - exp(-r))."""
    chex.assert_rank(reward, 0)
    safe = jnp.maximum(reward, EDGE)
    slope = jnp.exp(-EDGE) / (2.0 - jnp.exp(-EDGE))
    return jnp.log(2.0 - jnp.exp(-safe)) + (reward - safe) * slope


def total_variation(reward: Scalar, alpha: Number) -> Scalar:
    """r, but never above 1/2."""
    chex.assert_rank(reward, 0)
    return jnp.minimum(reward, 0.5)


DIVERGENCES = {
    "chi_square": chi_square,
    "reverse_kl": reverse_kl,
    "hellinger": hellinger,
    "jensen_shannon": jensen_shannon,
    "total_variation": total_variation,
}


def token_rewards(
    q: Float[Array, " T"], value: Float[Array, " T"], there: Bool[Array, " T"], discount: Number
) -> Float[Array, " T"]:
    """`soft_reward` of each token of a completion, 0 where none is `there`. The last one ends it, END or not: what
    follows is worth 0.

    Args:
      q: of the tokens that were taken.
      value: of what stood before each.
    """
    following = jnp.append(jnp.where(there, value, 0.0)[1:], 0.0)
    return jnp.where(there, jax.vmap(soft_reward, (0, 0, None))(q, following, discount), 0.0)


def iq_of_tokens(
    q: Float[Array, " T"],
    value: Float[Array, " T"],
    there: Bool[Array, " T"],
    discount: Number,
    alpha: Number,
    divergence: str = "chi_square",
) -> Float[Array, " T"]:
    """IQ-Learn's loss of the tokens of a demonstration, V(s) - discount V(s') - phi(r), 0 where none is there.

    With chi_square it is -log p(token) + r^2 / (4 alpha): the likelihood, with a penalty on squared rewards, as Wulfmeier et al.,
    2024 (arXiv:2409.01369), write it, whose lambda is alpha here.
    """
    reward = token_rewards(q, value, there, discount)
    phi = jax.vmap(DIVERGENCES[divergence], (0, None))(reward, alpha)
    return jnp.where(there, value - (q - reward) - phi, 0.0)
