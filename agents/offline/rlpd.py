"""RLPD: soft actor-critic whose batches are half the data at rest and half its own experience. Ball et al., 2023,
arXiv:2302.02948.

Critics with layer normalisation do not trust themselves where data is missing, and many updates a step make use of the data. Each
target is the lower of two critics drawn from ten, as in REDQ (arXiv:2101.05982); the policy follows the mean of all. Unlike the
paper's, the policy learns at each update, not once after those of a step.
"""

from rljax import sources
from rljax.agents.online import sac
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Source


@record
class Config(sac.Config):
    """SAC's, with the paper's layer normalisation and updates for each step."""

    layer_norm: bool = static(True)
    num_critics: int = static(10)
    num_target_critics: int = static(2)  # of these for a target
    num_updates: int = static(20)
    batch_size: int = static(256)  # half of it from either
    warmup: int = static(5_000)


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """SAC for any actions, with so many critics. Reads a `Sample` [B] at a time. Raises UserError where there are not enough."""
    return sac.make(spec, config, num_target_critics=config.num_target_critics)


def source(env: Env, config: Config, dataset) -> Source:
    """Half of each batch from the dataset, half from a replay of the agent's own steps; its steps are the environment's."""
    return sources.half_and_half(env, config, dataset)
