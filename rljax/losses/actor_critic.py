"""Losses of critics that judge actions and of policies that climb them, for one transition. E counts the critics of an ensemble.

The losses of policies are the values below with a minus sign; the critic's parameters are constants in them. The critics' target
is that of losses.value.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = Float[Array, ""]
Number = Scalar | float  # a hyperparameter, traced or not


def clipped_q(q: Float[Array, " E *A"]) -> Float[Array, " *A"]:
    """The lowest of the critics' opinions. Fujimoto et al., 2018 (arXiv:1802.09477), equation 10; with E = 1 just Q.

    It is looked up rather than reduced to: the gradient of a minimum is shared among all that equal it, and where a compiler
    computes Q twice and rounds it differently that may be none of them, which gives 0 / 0.
    """
    return jnp.take_along_axis(q, q.argmin(axis=0)[None], axis=0)[0]


def soft_value(q: Float[Array, " E"], log_prob: Scalar, temperature: Number) -> Scalar:
    """Estimate of the soft state value from one action of the policy, min_e Q_e(s, a) - alpha log pi(a|s).

    Haarnoja et al., 2018 (arXiv:1812.05905), equation 3, with the lower of two critics (section 5). Its negative is the policy's
    loss (equation 7) when the action is a differentiable sample and the temperature a constant.
    """
    chex.assert_rank([q, log_prob], [1, 0])
    return clipped_q(q) - temperature * log_prob


def expected_soft_value(q: Float[Array, "E A"], log_prob: Float[Array, " A"], temperature: Number) -> Scalar:
    """The soft state value exactly, sum_a pi(a|s) (min_e Q_e(s, a) - alpha log pi(a|s)), for discrete actions.

    Christodoulou, 2019 (arXiv:1910.07207), equation 10; its negative is the policy's loss (equation 12).
    """
    chex.assert_rank([q, log_prob], [2, 1])
    return (jnp.exp(log_prob) * (clipped_q(q) - temperature * log_prob)).sum()


def temperature_loss(log_temperature: Scalar, entropy: Scalar, target_entropy: Number) -> Scalar:
    """alpha (H - target): falls by a lower temperature while the policy's entropy H, a constant here, is above its target.

    Haarnoja et al., 2018 (arXiv:1812.05905), equation 18, where H is -log pi(a|s) of one action; with discrete actions it is exact
    (arXiv:1910.07207, equation 11).
    """
    chex.assert_rank([log_temperature, entropy], 0)
    return jnp.exp(log_temperature) * jax.lax.stop_gradient(entropy - target_entropy)


def smoothed_action(action: Float[Array, " A"], noise: Float[Array, " A"], clip: Number) -> Float[Array, " A"]:
    """`action` moved by `noise`, which is first kept within `clip`; the result stays in [-1, 1].

    Target policy smoothing: Fujimoto et al., 2018 (arXiv:1802.09477), equation 14.
    """
    chex.assert_equal_shape([action, noise])
    return jnp.clip(action + jnp.clip(noise, -clip, clip), -1.0, 1.0)
