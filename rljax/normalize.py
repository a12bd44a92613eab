"""Running mean and variance of observations, kept in the agent's state, so that a policy carries its own normaliser.

Welford's update in the form for merging two sets (Chan, Golub & LeVeque, 1983, equations 2.1): exact however the data are split
over batches and devices.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax.record import record


@record
class RunningStatistics:
    """count, mean and summed squared deviation of everything seen."""

    count: Float[Array, ""]
    mean: Float[Array, "*shape"]
    deviation: Float[Array, "*shape"]

    @property
    def variance(self) -> Float[Array, "*shape"]:
        return self.deviation / jnp.maximum(self.count, 1.0)


def init(shape: tuple[int, ...]) -> RunningStatistics:
    return RunningStatistics(jnp.zeros(()), jnp.zeros(shape), jnp.zeros(shape))


def merge(a: RunningStatistics, b: RunningStatistics) -> RunningStatistics:
    """The statistics of both sets together."""
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1.0)
    difference = b.mean - a.mean
    return RunningStatistics(
        count, a.mean + difference * share, a.deviation + b.deviation + difference**2 * a.count * share
    )


def update(statistics: RunningStatistics, batch: Float[Array, "..."]) -> RunningStatistics:
    """Take in a batch [..., *shape]."""
    axes = tuple(range(batch.ndim - statistics.mean.ndim))
    count = jnp.float32(batch.size // max(statistics.mean.size, 1))
    mean = batch.mean(axes)
    return merge(statistics, RunningStatistics(count, mean, ((batch - mean) ** 2).sum(axes)))


def normalize(statistics: RunningStatistics, x: Array, limit: float = 10.0) -> Array:
    """`x` [..., *shape] with mean 0 and variance 1, clipped to [-limit, limit]. Before any data: `x` itself, clipped."""
    std = jnp.where(statistics.count > 0, jnp.sqrt(statistics.variance + 1e-8), 1.0)
    return jnp.clip((x - statistics.mean) / std, -limit, limit)
