"""Metrics that survive scans: a scalar is averaged over the iterations of a chunk, an `Average` by what it counted."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Average(NamedTuple):
    """A sum and how many terms it has, divided once at the very end. Nothing counted gives NaN."""

    total: Float[Array, "*S"]
    count: Float[Array, "*S"]


def average(values: Array, where: Array) -> Average:
    """The average of `values` where `where` holds."""
    return Average(jnp.where(where, values, 0.0).sum(), where.sum().astype(jnp.float32))


def mean(of: Average) -> Array:
    """What a loss makes of an average: total / count, and 0 where nothing was counted."""
    return of.total / jnp.maximum(of.count, 1.0)


def reduce(metrics: dict, axis: int = 0) -> dict[str, Array]:
    """Stacked metrics [K] of K iterations to one number each."""

    def leaf(x):
        if isinstance(x, Average):
            count = x.count.sum(axis)
            return jnp.where(count > 0, x.total.sum(axis) / jnp.maximum(count, 1.0), jnp.nan)
        return x.mean(axis)

    return jax.tree.map(leaf, metrics, is_leaf=lambda x: isinstance(x, Average))
