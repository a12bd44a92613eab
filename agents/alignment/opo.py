"""OPO: on policy, with the baseline of least variance for answers of several lengths. Hao et al., 2025, arXiv:2505.23585.

It is GRPO by configuration.
"""

from rljax.agents.alignment import grpo
from rljax.agents.alignment.grpo import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(grpo.Config):
    """GRPO's, with one update on each batch."""

    advantage: str = static("opo")
    surrogate: str = static("policy_gradient")
    aggregation: str = static("sequence_mean_token_sum")
