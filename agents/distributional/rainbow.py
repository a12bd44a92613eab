"""Rainbow: C51 with all of DQN's parts at once. Hessel et al., 2017, arXiv:1710.02298.

Each part is a switch, so that ablations are a sweep: `double`, `dueling`, `prioritised`, `noisy`, `num_steps`, `head`.
"""

from rljax.agents.distributional import c51
from rljax.agents.online.dqn import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(c51.Config):
    """Defaults: C51's, with the paper's three steps, priority exponents and no epsilon beside the noise."""

    epsilon_start: float = 0.0
    epsilon_end: float = 0.0
    max_grad_norm: float = 10.0
    priority_exponent: float = 0.5
    double: bool = static(True)
    dueling: bool = static(True)
    prioritised: bool = static(True)
    noisy: bool = static(True)
    num_steps: int = static(3)
