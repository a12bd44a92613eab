"""OS-C51: only one step's chance is learned as a law, the next return by its mean. Achab et al., 2023, arXiv:2304.14421.

The law of r + gamma V(s') has a fixed point under control, where that of C51 need not. It is C51 with `one_step`.
"""

from rljax.agents.distributional import c51
from rljax.agents.online.dqn import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(c51.Config):
    """Defaults: C51's."""

    one_step: bool = static(True)
