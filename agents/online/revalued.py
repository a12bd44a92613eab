"""REValueD: DecQN with an ensemble and a price on changes that are not earned. Ireland & Montana, 2024, arXiv:2401.08850.

The sum of many utilities' errors makes DecQN's targets scatter; the mean of an ensemble scatters less. A random action in one
dimension moves the utilities of all others, right or wrong as these were: the further a dimension's own utility is from the target,
the dearer is its change (rljax.losses.value.decoupled_change).
"""

from rljax.agents.online import decqn
from rljax.agents.online.decqn import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(decqn.Config):
    """Defaults: DecQN's with the paper's ten critics; here they share no layers."""

    num_critics: int = static(10)
    double: bool = static(False)
    regularised: bool = static(True)
