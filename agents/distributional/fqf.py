"""FQF: quantiles at levels that a network proposes, where they tell most of the law. Yang et al., 2019, arXiv:1911.02140.

It is DQN with the head `fractions`: IQN's network, at levels that descend the 1-Wasserstein distance.
"""

from rljax.agents.online import dqn
from rljax.agents.online.dqn import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(dqn.Config):
    """Defaults: the paper's 32 levels; DQN's otherwise."""

    huber_delta: float = 1.0
    head: str = static("fractions")
    num_atoms: int = static(32)
    double: bool = static(False)
