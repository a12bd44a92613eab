"""Losses of models that predict what steps lead to as features, rewards and terminations, for one sequence [H]."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rljax.losses.distributional import categorical_loss, two_hot

Scalar = Float[Array, ""]


def unrolled(
    features: Float[Array, "H D"],
    reward_logits: Float[Array, "H N"],
    termination: Float[Array, " H"],
    features_t: Float[Array, "H D"],
    reward_t: Float[Array, " H"],
    terminated_t: Bool[Array, " H"],
    mask: Bool[Array, " H"],
    support: Float[Array, " N"],
) -> tuple[Scalar, Scalar, Scalar]:
    """What a model unrolled over H steps from one observation loses by features, by rewards and by terminations, each summed over
    the steps that belong. Fujimoto et al., 2025 (arXiv:2501.16142), section 4.

    Args:
      features: predicted, of the observations that the steps lead to; their loss is the squared error's mean over D.
      reward_logits: of each step's reward, spread over `support`; their loss is that of `categorical_loss` to its two-hot.
      termination: predicted, 1 or 0; its loss is the squared error.
      features_t: of the observations that followed, a constant.
      mask: False for what comes after the end of the episode, which counts for nothing.
      support: rising, where rewards are.
    """
    chex.assert_equal_shape([features, features_t])
    chex.assert_equal_shape([termination, reward_t, terminated_t, mask])
    by_features = jnp.square(features - jax.lax.stop_gradient(features_t)).mean(axis=-1)
    targets = jax.vmap(two_hot, (0, None))(reward_t, support)
    by_rewards = jax.vmap(categorical_loss)(reward_logits, targets)
    by_terminations = jnp.square(termination - terminated_t)
    kept = lambda losses: jnp.where(mask, losses, 0.0).sum()
    return kept(by_features), kept(by_rewards), kept(by_terminations)
