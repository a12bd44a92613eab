"""Direct preference optimisation on pairs or whole lists: of a file, or of one's own completions, ranked by what they were paid.
Rafailov et al., 2023, arXiv:2305.18290; iterated on policy as by Xiong et al., 2023, arXiv:2312.11456.

train --agent=dpo --start_from=runs/sft --dataset=pairs.jsonl --steps=1000

Which loss is a name (`rljax.losses.listwise.METHODS`), so each method of the family is a line of configuration. With
`reference_rate` 0 the reference stays what it was at first (after `--start_from` that of the agent begun from); with 1 it is the
policy of the step before, and nothing keeps the run near its beginning.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rljax import completions
from rljax.agents.alignment import writer
from rljax.agents.alignment.writer import State
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.losses import alignment, listwise
from rljax.record import record, static
from rljax.tokens import mask
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Source
from rljax.updates import descend


@record
class Config(writer.GroupConfig):
    """Numbers of a method are those of `listwise.METHODS`."""

    beta_scale: float = 1.0  # times the method's own beta, where it has one
    method: str = static("dpo")


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Completions` [Q, K]: all pairs of a group that were not paid the same are judgements.

    Raises:
      UserError: as `writer.make`, there is no such method, or groups have no pairs.
    """
    parts = writer.make(spec, config)
    direct = direct_loss(config)
    if config.group_size < 2:
        raise UserError(f"group_size={config.group_size} leaves no pair to compare; it must be 2 at least.")

    def update(state: State, batch: Completions, key: Key) -> tuple[State, Metrics]:
        reference = parts.whole(state.reference, batch)
        length = mask(batch.tokens).sum(axis=-1)
        ranks = jax.vmap(listwise.ranks_of)(batch.reward)
        decided = (batch.reward != batch.reward[:, :1]).any(axis=1)

        def loss(params):
            log_prob = parts.whole(params, batch)
            each = jax.vmap(direct)(log_prob, reference, length, ranks)
            value = jnp.where(decided, each, 0.0).sum() / jnp.maximum(decided.sum(), 1)
            best = batch.reward == batch.reward.max(axis=1, keepdims=True)
            mean = lambda where: jnp.where(where, log_prob - reference, 0.0).sum() / jnp.maximum(where.sum(), 1)
            told = {"preference/better": mean(best & decided[:, None]), "preference/worse": mean(~best)}
            return value, {"loss/policy": value, **told}

        model, metrics = descend(parts.optimiser, state.model, loss)
        state, told = writer.after(config, state, model, batch)
        return state, metrics | told

    return writer.agent(parts, update)


def direct_loss(config: Config) -> Callable:
    """(log_prob, reference, length, ranks [K]) -> what a list of completions costs by the method. Raises UserError where there is
    none of the name."""
    alignment.check(config.method, registry=listwise.METHODS)
    numbers = listwise.METHODS[config.method]
    changes = {"beta": config.beta_scale * numbers["beta"]} if "beta" in numbers else {}
    return functools.partial(listwise.direct_loss, config.method, **changes)


def source(env: Env, config: Config = Config(), dataset: Completions | None = None) -> Source:
    """`num_prompts` prompts, each answered `group_size` times by the present policy; steps are completions. Of a dataset, whose
    groups are as large as they are, steps are updates.

    Raises:
      UserError: the dataset has one completion a prompt.
    """
    if dataset is None:
        return writer.source(env, config)
    if isinstance(dataset, Completions) and dataset.tokens.shape[1] < 2:
        raise UserError(
            "These data hold one completion a prompt, and DPO compares several: see kto for signs, or leave out --dataset to "
            "compare one's own."
        )
    return completions.recorded(dataset, config.num_prompts)
