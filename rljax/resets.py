"""Completions that begin as a right one does: which, and with how much of it.

A reward that a policy never gets teaches it nothing; from far enough along a right answer it gets it. The tokens given are part
of the completion but of no loss, since nobody drew them, and evaluation is always of bare prompts.

    uniform      from anywhere along the answer, each number of tokens as likely: the mixed stages of R3 (Xi et al., 2024,
                 arXiv:2402.05808), DR-PO (Chang et al., 2024, arXiv:2404.08495)
    curriculum   from a depth, the same for a whole batch, that follows what is paid from there: nearer to the prompt while that is
                 more than `reset_target`, nearer to the end while it is less

A curriculum whose `reset_rate` is 0 stays where it begins: prefixes of one length beside bare prompts, as PrefixRL (Setlur et al.,
2026, arXiv:2601.18795) and POPE (Qu et al., 2026, arXiv:2601.18779) mix them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rljax.errors import UserError
from rljax.metrics import Average
from rljax.names import nearest
from rljax.record import record, static
from rljax.types import Key

LENGTHS = ("uniform", "curriculum")


@record
class Options:
    """Numbers are read where `resets` names a law; those of depth by the curriculum alone."""

    reset_share: float = 0.5  # of prompts, that are answered from within a right answer
    reset_depth: float = 1.0  # where a curriculum begins: 1 leaves one token to be drawn, 0 leaves all
    reset_target: float = 0.5  # mean reward from within, that it holds
    reset_rate: float = 0.02  # by which it moves each batch, times what the mean reward is off
    resets: str = static("")  # of LENGTHS; "": none


def check(options: Options) -> None:
    """Raises UserError where there is no such law, or a share is more than all."""
    if options.resets not in LENGTHS:
        raise UserError(f"There are no resets {options.resets!r}; {nearest(options.resets, LENGTHS)}")
    for name in ("reset_share", "reset_depth"):
        value = getattr(options, name)
        if isinstance(value, int | float) and not 0.0 <= value <= 1.0:
            raise UserError(f"{name}={value} is a share: it must lie between 0 and 1.")


def init(options: Options) -> Float[Array, ""] | tuple[()]:
    """The depth that a curriculum begins with."""
    return jnp.asarray(options.reset_depth, jnp.float32) if options.resets == "curriculum" else ()


def draw(
    options: Options, depth: Float[Array, ""] | tuple[()], length: Int[Array, " Q"], key: Key
) -> tuple[Bool[Array, " Q"], Int[Array, " Q"]]:
    """Which of Q prompts are answered from within, and how many tokens are given: 0 elsewhere, and never the last of `length`, the
    tokens of the right answers.

    A depth between two numbers of tokens is drawn as either, so that its mean is the depth.
    """
    share_key, length_key = jax.random.split(key)
    within = jax.random.uniform(share_key, length.shape) < options.reset_share
    place, most = jax.random.uniform(length_key, length.shape), length - 1
    count = place * most + 1.0 if options.resets == "uniform" else depth * most + place
    return within, jnp.where(within, jnp.minimum(jnp.floor(count).astype(jnp.int32), most), 0)


def moved(options: Options, depth: Float[Array, ""], paid: Average) -> Float[Array, ""]:
    """A curriculum's depth once `paid` was what completions from there were paid; the same where there were none."""
    ahead = paid.total / jnp.maximum(paid.count, 1.0) - options.reset_target
    return jnp.clip(depth - options.reset_rate * jnp.where(paid.count > 0, ahead, 0.0), 0.0, 1.0)
