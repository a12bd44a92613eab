"""BNPO: advantages over the density of a Beta law that is fitted to the prompts' shares of success. Xiao et al., 2025,
arXiv:2506.02864.

It is GRPO by configuration.
"""

from rljax.agents.alignment import grpo
from rljax.agents.alignment.grpo import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(grpo.Config):
    """GRPO's, with rewards 0 and 1."""

    advantage: str = static("bnpo")
