"""D4PG: the deterministic policy gradient through a categorical critic, over several steps. Barth-Maron et al., 2018,
arXiv:1804.08617.

It is DDPG (agents/online/td3.py without its cures) with a head. The paper's many actors are environments side by side.
"""

from rljax.agents.online import td3
from rljax.agents.online.td3 import make, source
from rljax.networks import heads
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(heads.Config, td3.Config):
    """The paper's steps and atoms; `lowest_return` and `highest_return` must hold the returns that are met."""

    target_noise: float = 0.0
    exploration_noise: float = 0.3
    head: str = static("categorical")
    policy_delay: int = static(1)
    num_critics: int = static(1)
    num_steps: int = static(5)
    rollout_length: int = static(1)
