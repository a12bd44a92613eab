"""Dr. GRPO: GRPO without its two biases, the division by a group's deviation and by an answer's length. Liu et al., 2025,
arXiv:2503.20783.

It is GRPO by configuration.
"""

from rljax.agents.alignment import grpo
from rljax.agents.alignment.grpo import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(grpo.Config):
    """GRPO's, with the gradient of the expected reward up to (K - 1) / K."""

    advantage: str = static("dr_grpo")
    aggregation: str = static("fixed_length")
