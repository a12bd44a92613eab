"""RLPD: soft actor-critic whose batches are half the data at rest and half its own experience. Ball et al., 2023,
arXiv:2302.02948.

Critics with layer normalisation do not trust themselves where data is missing, and many updates a step make use of the data. Of the
paper's ensemble there are as many critics as `num_critics`, of which the lowest counts; it draws two of ten for each target.
"""

from rljax import sources
from rljax.agents.online import sac
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Source


@record
class Config(sac.Config):
    """SAC's, with the paper's layer normalisation and updates for each step."""

    layer_norm: bool = static(True)
    num_updates: int = static(20)
    batch_size: int = static(256)  # half of it from either
    warmup: int = static(5_000)


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """SAC for any actions. Reads a `Sample` [B] at a time."""
    return sac.make(spec, config)


def source(env: Env, config: Config, dataset) -> Source:
    """Half of each batch from the dataset, half from a replay of the agent's own steps; its steps are the environment's."""
    half = config.batch_size // 2
    data = sources.at_rest(dataset, batch_size=half, num_batches=config.num_updates, gamma=config.gamma)
    return sources.mixed(sources.replay_of(env, config, batch_size=config.batch_size - half), data)
