"""Which pairs are asked about, and how far points lie apart: against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.data import neighbours, queries
from rljax.errors import UserError

# three rewards, four pairs: agreed and sure, agreed and unsure, at odds, at odds by little
SCORES = jnp.array(
    [[[9, 0], [0.1, 0], [5, 0], [1, 0]], [[9, 0], [0.1, 0], [0, 5], [0, 1]], [[9, 0], [0.1, 0], [5, 0], [1, 0]]]
)


def test_disagreement_and_entropy_are_numpys():
    p = 1.0 / (1.0 + np.exp(-(np.asarray(SCORES)[..., 0] - np.asarray(SCORES)[..., 1])))
    np.testing.assert_allclose(queries.disagreement(SCORES), p.std(0), atol=1e-6)
    np.testing.assert_allclose(queries.entropy(SCORES), -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean(0), atol=1e-6)


def test_those_are_asked_about_that_the_most_is_to_be_learned_from():
    assert queries.choose("disagreement", SCORES, 2).tolist() == [2, 3]
    assert queries.choose("entropy", SCORES, 2).tolist() == [1, 3]
    assert queries.choose("uniform", SCORES, 2).tolist() == [0, 1]
    with pytest.raises(UserError, match="no selection 'entropi'; nearest: entropy"):
        queries.choose("entropi", SCORES, 2)


def test_distances_to_neighbours_are_numpys():
    points, among = np.random.default_rng(0).normal(size=(5, 3)), np.random.default_rng(1).normal(size=(8, 3))
    among[2] = points[1]
    same = np.arange(5)[:, None] * 2 == np.arange(8)  # point 1 is number 2
    for nearest in (1, 3):
        expected = []
        for i, point in enumerate(points):
            others = np.delete(among, np.flatnonzero(same[i]), 0)
            expected.append(np.sort(np.linalg.norm(others - point, axis=1))[nearest - 1])
        found = neighbours.distances(jnp.array(points), jnp.array(among), jnp.array(same), nearest)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert neighbours.distances(points[:1], among[:1], same[:1, :1], 1).tolist() == [np.inf]
    with pytest.raises(UserError, match="number 9 needs at least as many points .* not 8"):
        neighbours.distances(points, among, same, 9)


def test_mean_log_distances_follow_the_entropy():
    """Of uniform points on a square of side 3, log 9 more than of side 1: log distances of half as much, in two dimensions."""
    points = jax.random.uniform(jax.random.key(0), (500, 2))
    same = jnp.eye(500, dtype=bool)
    small, large = (jnp.log(neighbours.distances(side * points, side * points, same, 5)).mean() for side in (1.0, 3.0))
    np.testing.assert_allclose(2.0 * (large - small), np.log(9.0), rtol=1e-4)
