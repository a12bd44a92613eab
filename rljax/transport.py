"""Optimal transport between two weighted point clouds: how much of each point of the one goes to each of the other, at least cost.

With a price epsilon on the plan's mutual information it is solved by Sinkhorn's iterations (Cuturi, 2013, arXiv:1306.0895), here in
logarithms, so that no epsilon is too small for a float. Points of weight 0 take no part: clouds are padded with them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def cosine_cost(x: Float[Array, "N D"], y: Float[Array, "M D"]) -> Float[Array, "N M"]:
    """1 - cosine of the angle between each pair, 0 to 2; 1 where one of them is 0."""

    def unit(z):
        square = jnp.square(z).sum(-1, keepdims=True)
        return jnp.where(square > 0.0, z * jax.lax.rsqrt(jnp.where(square > 0.0, square, 1.0)), 0.0)

    return 1.0 - unit(x) @ unit(y).T


def euclidean_cost(x: Float[Array, "N D"], y: Float[Array, "M D"]) -> Float[Array, "N M"]:
    """Distance of each pair; its gradient is 0 where they coincide."""
    square = jnp.square(x[:, None] - y[None]).sum(-1)
    return jnp.where(square > 0.0, jnp.sqrt(jnp.where(square > 0.0, square, 1.0)), 0.0)


COSTS = {"cosine": cosine_cost, "euclidean": euclidean_cost}


def uniform(mask: Bool[Array, " N"]) -> Float[Array, " N"]:
    """Equal weights of sum 1 where `mask` holds, 0 elsewhere."""
    return mask / jnp.maximum(mask.sum(), 1)


def sinkhorn(
    cost: Float[Array, "N M"],
    a: Float[Array, " N"],
    b: Float[Array, " M"],
    epsilon: Float[Array, ""] | float,
    num_iterations: int,
) -> Float[Array, "N M"]:
    """The plan P of least <P, cost> + epsilon KL(P | a b^T), with row sums `a` and column sums `b`, each of sum 1.

    For the first half of the iterations epsilon comes down to its value from that of the highest cost, which takes the potentials
    most of their way. Rows sum to `a` however few iterations there were; columns come to `b` with more of them, and need the more
    the smaller epsilon is.
    """
    there = (a[:, None] > 0.0) & (b > 0.0)
    ratio = jnp.maximum(jax.lax.stop_gradient(jnp.where(there, cost, 0.0).max()) / epsilon, 1.0)
    cooling = jnp.maximum(1.0 - 2.0 * jnp.arange(num_iterations) / num_iterations, 0.0)

    def softmin(x, weight, epsilon):
        """-epsilon log sum_j weight_j exp(-x_ij / epsilon)."""
        return -epsilon * jax.nn.logsumexp(-x / epsilon, b=weight, axis=-1)

    def iterate(g, epsilon):
        """The potentials of columns after those of rows."""
        return softmin(cost.T - softmin(cost - g, b, epsilon), a, epsilon), None

    g, _ = jax.lax.scan(iterate, jnp.zeros_like(b), epsilon * ratio**cooling)
    log_b = jnp.log(jnp.where(b > 0.0, b, 1.0))
    return a[:, None] * jax.nn.softmax((g - cost) / epsilon + log_b, where=b > 0.0)


def step_costs(
    x: Float[Array, "N D"],
    x_mask: Bool[Array, " N"],
    y: Float[Array, "M D"],
    y_mask: Bool[Array, " M"],
    cost_of,
    epsilon: Float[Array, ""] | float,
    num_iterations: int,
) -> Float[Array, " N"]:
    """What each point of `x` pays on its way to `y`, sum_j P_ij C_ij, all points weighing the same; they sum to the plan's cost.

    Args:
      x_mask, y_mask: which points there are.
      cost_of: one of COSTS.
    """
    cost = cost_of(x, y)
    plan = sinkhorn(cost, uniform(x_mask), uniform(y_mask), epsilon, num_iterations)
    return (plan * cost).sum(-1)
