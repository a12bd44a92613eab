"""Digits of numbers, against intervals that are zoomed into one after another."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from rljax import coarse_to_fine as lib
from rljax.errors import UserError

GRIDS = [lib.grid(-1.0, 1.0, 5, 3), lib.grid(-2.0, 6.0, 3, 4), lib.grid(0.0, 1.0, 2, 1)]


@pytest.mark.parametrize("grid", GRIDS)
def test_all_digits_are_those_of_their_middle(grid):
    digits = np.array(list(itertools.product(range(grid.num_bins), repeat=grid.num_levels)))
    found = lib.decode(grid, jnp.array(digits))
    np.testing.assert_array_equal(lib.encode(grid, found), digits)
    width = (grid.high - grid.low) / len(digits)
    np.testing.assert_allclose(found, grid.low + width * (np.arange(len(digits)) + 0.5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_digits_and_middles_are_those_of_zooming_in(grid):
    x = np.random.default_rng(0).uniform(grid.low, grid.high, (50, 2)).astype(np.float32)
    low, high = np.full(x.shape, grid.low), np.full(x.shape, grid.high)
    digits, middles = [], []
    for _ in range(grid.num_levels):
        middles.append(0.5 * (low + high))
        width = (high - low) / grid.num_bins
        digits.append(np.floor((x - low) / width))
        low = low + width * digits[-1]
        high = low + width
    found = lib.encode(grid, jnp.array(x))
    np.testing.assert_array_equal(found, np.stack(digits, axis=-1))
    np.testing.assert_allclose(lib.middles(grid, found), np.stack(middles, axis=-1), atol=1e-6)
    np.testing.assert_allclose(lib.decode(grid, found), 0.5 * (low + high), atol=1e-6)


@pytest.mark.parametrize("grid", [*GRIDS, lib.grid(-1.0, 1.0, 4, 10)])
def test_nothing_is_further_from_its_cell_than_half_of_it(grid):
    x = np.float32(np.r_[np.linspace(grid.low, grid.high, 1001), np.nextafter(np.float32(grid.high), grid.low)])
    half = 0.5 * (grid.high - grid.low) / grid.num_bins**grid.num_levels
    assert np.abs(lib.decode(grid, lib.encode(grid, jnp.array(x))) - x).max() <= half + 2e-7 * (grid.high - grid.low)


def test_outside_of_the_box_is_its_border():
    found = lib.encode(GRIDS[0], jnp.array([-1.5, -1.0, 1.0, 7.0]))
    np.testing.assert_array_equal(found, [[0, 0, 0], [0, 0, 0], [4, 4, 4], [4, 4, 4]])


@pytest.mark.parametrize("num_bins, num_levels, said", [(1, 3, "num_bins=1"), (5, 0, "num_levels=0"), (2, 21, "finer")])
def test_what_tells_nothing_apart_is_refused(num_bins, num_levels, said):
    with pytest.raises(UserError, match=said):
        lib.grid(-1.0, 1.0, num_bins, num_levels)
