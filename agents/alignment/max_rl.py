"""MaxRL: the likelihood of being right in place of its probability, as far as a group can tell. Tajwar et al., 2026.

It is GRPO by configuration.
"""

from rljax.agents.alignment import grpo
from rljax.agents.alignment.grpo import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(grpo.Config):
    """Defaults: the released estimator; `advantage=max_rl_full` is of an order more."""

    advantage: str = static("max_rl")
    aggregation: str = static("fixed_length")
