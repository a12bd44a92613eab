"""Tokens that mean the same everywhere, and which tokens of a completion count.

A prompt [P] is padded before its first token, a completion [T] after its last, which is END unless the limit of T cut it off.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

PAD = 0  # nothing stands here
END = 1  # the last token of a completion; another one than PAD, so that stopping is learned
NUM_SPECIAL = 2  # a task's own tokens begin here


def mask(tokens: Int[Array, "*S T"], forced: Int[Array, "*S"] | None = None) -> Bool[Array, "*S T"]:
    """Where tokens stand: END counts, what follows it does not; nor do the first `forced`, which nobody drew."""
    there = tokens != PAD
    return there if forced is None else there & (jnp.arange(tokens.shape[-1]) >= forced[..., None])
