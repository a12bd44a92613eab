"""How far apart points lie: particles' estimate of an entropy, a reward for going where one has not been."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rljax.errors import UserError


def distances(
    points: Float[Array, "B D"], among: Float[Array, "M D"], same: Bool[Array, "B M"], nearest: int
) -> Float[Array, " B"]:
    """Euclidean distance from each point to its `nearest`-th neighbour `among` others, those that are the point itself left out.

    The mean of its logarithm is, up to constants, an estimate of the points' entropy (Singh et al., 2003, "Nearest neighbor
    estimates of entropy"). Infinite where there are fewer others.

    Raises:
      UserError: there are fewer than `nearest` others at all.
    """
    if not 1 <= nearest <= among.shape[0]:
        raise UserError(
            f"A neighbour number {nearest} needs at least as many points to be among, not {among.shape[0]}."
        )
    # squares are differences' own, not |a|^2 - 2 a b + |b|^2, which loses near neighbours to rounding
    squared = jax.vmap(lambda point: jnp.square(among - point).sum(-1))(points)
    nearest_first = jax.lax.top_k(-jnp.where(same, jnp.inf, squared), nearest)[0]
    return jnp.sqrt(-nearest_first[:, -1])
