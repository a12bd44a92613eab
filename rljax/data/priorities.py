"""Priorities of a replay's slots. Schaul et al., 2015, arXiv:1511.05952 ("proportional").

Slot i is drawn with probability p_i^alpha / sum_j p_j^alpha. The powers p^alpha are the leaves of a tree of sums in which a node
has FAN_OUT children: few levels, each of them one array operation over the whole batch. Writing or drawing B slots costs
O(B log capacity).

Sums are float32, and never corrected by differences: writing recomputes each parent from its children, so every node is
what it would be if the tree were built afresh and rounding does not accumulate.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rljax.record import record
from rljax.types import Key

FAN_OUT = 16
UP_TO = np.triu(np.ones((FAN_OUT, FAN_OUT), np.float32))  # x @ UP_TO are the cumulative sums of x
SMALLEST = 1e-6  # added to every priority, so that no slot is lost for good (epsilon in section 3.3 of the paper)


@record
class Priorities:
    """levels: from the leaves to the top, [ceil(capacity / 16), 16] to [1, 16]; a row sums to its entry in the level above.

    largest: the largest priority seen so far (before `alpha`).
    """

    levels: tuple[Float[Array, "nodes 16"], ...]
    largest: Float[Array, ""]


def init(capacity: int) -> Priorities:
    """Of `capacity` empty slots, which are never drawn."""
    sizes = [-(-capacity // FAN_OUT)]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // FAN_OUT))
    return Priorities(tuple(jnp.zeros((size, FAN_OUT)) for size in sizes), jnp.float32(1.0))


def insert(priorities: Priorities, slot: Int[Array, " B"], alpha: Float[Array, ""]) -> Priorities:
    """New experience at `slot`, with the largest priority seen: it is likely to be drawn soon (algorithm 1, line 6)."""
    return priorities.replace(levels=write(priorities.levels, slot, priorities.largest**alpha))


def update(
    priorities: Priorities, slot: Int[Array, " B"], priority: Float[Array, " B"], alpha: Float[Array, ""]
) -> Priorities:
    """Set p = priority + SMALLEST at `slot` (algorithm 1, line 12). A slot that comes twice keeps the larger priority.

    Args:
      priority: not negative: |TD error|, say.
      alpha: 0 draws uniformly, 1 in proportion to the priority. May be traced.
    """
    priority = priority + SMALLEST
    levels = write(priorities.levels, slot, priority**alpha)
    return Priorities(levels, jnp.maximum(priorities.largest, priority.max()))


def sample(priorities: Priorities, key: Key, shape: tuple[int, ...]) -> tuple[Int[Array, "*K B"], Float[Array, "*K B"]]:
    """Draw slots [..., B], stratified along B: the i-th falls into the i-th of B equal parts of the total (section 3.3).

    Positions are float32, of which there are 2^24 in [0, 1): with more slots than that neighbours are not told apart.

    Returns:
      (slots, their p^alpha). The powers are those met on the way: were they read again after, XLA could not tell that the read
      comes before the next write, and would copy the tree.
    """
    strata = jnp.arange(shape[-1]) + jax.random.uniform(key, shape)
    position = strata / shape[-1] * priorities.levels[-1].sum()
    slot = jnp.zeros(shape, jnp.int32)
    for level in reversed(priorities.levels):
        row = level[slot]  # [..., B, 16]
        # Where the entries end; 0 for empty ones, which rounding must not lead to.
        end = jnp.where(row > 0.0, jnp.matmul(row, UP_TO, precision="highest"), 0.0)
        position = jnp.minimum(position, jnp.nextafter(end.max(-1), 0.0))
        child = jnp.argmax(end > position[..., None], axis=-1)
        chosen = lambda x, child=child: jnp.take_along_axis(x, child[..., None], axis=-1)[..., 0]
        power = chosen(row)
        position = jnp.maximum(position - (chosen(end) - power), 0.0)
        slot = slot * FAN_OUT + child
    return slot, power


def importance_weights(power: Float[Array, "*K B"], beta: Float[Array, ""]) -> Float[Array, "*K B"]:
    """(capacity P(i))^-beta of samples drawn with their `power`, divided by the largest of the batch (along B).

    Section 3.4, so that weights only ever scale a step down. The largest is that of the batch, as in most code, not of all slots.

    Args:
      beta: 1 corrects the bias of drawing by priority in full, 0 not at all. May be traced.
    """
    return (power.min(-1, keepdims=True) / power) ** beta  # capacity and total cancel


def write(levels: tuple[Array, ...], slot: Int[Array, " B"], value: Float[Array, " B"]) -> tuple[Array, ...]:
    """Set leaves and recompute all that lies above them. Of several values for one slot the largest stays."""
    row, column = slot // FAN_OUT, slot % FAN_OUT
    written = [levels[0].at[row, column].set(0.0).at[row, column].max(value)]
    for level in levels[1:]:
        total = written[-1][row].sum(-1)
        row, column = row // FAN_OUT, row % FAN_OUT
        written.append(level.at[row, column].set(total))
    return tuple(written)
