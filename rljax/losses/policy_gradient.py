"""Losses for policies from advantages of their own actions, for one step."""

import chex
import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = Float[Array, ""]
Number = Scalar | float  # a hyperparameter, traced or not


def clipped_surrogate(log_ratio: Scalar, advantage: Scalar, clip: Number, clip_high: Number | None = None) -> Scalar:
    """PPO's pessimistic surrogate, as a loss. Schulman et al., 2017 (arXiv:1707.06347), equation 7.

    Args:
      log_ratio: log pi(a|s) - log pi_behaviour(a|s).
      advantage: of the action taken; a constant.
      clip: how far from 1 the ratio may go before it stops paying.
      clip_high: how far upwards, where that differs (DAPO: Yu et al., 2025, arXiv:2503.14476).
    """
    chex.assert_rank([log_ratio, advantage], 0)
    ratio = jnp.exp(log_ratio)
    kept = jnp.clip(ratio, 1.0 - clip, 1.0 + (clip if clip_high is None else clip_high))
    return -jnp.minimum(ratio * advantage, kept * advantage)


def clipped_value_loss(value: Scalar, old_value: Scalar, target: Scalar, clip: Number) -> Scalar:
    """Half the squared error, or that of the value kept within `clip` of `old_value`, whichever is larger.

    From the code of PPO (openai/baselines, ppo2); not in its paper.
    """
    chex.assert_rank([value, old_value, target], 0)
    kept = old_value + jnp.clip(value - old_value, -clip, clip)
    return 0.5 * jnp.maximum((value - target) ** 2, (kept - target) ** 2)
