"""CISPO: importance weights that are bounded, and no token dropped. MiniMax-M1, 2025, arXiv:2506.13585.

It is GRPO by configuration.
"""

from rljax.agents.alignment import grpo
from rljax.agents.alignment.grpo import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(grpo.Config):
    """Defaults: weights up to 5; four updates on each batch."""

    surrogate: str = static("cispo_absolute")
    aggregation: str = static("token_mean")
    num_minibatches: int = static(4)
