"""GPG: no clip, no reference, no deviation. Chu et al., 2025, arXiv:2504.02546.

It is GRPO by configuration.
"""

from rljax.agents.alignment import grpo
from rljax.agents.alignment.grpo import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(grpo.Config):
    """Defaults: what the paper's correction is for, groups without a gradient, is counted by groups."""

    advantage: str = static("gpg_mixed")
    surrogate: str = static("policy_gradient")
    aggregation: str = static("token_mean")
