"""CANON: groups are halved by a metric and the halves compared, so that no direction of it is preferred by hand.

"Conditional advantage estimation for reinforcement learning in large reasoning models", 2025. It is GRPO by configuration.
"""

from rljax.agents.alignment import grpo
from rljax.agents.alignment.grpo import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(grpo.Config):
    """Defaults: more of the comparison with the other half (`share`)."""

    share: float = 0.7
    advantage: str = static("canon")
    aggregation: str = static("fixed_length")
