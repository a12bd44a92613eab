"""Sequences of K actions, one told at each step for that step and those that follow: what is done of all that overlap, and how a
sequence goes on past the end of its episode."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Number = Float[Array, ""] | float  # a hyperparameter, traced or not


class Ensemble(NamedTuple):
    """What the sequences told so far say of the K - 1 steps to come: sums of their weighted actions, and of the weights."""

    total: Float[Array, "K-1 D"]
    weight: Float[Array, " K-1"]


def begin(length: int, size: int) -> Ensemble:
    """Nothing told yet of sequences of `length` actions with `size` dimensions, as at the start of an episode."""
    return Ensemble(jnp.zeros((length - 1, size)), jnp.zeros(length - 1))


def act(ensemble: Ensemble, sequence: Float[Array, "K D"], gain: Number) -> tuple[Float[Array, " D"], Ensemble]:
    """The temporal ensemble: the mean of what this sequence and those before it say of the present step.

    Zhao et al., 2023 (arXiv:2304.13705), algorithm 2: weights are exp(-gain i), i = 0 for the oldest. So each sequence counts
    exp(gain) times the one told after it, however many there are, and sums suffice. A negative gain trusts the newest more.
    """
    growth = jnp.exp(gain)
    total = sequence.at[:-1].add(growth * ensemble.total)
    weight = jnp.ones(len(sequence)).at[:-1].add(growth * ensemble.weight)
    return total[0] / weight[0], Ensemble(total[1:], weight[1:])


def held(action: Float[Array, "K D"], mask: Bool[Array, " K"]) -> Float[Array, "K D"]:
    """Actions of which the first belong (`mask`), the last of these being repeated in the place of all others."""
    return jnp.where(mask[:, None], action, action[mask.sum() - 1])
