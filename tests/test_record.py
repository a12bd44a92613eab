"""Records are pytrees, and two kinds of them are never taken for each other."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from rljax.envs import probes
from rljax.record import record, static


@record
class Point:
    x: float
    y: float = 0.0
    name: str = static("point")


@record
class Vector:
    x: float
    y: float = 0.0
    name: str = static("point")


def test_fields_are_children_unless_static():
    leaves, structure = jax.tree.flatten(Point(1.0, 2.0, "a"))
    assert leaves == [1.0, 2.0]
    assert jax.tree.unflatten(structure, leaves) == Point(1.0, 2.0, "a")
    assert structure != jax.tree.structure(Point(1.0, 2.0, "b"))
    assert [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(Point(1.0))] == [".x", ".y"]


def test_records_are_frozen_and_replaced():
    point = Point(1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2.0
    assert point.replace(y=3.0) == Point(1.0, 3.0)


def test_kinds_with_equal_fields_have_unequal_structures():
    """jit's caches find a program by the structure of its arguments. jaxlib calls those of registered dataclasses equal
    whatever their class, and then one environment's program was run for another's."""
    assert jax.tree.structure(Point(1.0)) != jax.tree.structure(Vector(1.0))
    kinds = [jax.tree.structure(kind()) for kind in probes.PROBES]
    assert all(a != b for i, a in enumerate(kinds) for b in kinds[:i])


def test_transformations_see_through_records():
    double = jax.jit(jax.vmap(lambda point: point.replace(x=2.0 * point.x)))
    assert double(Point(jnp.arange(3.0), jnp.zeros(3))).x.tolist() == [0.0, 2.0, 4.0]
