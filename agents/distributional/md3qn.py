"""MD3QN: the law of several rewards' returns together, by particles moved until their maximum mean discrepancy from the target's
is least. Zhang et al., 2021, "Distributional reinforcement learning for multi-dimensional reward functions", arXiv:2110.13578.

It is DQN with the head `joint`; the action is best by the mean of the sum. An environment tells what each source paid
(`EnvSpec.num_rewards`, `TimeStep.info["rewards"]`); with one reward it is MMD-DQN.
"""

from rljax.agents.online import dqn
from rljax.agents.online.dqn import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(dqn.Config):
    """Defaults: DQN's, with as many particles as MMD-DQN has here."""

    head: str = static("joint")
    num_atoms: int = static(50)
    double: bool = static(False)
