"""MMD-DQN: particles moved until their maximum mean discrepancy from the target's is least. Nguyen-Tang et al., 2020,
arXiv:2007.12354.

It is DQN with the head `particles`, which neither projects nor sorts.
"""

from rljax.agents.online import dqn
from rljax.agents.online.dqn import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(dqn.Config):
    """Defaults: DQN's, with fewer particles than the paper's 200 for small tasks."""

    head: str = static("particles")
    num_atoms: int = static(50)
    double: bool = static(False)
