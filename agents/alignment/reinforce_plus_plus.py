"""REINFORCE++: rewards less the divergence, whitened over the batch. Hu et al., 2025, arXiv:2501.03262.

It is GRPO by configuration.
"""

from rljax.agents.alignment import grpo
from rljax.agents.alignment.grpo import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(grpo.Config):
    """Defaults: 0.01 of the divergence in the reward."""

    advantage: str = static("reinforce_plus_plus")
    aggregation: str = static("token_mean")
    kl: str = static("k1")
    kl_place: str = static("reward")
