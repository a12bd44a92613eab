"""QR-DQN: the law of returns as quantiles of even levels. Dabney et al., 2017, arXiv:1710.10044.

It is DQN with the quantile head.
"""

from rljax.agents.online import dqn
from rljax.agents.online.dqn import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(dqn.Config):
    """Defaults: DQN's, with fewer quantiles than the paper's 200 for small tasks."""

    huber_delta: float = 1.0
    head: str = static("quantile")
    num_atoms: int = static(50)
    double: bool = static(False)
