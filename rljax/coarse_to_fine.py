"""Numbers of a box as digits, the coarsest first: each level cuts the cell that those before it have chosen into equal bins.

Seo et al., 2024, "Continuous control with coarse-to-fine reinforcement learning", arXiv:2407.07787. There intervals are zoomed
into one after another. As all bins of a level are alike, the digits are those of the finest cell's number, and nothing is rounded
on the way.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rljax.errors import UserError

MOST_CELLS = 2**20  # so that float32 tells a cell's middle from its border


class Grid(NamedTuple):
    """num_bins^num_levels equal cells from `low` to `high`."""

    low: float
    high: float
    num_bins: int
    num_levels: int


def grid(low: float, high: float, num_bins: int, num_levels: int) -> Grid:
    """Raises UserError where nothing is told apart, or more than float32 can."""
    if num_bins < 2 or num_levels < 1:
        raise UserError(f"num_bins={num_bins} must be at least 2 and num_levels={num_levels} at least 1.")
    if num_bins**num_levels > MOST_CELLS:
        raise UserError(f"{num_levels} levels of {num_bins} bins are finer than float32 tells apart: take fewer.")
    return Grid(low, high, num_bins, num_levels)


def encode(grid: Grid, x: Float[Array, "*B"]) -> Int[Array, "*B L"]:
    """The digits of the cell that holds each number; of a number outside of the box those of the nearest cell."""
    num_cells = grid.num_bins**grid.num_levels
    share = (x - grid.low) / (grid.high - grid.low)
    cell = jnp.clip(jnp.floor(share * num_cells), 0, num_cells - 1).astype(jnp.int32)
    return cell[..., None] // _places(grid, grid.num_levels) % grid.num_bins


def decode(grid: Grid, digits: Int[Array, "*B l"]) -> Float[Array, "*B"]:
    """The middle of what the first l levels have chosen: of the whole box where l = 0, of a finest cell where all have."""
    count = digits.shape[-1]
    cell = (digits * _places(grid, count)).sum(axis=-1)
    return grid.low + (grid.high - grid.low) * (cell + 0.5) / grid.num_bins**count


def middles(grid: Grid, digits: Int[Array, "*B L"]) -> Float[Array, "*B L"]:
    """For each level the middle of what those before it have chosen, which its own bins cut."""
    return jnp.stack([decode(grid, digits[..., :level]) for level in range(grid.num_levels)], axis=-1)


def _places(grid: Grid, count: int) -> Int[np.ndarray, " l"]:
    """What each of `count` digits counts for."""
    return grid.num_bins ** np.arange(count, dtype=np.int32)[::-1]
