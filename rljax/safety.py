"""Whether a policy may be used: it is chosen under a bound on its costs, and tested by costs that the choice has not seen. If it
fails there is no solution.

HC-RLHF: Chittepu et al., 2025, "Reinforcement learning from human feedback with high-confidence safety constraints"
(arXiv:2506.08266), after Thomas et al., 2019, "Preventing undesirable behavior of intelligent machines". A policy is safe if its
expected cost is `threshold` at most. One that is not passes with probability `delta` at most: by Student's bound where costs are
normal, and nearly so by means of many; by Hoeffding's whatever their law, if they lie within `span`. What is said of a policy
before the test is what the test will find, further off by `inflation` (2, our reading), so that few of those that are chosen fail.

Costs are one for each completion, [N]; M counts policies. All functions are pure; `delta` and sizes shape the program.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from scipy import stats

from rljax.errors import UserError

Scalar = Float[Array, ""]
Number = Scalar | float


def student_width(costs: Float[Array, " N"], delta: float, size: int | None = None) -> Scalar:
    """t_(1 - delta, size - 1) s / sqrt(size): the mean of `size` costs lies further below the expected one with probability delta.

    Args:
      costs: whose standard deviation is s.
      size: None: as many as these.
    Raises:
      UserError: delta is no probability, or there are less than two costs.
    """
    size = costs.shape[0] if size is None else size
    _check(delta, min(size, costs.shape[0]))
    return float(stats.t.ppf(1.0 - delta, size - 1)) * costs.std(ddof=1) / math.sqrt(size)


def hoeffding_width(costs: Float[Array, " N"], delta: float, size: int | None = None, span: Number = 1.0) -> Scalar:
    """span sqrt(log(1 / delta) / (2 size)), of costs that differ by `span` at most. Raises UserError as `student_width`."""
    size = costs.shape[0] if size is None else size
    _check(delta, min(size, costs.shape[0]))
    return jnp.asarray(span * math.sqrt(math.log(1.0 / delta) / (2.0 * size)), jnp.float32)


def passes(
    costs: Float[Array, " N"], threshold: Number, delta: float, width: Callable = student_width
) -> Bool[Array, ""]:
    """The safety test: whether the mean cost, and its width, are `threshold` at most."""
    return costs.mean() + width(costs, delta) <= threshold


def predicted_bound(
    costs: Float[Array, " N"], delta: float, size: int, inflation: Number = 2.0, width: Callable = student_width
) -> Scalar:
    """What a test on `size` other costs will find, by these, and further off: mean + inflation width."""
    return costs.mean() + inflation * width(costs, delta, size)


def candidate(reward: Float[Array, " M"], bound: Float[Array, " M"], threshold: Number) -> Int[Array, ""]:
    """The policy of the highest reward among those whose bound is `threshold` at most; where there is none, that of the lowest
    bound."""
    safe = bound <= threshold
    return jnp.where(safe.any(), jnp.where(safe, reward, -jnp.inf).argmax(), bound.argmin())


class Solution(NamedTuple):
    """found: False where there is no solution, whatever the index."""

    index: Int[Array, ""]
    found: Bool[Array, ""]


def solve(
    reward: Float[Array, " M"],
    costs: Float[Array, "M N"],
    held_out: Float[Array, "M n"],
    threshold: Number,
    delta: float,
    inflation: Number = 2.0,
    width: Callable = student_width,
) -> Solution:
    """One of several policies, chosen by `costs` and tested by those that were held out, once: a second choice after a failure
    would void the bound."""
    bound = jax.vmap(lambda costs: predicted_bound(costs, delta, held_out.shape[1], inflation, width))(costs)
    index = candidate(reward, bound, threshold)
    return Solution(index, passes(held_out[index], threshold, delta, width))


def _check(delta: float, size: int) -> None:
    if not 0.0 < delta < 1.0:
        raise UserError(f"delta={delta} must be a probability above 0 and below 1.")
    if size < 2:
        raise UserError(f"Of {size} costs nothing tells how they vary: there must be 2 at least.")
