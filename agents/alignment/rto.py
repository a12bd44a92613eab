"""RTO: PPO whose tokens are paid by what DPO has learned of them. Zhong et al., 2024, arXiv:2404.18922.

train --agent=sft --env=tokens/sort-8 --steps=10000 --run_dir=runs/sft
train --agent=dpo --env='tokens/sort-8?dense=true' --start_from=runs/sft --run_dir=runs/dpo
train --agent=rto --env=tokens/sort-8 --start_from=runs/sft --demonstrator=runs/dpo

A token is paid beta_1 (log pi_dpo - log reference of that run), but `token_most` at most in size, less beta_2 (log pi - log
reference) as in `rlhf_ppo`; the last one also beta_3 times what the whole completion was paid, by the task or a learned reward
(`--reward_from`). The run that is asked is one for all seeds.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax.agents.alignment import rlhf_ppo
from rljax.agents.alignment.rlhf_ppo import State
from rljax.completions import Completions
from rljax.record import record
from rljax.sources import Demonstrator
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Source

__all__ = ["Config", "Liked", "State", "make", "source"]


@record
class Config(rlhf_ppo.Config):
    """Defaults: the released code's coefficients."""

    token_coefficient: float = 0.05  # beta_1
    token_most: float = 0.05
    kl_coefficient: float = 0.01  # beta_2
    reward_coefficient: float = 1.0  # beta_3


class Liked(NamedTuple):
    """Completions, and how much likelier each token is by who is asked than by the reference of that one."""

    batch: Completions
    ahead: Float[Array, "Q K T"]


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Liked`; begins as `rlhf_ppo` does.

    Raises:
      UserError: as `rlhf_ppo.make`.
    """
    ppo = rlhf_ppo.make(spec, config)

    def update(state: State, liked: Liked, key: Key) -> tuple[State, Metrics]:
        batch, ahead = liked
        besides = jnp.clip(config.token_coefficient * ahead, -config.token_most, config.token_most)
        paid = batch.replace(reward=config.reward_coefficient * batch.reward)
        state, metrics = ppo.update(state, paid, key, besides)
        return state, metrics | {"token/paid": jnp.where(batch.drawn, besides, 0.0).sum(axis=-1).mean()}

    return ppo._replace(update=update)


def source(env: Env, config: Config, demonstrator: Demonstrator, dataset: Completions | None = None) -> Source:
    """As `rlhf_ppo.source`, with what a run that writes thinks of each token.

    Raises:
      UserError: as `rlhf_ppo.source`, or who is asked writes no completions.
    """
    groups = rlhf_ppo.source(env, config, dataset)

    def next_batch(state, agent, agent_state, key):
        state, batch, metrics = groups.next(state, agent, agent_state, key)
        policy, reference = demonstrator.read(*batch.flat())
        return state, Liked(batch, (policy - reference).reshape(batch.tokens.shape)), metrics

    return groups._replace(next=next_batch)
