"""DAPO: a wider clip upwards, the mean over all tokens, groups without a difference left out. Yu et al., 2025, arXiv:2503.14476.

The paper samples until its batch is full of mixed groups; here, where shapes are static, the others do not count. What it takes off
long answers is `overlong_buffer`.

It is GRPO by configuration.
"""

from rljax.agents.alignment import grpo
from rljax.agents.alignment.grpo import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(grpo.Config):
    """Defaults: the paper's clip."""

    clip_high: float = 0.28
    aggregation: str = static("token_mean")
    only_mixed: bool = static(True)
