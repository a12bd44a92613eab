"""How far a policy's action is from the one in the data, for one transition."""

import chex
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
