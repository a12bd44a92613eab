"""Returns taken apart into what was done and what happened: advantages along one sequence [T]."""

import chex
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Scalar = Float[Array, ""]
Sequence = Float[Array, " T"]


def centred(value: Float[Array, " N"], probs: Float[Array, " N"]) -> Float[Array, " N"]:
    """`value` less its mean by `probs`: advantages under a policy, or luck under what was likely to happen."""
    chex.assert_rank([value, probs], 1)
    return value - probs @ value


def decomposition_error(
    reward_t: Sequence,
    discount_t: Sequence,
    mask_t: Bool[Array, " T"],
    advantage_t: Sequence,
    luck_t: Sequence,
    gamma: Scalar | float,
    value_0: Scalar,
    value_n: Scalar,
) -> Scalar:
    """sum_t gamma^t (r_t - A_t - gamma B_t) + gamma^n V(s_n) - V(s_0), 0 for any actions where A, B and V are a policy's.

    Off-policy DAE, without importance weights: Pan & Schölkopf, 2024 (arXiv:2402.12874), whose loss is its square. Without luck
    (B = 0) it is DAE, right on policy alone: Pan et al., 2022 (arXiv:2109.06093).

    Args:
      discount_t: gamma, or 0 where the MDP terminated with this step. What happened then is luck too, so B counts by `gamma`.
      mask_t: which steps belong, the first ones up to the episode's end.
      advantage_t: A(s_t, a_t), whose mean under the policy is 0.
      luck_t: B(s_t, a_t, s_{t+1}) = V(s_{t+1}) - E V(s_{t+1}), whose mean over what follows is 0.
      value_n: V of what the last step that belongs led to.
    """
    chex.assert_equal_shape([reward_t, discount_t, mask_t, advantage_t, luck_t])
    decay = jnp.cumprod(jnp.where(mask_t, discount_t, 1.0))
    before = jnp.concatenate([jnp.ones_like(decay[:1]), decay[:-1]])
    return (mask_t * before * (reward_t - advantage_t - gamma * luck_t)).sum() + decay[-1] * value_n - value_0
