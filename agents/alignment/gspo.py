"""GSPO: the ratio of a whole answer is clipped, not those of its tokens. Zheng et al., 2025, arXiv:2507.18071.

It is GRPO by configuration.
"""

from rljax.agents.alignment import grpo
from rljax.agents.alignment.grpo import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(grpo.Config):
    """Defaults: the paper's clip; with one update on each batch nothing is clipped, so there are four."""

    clip_low: float = 3e-4
    clip_high: float = 4e-4
    surrogate: str = static("gspo")
    num_minibatches: int = static(4)
