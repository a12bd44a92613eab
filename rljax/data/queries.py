"""Which segments somebody is asked about: by what several learned rewards make of them. Lee et al., 2021 (PEBBLE, arXiv:2106.05091)
and Lee et al., 2021 (B-Pref, arXiv:2111.03026).

Every selection gives a number for each pair of scores [M, P, 2], of the M rewards; those of the highest numbers are asked about.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rljax.errors import UserError
from rljax.names import nearest

Scores = Float[Array, "M P 2"]


def uniform(scores: Scores) -> Float[Array, " P"]:
    """All alike: of pairs in random order the first."""
    return jnp.zeros(scores.shape[1])


def disagreement(scores: Scores) -> Float[Array, " P"]:
    """The standard deviation, over the rewards, of how likely the first segment is to be the better one."""
    return jax.nn.sigmoid(scores[..., 0] - scores[..., 1]).std(axis=0)


def entropy(scores: Scores) -> Float[Array, " P"]:
    """The mean, over the rewards, of the entropy in nats of which segment is the better one."""
    margin = scores[..., 0] - scores[..., 1]
    p = jax.nn.sigmoid(margin)
    return (p * jax.nn.softplus(-margin) + (1.0 - p) * jax.nn.softplus(margin)).mean(axis=0)


SELECTIONS = {"uniform": uniform, "disagreement": disagreement, "entropy": entropy}


def check(name: str) -> None:
    """Raises UserError where there is no selection of the name."""
    if name not in SELECTIONS:
        raise UserError(f"There is no selection {name!r}; {nearest(name, SELECTIONS)}")


def choose(name: str, scores: Scores, count: int) -> Int[Array, " count"]:
    """The pairs that are asked about, by their index. Raises UserError as `check`."""
    check(name)
    return jax.lax.top_k(SELECTIONS[name](scores), count)[1]
