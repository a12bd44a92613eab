"""TQC: truncated quantile critics. Kuznetsov et al., 2020, arXiv:2005.04269.

Soft actor-critic whose critics learn quantiles. A target is all of their atoms together without the highest few: that bounds what
critics believe too much as finely as by single atoms. The policy follows the mean of all.
"""

from rljax.agents.online import sac
from rljax.agents.online.sac import source
from rljax.errors import UserError
from rljax.networks import heads
from rljax.record import record, static
from rljax.types import Agent, EnvSpec

__all__ = ["Config", "make", "source"]


@record
class Config(heads.Config, sac.Config):
    """The paper's, with networks of SAC's size; theirs have three layers of 512."""

    huber_delta: float = 1.0
    head: str = static("quantile")
    num_atoms: int = static(25)  # of each critic
    num_dropped: int = static(2)  # for each critic; theirs is 5 for Hopper and 0 for HalfCheetah
    num_critics: int = static(5)


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For continuous actions in [-1, 1]. Reads a `Sample` [B] at a time; its state is SAC's.

    Raises:
      UserError: actions are discrete, atoms are not equally likely, or all would be dropped.
    """
    if config.head not in ("quantile", "particles"):
        raise UserError(f"TQC pools equally likely atoms: head={config.head!r} must be 'quantile' or 'particles'.")
    if not 0 <= config.num_dropped < config.num_atoms:
        raise UserError(f"num_dropped={config.num_dropped} must be from 0 to {config.num_atoms - 1}, below num_atoms.")
    return sac.make(
        spec,
        config,
        num_target_critics=config.num_critics,
        pool=lambda laws: heads.truncated(laws, config.num_dropped),
    )
