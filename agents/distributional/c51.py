"""C51: the law of returns as probabilities of fixed ones, by projected Bellman targets. Bellemare et al., 2017, arXiv:1707.06887.

It is DQN with the categorical head; `lowest_return` and `highest_return` must hold the returns that are met.
"""

from rljax.agents.online import dqn
from rljax.agents.online.dqn import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(dqn.Config):
    """Defaults: CleanRL's for classic control, 101 atoms in [-100, 100]."""

    head: str = static("categorical")
    num_atoms: int = static(101)
    double: bool = static(False)
