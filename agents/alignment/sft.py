"""Supervised fine-tuning: the likelihood of right answers, which the environment tells, or a file. What reinforcement learning
begins from.

train --agent=sft --env=tokens/sort-8 --steps=10000 --run_dir=runs/sft
train --agent=sft --env=tokens/sort-8 --dataset=demonstrations.jsonl --steps=10000 ...
train --agent=grpo --start_from=runs/sft ...

Of data that hold bad completions too (rljax/data/jsonl.py) those that were paid are copied: the chosen of pairs, the right ones of
one's own, which is rejection sampling.
"""

from collections.abc import Callable

import jax.numpy as jnp

from rljax import completions
from rljax.agents.alignment import writer
from rljax.agents.alignment.writer import State
from rljax.completions import Completions
from rljax.record import record, static
from rljax.tokens import mask
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Source
from rljax.updates import descend


@record
class Config(writer.Config):
    num_prompts: int = static(64)  # of a batch


def make(spec: EnvSpec, config: Config = Config(), loss_of: Callable | None = None) -> Agent:
    """For completions. Reads `Completions` and copies those that were paid more than 0; its state's reference is itself.

    Args:
      loss_of: (params, prompt [Q, P], tokens [B, T]) -> [B, T], 0 where no token stands, in the place of -log p.
    Raises:
      UserError: as `writer.make`.
    """
    parts = writer.make(spec, config)
    loss_of = loss_of or (lambda params, *asked: -parts.score(params, *asked).log_prob)

    def update(state: State, batch: Completions, key: Key) -> tuple[State, Metrics]:
        paid = batch.reward > 0.0
        count = jnp.where(paid, mask(batch.tokens).sum(axis=-1), 0).sum()

        def loss(params):
            each = loss_of(params, *batch.flat()).sum(axis=-1).reshape(paid.shape)
            value = jnp.where(paid, each, 0.0).sum() / jnp.maximum(count, 1)
            return value, {"loss/policy": value}

        model, metrics = descend(parts.optimiser, state.model, loss)
        return State(model, model.params), metrics | {"completion/copied": paid.mean()}

    return writer.agent(parts, update)


def source(env: Env, config: Config = Config(), dataset: Completions | None = None) -> Source:
    """Right answers that the environment tells; steps are examples. Of a dataset steps are updates.

    Raises:
      UserError: the environment tells none, or no completion of the dataset was paid.
    """
    if dataset is None:
        return completions.examples(env, config.num_prompts)
    completions.check_paid(dataset, "copy")
    return completions.recorded(dataset, config.num_prompts)
