"""REINFORCE, leave one out: the mean of the other answers is the baseline, and whole answers are weighed. Ahmadian et al., 2024,
arXiv:2402.14740.

It is GRPO by configuration.
"""

from rljax.agents.alignment import grpo
from rljax.agents.alignment.grpo import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(grpo.Config):
    """Defaults: the divergence from the reference is a part of the reward, 0.05 of it, as in TRL."""

    advantage: str = static("rloo")
    surrogate: str = static("policy_gradient")
    aggregation: str = static("sequence_mean_token_sum")
    kl: str = static("k1")
    kl_place: str = static("reward")
    kl_coefficient: float = 0.05
