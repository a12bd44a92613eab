"""PF-PPO: PPO on tokens that learns from some of each group, where a learned reward can be trusted. Zhang et al., 2024,
arXiv:2409.06957.

Rewards err most about what is middling, so of all that was answered to a prompt the best is kept, with any other
(`filter=best_random`) or with the worst (`best_worst`), or alone (`best`); the rest is as if it had not been written.

It is `rlhf_ppo` with another source.
"""

import jax
import jax.numpy as jnp

from rljax.agents.alignment import rlhf_ppo
from rljax.agents.alignment.rlhf_ppo import State, make
from rljax.completions import Completions
from rljax.losses import outcome
from rljax.record import record, static
from rljax.types import Env, Source

__all__ = ["Config", "State", "make", "source"]


@record
class Config(rlhf_ppo.Config):
    """Defaults: half of what was written is kept, as much as PPO's batch."""

    filter: str = static("best_random")  # of outcome.FILTERS
    num_prompts: int = static(128)
    group_size: int = static(4)


def source(env: Env, config: Config, dataset: Completions | None = None) -> Source:
    """As `rlhf_ppo.source`, of which a filter keeps some; steps are all completions.

    Raises:
      UserError: as `rlhf_ppo.source`, there is no such filter, or nothing to choose from.
    """
    groups = rlhf_ppo.source(env, config, dataset)
    outcome.check_filter(config.filter, config.group_size)

    def next_batch(state, agent, agent_state, key):
        key, filter_key = jax.random.split(key)
        state, batch, metrics = groups.next(state, agent, agent_state, key)
        places = outcome.filtered(config.filter, batch.reward, filter_key)
        kept = lambda x: x[jnp.arange(len(x))[:, None], places]
        forced = None if batch.forced is None else kept(batch.forced)
        batch = Completions(batch.prompt, kept(batch.tokens), kept(batch.log_prob), kept(batch.reward), forced)
        return state, batch, metrics

    return groups._replace(next=next_batch)
