"""Symbols: a few names for many observations, for what is counted by them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from rljax.errors import UserError
from rljax.names import nearest
from rljax.types import EnvSpec

BITS = 8


class Symbols(NamedTuple):
    """of: (observation [*B, ...]) -> [*B], one of 0 ... number - 1."""

    number: int
    of: Callable[[Array], Int[Array, "*B"]]


def states(spec: EnvSpec) -> Symbols:
    """The state itself, of observations that are one-hot [S]. Raises UserError where observations are no vectors."""
    if len(spec.observation_shape) != 1:
        raise UserError(f"Symbols of states read one-hot vectors, not observations of shape {spec.observation_shape}.")
    return Symbols(spec.observation_shape[0], lambda observation: observation.argmax(axis=-1))


def projections(spec: EnvSpec, bits: int = BITS, seed: int = 0) -> Symbols:
    """On which sides of `bits` planes through 0 an observation lies, whose directions are random but the same for all, by a seed.

    SimHash (Charikar, 2002), as Tang et al., 2016 (arXiv:1611.04717), count states by. It knows nothing of the task or of scales:
    entries far larger than others decide, so symbols of one's own are better where one has them.
    """
    size = math.prod(spec.observation_shape)
    power = 2 ** jnp.arange(bits)

    def of(observation):
        planes = jax.random.normal(jax.random.key(seed), (size, bits))
        flat = observation.reshape(*observation.shape[: observation.ndim - len(spec.observation_shape)], size)
        return ((flat @ planes >= 0.0) * power).sum(axis=-1)

    return Symbols(2**bits, of)


KINDS = {"states": states, "projections": projections}


def make(name: str, spec: EnvSpec) -> Symbols:
    """Symbols by name, one of KINDS. Raises UserError where there is no such kind."""
    if name not in KINDS:
        raise UserError(f"There are no symbols {name!r}; {nearest(name, KINDS)}")
    return KINDS[name](spec)
