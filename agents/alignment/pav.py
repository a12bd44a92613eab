"""PAV: policy gradients whose steps are paid by progress too, by how much more another earns who goes on after them than before.
Setlur et al., 2024, "Rewarding progress", arXiv:2410.08146.

train --agent=pav --env=tokens/sort-8 --start_from=runs/sft --config.step_length=3

Each step (`rljax.steps`) is weighed by what the completion was paid, and alpha times the advantage of a prover, each less its mean
over the rest of the group. The prover is the best of `best_of` completions by the reference, as told by the `num_continuations`
that go on from where each step begins, which are drawn anew for each batch; the paper learns a verifier from such beforehand, and
searches by it too. With `alpha=0` it is RLOO.

The advantage is that of the step alone, as in the paper's equation 5, which leaves what it does to later steps to the outcome:
summed up to the end, advantages would be the outcome again, less a baseline, whoever the prover is.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax import steps
from rljax.agents.alignment import grpo, rloo, writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.losses import credit, outcome
from rljax.metrics import average, mean
from rljax.record import record, static
from rljax.steps import Continued
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Source

__all__ = ["Config", "make", "source", "values"]


@record
class Config(rloo.Config, steps.Options):
    """Defaults: RLOO's, and a prover of four."""

    alpha: float = 1.0  # what the prover's advantage counts
    best_of: int = static(4)  # K of the prover


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `steps.Continued`; its state is a `writer.State`.

    Raises:
      UserError: as `grpo.make` or `steps.check`, groups have no others, or the best of so many cannot be told.
    """
    parts = writer.make(spec, config)
    grpo.check(config)
    steps.check(config, spec)
    if config.group_size < 2:
        raise UserError(f"group_size={config.group_size} leaves no others to compare with; it must be 2 at least.")
    if not 1 <= config.best_of <= config.num_continuations:
        raise UserError(
            f"best_of={config.best_of} must lie between 1 and num_continuations={config.num_continuations}, or it cannot be told."
        )

    def update(state: writer.State, continued: Continued, key: Key) -> tuple[writer.State, Metrics]:
        batch, value = continued.batch, values(config, continued)
        written = grpo.read(parts, config, state, batch)
        ahead = jax.vmap(outcome.rloo, -1, -1)(jax.vmap(jax.vmap(credit.process_advantages))(value))
        each = lambda outcome, progress: credit.effective_rewards(outcome, progress, config.alpha)
        weight = jax.vmap(jax.vmap(each))(written.advantage.reshape(batch.reward.shape), ahead)
        advantage = jnp.take_along_axis(weight, continued.step, axis=-1).reshape(written.tokens.shape)
        written = jax.lax.stop_gradient(written._replace(advantage=advantage))
        state, metrics = grpo.learn(parts, config, state, batch, written, key)
        moved = mean(average(jnp.abs(jnp.diff(value, axis=-1)), continued.there))
        return state, metrics | {"prover/value": value[..., 0].mean(), "prover/advantage": moved}

    return writer.agent(parts, update)


def values(config: Config, continued: Continued) -> Float[Array, "Q K N"]:
    """What the prover is paid in the mean, going on from where each step begins, and at last what the completion was paid."""
    before = outcome.best_of(continued.reward, config.best_of)
    return jnp.append(before, continued.batch.reward[..., None], axis=-1)


def source(env: Env, config: Config, dataset: Completions | None = None) -> Source:
    """As `grpo.source`, and the reference goes on from where each step begins; steps are all completions.

    Raises:
      UserError: as `grpo.source` or `writer.continued`.
    """
    return writer.continued(grpo.source(env, config, dataset), env, config)
