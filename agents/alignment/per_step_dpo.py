"""Per-step DPO: wrong completions of one's own are compared at the step where they went wrong. Setlur et al., 2024, "RL on
incorrect synthetic data", arXiv:2406.14532.

train --agent=per_step_dpo --env=tokens/sort-8 --start_from=runs/sft --config.step_length=3

The reference goes on `num_continuations` times from where each step (`rljax.steps`) begins, and what it is paid in the mean is the
value there. The pit is the first step with which that falls to `pit_level` or below (`credit.first_pit`). It is the worse one of a
pair, whose better one is the best paid of what was written on from before it, the first of those. That this began with a good step,
for which it was not asked again, and that there is no pair where it began with the pit itself, is our reading.

What both begin with is a part of the prompt; learned is the next step of either alone (`span=step`), or all that follows (`rest`).
The loss is DPO's, or another of `listwise.METHODS`. Wrong completions are the policy's own as it learns, not drawn once beforehand.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from rljax import steps
from rljax.agents.alignment import dpo, writer
from rljax.errors import UserError
from rljax.losses import credit
from rljax.names import nearest
from rljax.record import record, static
from rljax.steps import Continued
from rljax.tokens import mask
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Params, Source
from rljax.updates import descend

SPANS = ("step", "rest")


@record
class Config(dpo.Config, steps.Options):
    pit_level: float = 0.0  # of what is paid: so little is wrong
    span: str = static("step")  # of SPANS


class Pairs(NamedTuple):
    """The better and the worse of a pair, which tokens of either are learned, and whether there is one."""

    tokens: Int[Array, "Q K 2 T"]
    learned: Bool[Array, "Q K 2 T"]
    there: Bool[Array, "Q K"]


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `steps.Continued`; its state is a `writer.State`.

    Raises:
      UserError: as `writer.make` or `steps.check`, or there is no such method or span.
    """
    parts, direct = writer.make(spec, config), dpo.direct_loss(config)
    steps.check(config, spec)
    if config.span not in SPANS:
        raise UserError(f"There is no span {config.span!r}; {nearest(config.span, SPANS)}")

    def update(state: writer.State, continued: Continued, key: Key) -> tuple[writer.State, Metrics]:
        pairs = paired(config, continued)
        length = pairs.learned.sum(axis=-1)
        asked, said = continued.batch.prompt, pairs.tokens.reshape(-1, pairs.tokens.shape[-1])

        def learned(params: Params):
            log_prob = parts.score(params, asked, said).log_prob.reshape(pairs.tokens.shape)
            return jnp.where(pairs.learned, log_prob, 0.0).sum(axis=-1)

        reference = learned(state.reference)
        mean = lambda x: jnp.where(pairs.there, x, 0.0).sum() / jnp.maximum(pairs.there.sum(), 1)

        def loss(params):
            log_prob = learned(params)
            value = mean(jax.vmap(jax.vmap(lambda *pair: direct(*pair, jnp.arange(2))))(log_prob, reference, length))
            better, worse = jnp.moveaxis(log_prob - reference, -1, 0)
            return value, {"loss/policy": value, "preference/better": mean(better), "preference/worse": mean(worse)}

        model, metrics = descend(parts.optimiser, state.model, loss)
        state, told = writer.after(config, state, model, continued.batch)
        return state, metrics | told | {"preference/pairs": pairs.there.mean()}

    return writer.agent(parts, update)


def paired(config: Config, continued: Continued) -> Pairs:
    """Each completion, where it has a pit, with the best of those that were written on from before it."""

    def of_one(tokens, paid, step, begin, further, further_paid):
        value = jnp.append(further_paid.mean(axis=-1), paid)
        pit, there = credit.first_pit(value, config.pit_level)
        both = jnp.stack([further[pit, further_paid[pit].argmax()], tokens])
        after = mask(both) & (jnp.arange(tokens.shape[0]) >= begin[pit])
        next_step = after & (jnp.stack([steps.of_tokens(config, both[0]), step]) == pit)
        differs = (next_step.any(axis=0) & (both[0] != both[1])).any()
        return Pairs(both, next_step if config.span == "step" else after, there & differs)

    batch = continued.batch
    each = batch.tokens, batch.reward, continued.step, continued.begin, continued.tokens, continued.reward
    return jax.vmap(jax.vmap(of_one))(*each)


def source(env: Env, config: Config) -> Source:
    """`num_prompts` prompts, each answered `group_size` times by the present policy, and the reference goes on from where each step
    begins; steps are all completions.

    Raises:
      UserError: as `writer.continued`.
    """
    return writer.continued(writer.source(env, config), env, config)
