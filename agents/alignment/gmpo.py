"""GMPO: the geometric mean of tokens' ratios, each clipped. Zhao et al., 2025, arXiv:2507.20673.

It is GRPO by configuration.
"""

from rljax.agents.alignment import grpo
from rljax.agents.alignment.grpo import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(grpo.Config):
    """Defaults: the paper's clip, in logarithms; four updates on each batch."""

    clip_low: float = 0.4
    clip_high: float = 0.4
    surrogate: str = static("gmpo")
    num_minibatches: int = static(4)
