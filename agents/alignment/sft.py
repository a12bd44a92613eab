"""Supervised fine-tuning: the likelihood of right answers, which the environment tells. What reinforcement learning begins from.

train --agent=sft --env=tokens/sort-8 --steps=10000 --run_dir=runs/sft
train --agent=grpo --start_from=runs/sft ...
"""

import jax.numpy as jnp

from rljax import completions
from rljax.agents.alignment import writer
from rljax.agents.alignment.writer import State
from rljax.completions import Completions
from rljax.networks import language_model
from rljax.record import record, static
from rljax.tokens import mask
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Source
from rljax.updates import descend


@record
class Config(writer.Config):
    num_prompts: int = static(64)  # of a batch


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Completions` and copies them, whatever they were paid; its state's reference is itself.

    Raises:
      UserError: as `writer.make`.
    """
    parts = writer.make(spec, config)

    def update(state: State, batch: Completions, key: Key) -> tuple[State, Metrics]:
        prompt, tokens = batch.flat()

        def loss(params):
            logits = language_model.completion_logits(parts.network, params, prompt, tokens)
            value = -language_model.taken(logits, tokens, config.temperature).sum() / jnp.maximum(mask(tokens).sum(), 1)
            return value, {"loss/policy": value}

        model, metrics = descend(parts.optimiser, state.model, loss)
        return State(model, model.params), metrics

    return Agent(parts.init, parts.act, update, log_prob=parts.log_prob)


def source(env: Env, config: Config = Config()) -> Source:
    """Right answers; steps are examples."""
    return completions.examples(env, config.num_prompts)
