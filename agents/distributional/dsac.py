"""DSAC: soft actor-critic whose critics learn the law of the return. Ma et al., 2020, arXiv:2004.14547; Duan et al., 2020,
arXiv:2001.02811.

It is SAC with a head: quantiles of even levels here (the first paper has random or proposed ones too, the second a normal law). A
target is the law of the critic with the lower mean, as in the second paper's successor (arXiv:2310.05858).
"""

from rljax.agents.online import sac
from rljax.agents.online.sac import make, source
from rljax.networks import heads
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(heads.Config, sac.Config):
    """SAC's, with the first paper's number of quantiles."""

    huber_delta: float = 1.0
    head: str = static("quantile")
    num_atoms: int = static(32)
