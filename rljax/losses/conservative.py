"""Losses that keep critics from believing in actions that the data does not show, for one transition.

They are added to a critic's own loss and differentiated through all of its values: what is pushed down is no constant.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = Float[Array, ""]
Number = Scalar | float  # a hyperparameter, traced or not


def conservative_gap(q: Float[Array, " A"], q_data: Scalar) -> Scalar:
    """log sum_a exp Q(s, a) - Q(s, a_data) of one critic, over all A actions: a soft maximum goes down, the data's action up.

    CQL(H): Kumar et al., 2020 (arXiv:2006.04779), equation 4.
    """
    chex.assert_rank([q, q_data], [1, 0])
    return jax.nn.logsumexp(q) - q_data


def sampled_soft_maximum(q: Float[Array, " M"], log_density: Float[Array, " M"]) -> Scalar:
    """log of the integral of exp Q(s, a) over all actions, from M of them.

    The integral is the mean of exp(Q) / density over actions drawn by that density, a constant here; actions of several
    laws are averaged together. arXiv:2006.04779, appendix F ("computing log sum exp Q").

    Args:
      q: one critic's values of the sampled actions, all of them in one state.
      log_density: of each action by the law that it was drawn from.
    """
    chex.assert_equal_shape([q, log_density])
    return jax.nn.logsumexp(q - jax.lax.stop_gradient(log_density)) - jnp.log(q.shape[0])


def sampled_conservative_gap(q: Float[Array, " M"], log_density: Float[Array, " M"], q_data: Scalar) -> Scalar:
    """`conservative_gap` where actions are continuous, by `sampled_soft_maximum` in the state of `q_data`."""
    chex.assert_rank([q, q_data], [1, 0])
    return sampled_soft_maximum(q, log_density) - q_data


def calibrated_q(q: Float[Array, " M"], floor: Scalar) -> Float[Array, " M"]:
    """max(Q, V_ref): what is pushed down of the values of the policy's actions. Below `floor`, a constant, it has no gradient.

    Cal-QL: Nakamoto et al., 2023 (arXiv:2303.05479), with a Monte-Carlo return of the data as V_ref.
    """
    chex.assert_rank([q, floor], [1, 0])
    return jnp.maximum(q, jax.lax.stop_gradient(floor))


def multiplier_loss(log_multiplier: Scalar, gap: Scalar, target_gap: Number) -> Scalar:
    """alpha (target - gap): the Lagrange multiplier rises while the gap, a constant here, is above its target.

    CQL(Lagrange): arXiv:2006.04779, appendix F, where alpha maximises alpha (gap - target).
    """
    chex.assert_rank([log_multiplier, gap], 0)
    return jnp.exp(log_multiplier) * jax.lax.stop_gradient(target_gap - gap)


def gradient_similarity(gradient: Float[Array, "E A"], epsilon: float = 1e-10) -> Scalar:
    """Sum over pairs i != j of cos(g_i, g_j), over E - 1, for the gradients g of E critics in the action.

    At most E, where all point the same way: then an action a little off the data moves all critics alike, and their lowest
    is no lower than the others. Gradients shorter than `epsilon` have no direction and count as 0. EDAC: An et al., 2021
    (arXiv:2110.01548), section 4.2 and algorithm 1. Costs O(E A), by |sum_i u_i|^2 = sum_i |u_i|^2 + sum over pairs.
    """
    chex.assert_rank(gradient, 2)
    length = jnp.sqrt(jnp.maximum(jnp.square(gradient).sum(-1, keepdims=True), epsilon**2))
    unit = gradient / length
    return (jnp.square(unit.sum(0)).sum() - jnp.square(unit).sum()) / (gradient.shape[0] - 1)
