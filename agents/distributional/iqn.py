"""IQN: a network that is asked for the law's quantile at any level. Dabney et al., 2018, arXiv:1806.06923.

It is DQN with the implicit head. Levels are drawn anew for each update; acting takes the mean over even ones.
"""

from rljax.agents.online import dqn
from rljax.agents.online.dqn import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(dqn.Config):
    """Defaults: DQN's; as many levels are asked for in targets, in the loss and in acting."""

    huber_delta: float = 1.0
    head: str = static("implicit")
    num_atoms: int = static(32)
    double: bool = static(False)
