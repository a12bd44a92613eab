"""How far a policy's action is from the one in the data, for one transition, and how steep a policy is between two states."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = Float[Array, ""]


def squared_distance(action: Float[Array, " A"], data_action: Float[Array, " A"], average: bool) -> Scalar:
    """The squared distance of two actions: summed over dimensions, or with `average` their mean.

    The sum: ReBRAC (Tarasov et al., 2023, arXiv:2305.09836). The mean: TD3+BC (Fujimoto & Gu, 2021, arXiv:2106.06860) as its
    authors compute it, so that its weight means the same whatever the number of dimensions.
    """
    chex.assert_equal_shape([action, data_action])
    square = jnp.square(action - data_action)
    return square.mean() if average else square.sum()


def squared_slope(
    action: Float[Array, " A"],
    other_action: Float[Array, " A"],
    state: Float[Array, " O"],
    other_state: Float[Array, " O"],
) -> Scalar:
    """|a - b|^2 / |x - y|^2 of two states and what is done in them; 0 where the states are the same."""
    chex.assert_equal_shape([action, other_action])
    chex.assert_equal_shape([state, other_state])
    between = jnp.square(state - other_state).sum()
    apart = between > 0.0
    return jnp.where(apart, jnp.square(action - other_action).sum() / jnp.where(apart, between, 1.0), 0.0)


def prefers(other_q: Scalar, own_q: Scalar) -> Scalar:
    """1 where a critic thinks more of another's action than of the policy's own, else 0: the Q-filter (Nair et al., 2018,
    arXiv:1709.10089), whose mean over states is ROT's soft one (Haldar et al., 2022, arXiv:2206.15469). A constant."""
    chex.assert_rank([other_q, own_q], 0)
    return jax.lax.stop_gradient((other_q > own_q).astype(own_q.dtype))
