"""KTO: what is said of single completions, good or bad, moves the policy by how far each is from what is usual. Ethayarajh et al.,
2024, arXiv:2402.01306.

train --agent=kto --start_from=runs/sft --dataset=signs.jsonl --steps=1000

What is usual is the divergence from the reference, estimated by completions of other prompts: each prompt of a batch is read with
those of the one before it. Without a dataset it learns from its own completions, good where they were paid.
"""

import jax
import jax.numpy as jnp

from rljax import completions
from rljax.agents.alignment import writer
from rljax.agents.alignment.writer import State
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.losses import alignment
from rljax.record import record, signed
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Source
from rljax.updates import descend


@record
class Config(writer.GroupConfig):
    """Defaults: the paper's loss, all completions of the same weight."""

    beta: float = 0.1
    desirable: float = 1.0  # weight of the good
    undesirable: float = 1.0  # and of the bad: where the one are rarer, they may weigh more
    threshold: float = signed(0.5)  # good is what was paid more


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Completions` [Q, K], each for itself.

    Raises:
      UserError: as `writer.make`, or there are no other prompts.
    """
    parts = writer.make(spec, config)
    if config.num_prompts < 2:
        raise UserError("num_prompts=1 leaves no completion of another prompt; it must be 2 at least.")

    def update(state: State, batch: Completions, key: Key) -> tuple[State, Metrics]:
        elsewhere = batch.replace(tokens=jnp.roll(batch.tokens, 1, axis=0))
        unlike = parts.whole(state.model.params, elsewhere) - parts.whole(state.reference, elsewhere)
        point = alignment.reference_point(unlike.reshape(-1))
        reference, good = parts.whole(state.reference, batch), batch.reward > config.threshold

        def loss(params):
            log_prob = parts.whole(params, batch)
            one = lambda *x: alignment.kto(*x, point, config.beta, config.desirable, config.undesirable)
            value = jax.vmap(jax.vmap(one))(log_prob, reference, good).mean()
            mean = lambda where: jnp.where(where, log_prob - reference, 0.0).sum() / jnp.maximum(where.sum(), 1)
            told = {"preference/better": mean(good), "preference/worse": mean(~good), "preference/usual": point}
            return value, {"loss/policy": value, **told}

        model, metrics = descend(parts.optimiser, state.model, loss)
        state, told = writer.after(config, state, model, batch)
        return state, metrics | told | {"completion/good": good.mean()}

    return writer.agent(parts, update)


def source(env: Env, config: Config = Config(), dataset: Completions | None = None) -> Source:
    """`num_prompts` prompts, each answered `group_size` times by the present policy; steps are completions. Of a dataset of signs,
    or of any kind, steps are updates."""
    return writer.source(env, config) if dataset is None else completions.recorded(dataset, config.num_prompts)
