"""KDRL: reward and a teacher at once, who is asked how likely what one wrote is. Xu et al., 2025, arXiv:2506.02208.

train --agent=sft --env=tokens/sort-8 --steps=20000 --config.width=128 --run_dir=runs/teacher
train --agent=kdrl --env=tokens/sort-8 --demonstrator=runs/teacher --steps=20000

The loss is GRPO's, with the teacher in the place of the reference: beta times an estimator of KL(policy, teacher) on the policy's
own completions. `kl=k2` has that divergence's gradient, k3 the other one's (`rljax.losses.divergence`). beta falls from
`kl_coefficient` to `kl_last` on a straight line over `annealing_batches`; with `asked=wrong` right completions are left alone, with
`asked=failed` all of a group in which one is right. The teacher is an agent of any run of the same environment that writes,
smaller or larger, one for all seeds.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax.agents.alignment import grpo, writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.names import nearest
from rljax.record import record, static
from rljax.sources import Demonstrator
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Source

__all__ = ["ASKED", "Config", "Taught", "make", "source"]

# (which completions are right [Q, K]) -> of which the teacher is asked
ASKED = {
    "all": lambda right: jnp.ones_like(right),
    "wrong": lambda right: ~right,
    "failed": lambda right: jnp.broadcast_to(~right.any(axis=1, keepdims=True), right.shape),
}


@record
class Config(grpo.Config):
    """Defaults: the paper's coefficients, over as many batches."""

    kl: str = static("k2")
    kl_coefficient: float = 5e-3
    kl_last: float = 1e-3
    annealing_batches: float = 80.0
    asked: str = static("all")  # of ASKED; right is what was paid more than 1/2


class Taught(NamedTuple):
    """Groups, how likely the teacher finds each token, and what its divergence costs."""

    batch: Completions
    teacher: Float[Array, "Q K T"]
    coefficient: Float[Array, ""]


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Taught`; its state is a `writer.State`, whose reference nobody asks.

    Raises:
      UserError: as `grpo.make`; the teacher has no place in the loss; or a name is not one of those it may be.
    """
    parts = writer.make(spec, config)
    grpo.check(config)
    if config.kl in ("", "exact") or config.kl_place == "reward":
        raise UserError(
            "A teacher tells log-probabilities of tokens: kl must be an estimator, as k2, with kl_place=loss."
        )
    if config.asked not in ASKED:
        raise UserError(f"A teacher is not asked of {config.asked!r}; {nearest(config.asked, ASKED)}")

    def update(state: writer.State, taught: Taught, key: Key) -> tuple[writer.State, Metrics]:
        batch, teacher, coefficient = taught
        held = ASKED[config.asked](batch.reward > 0.5).reshape(-1).astype(jnp.float32)
        written = grpo.read(parts, config, state, batch)
        written = written._replace(reference=teacher.reshape(written.tokens.shape), held=held)
        state, metrics = grpo.learn(parts, config.replace(kl_coefficient=coefficient), state, batch, written, key)
        return state, metrics | {"teacher/asked": held.mean(), "teacher/coefficient": coefficient}

    return writer.agent(parts, update)


def source(env: Env, config: Config, demonstrator: Demonstrator, dataset: Completions | None = None) -> Source:
    """As `grpo.source`, with what a teacher says of each token; batches are counted.

    Raises:
      UserError: as `grpo.source`, or the teacher writes no completions.
    """
    groups = grpo.source(env, config, dataset)

    def init(agent, key):
        return groups.init(agent, key), jnp.float32(0.0)

    def next_batch(state, agent, agent_state, key):
        inner, count = state
        inner, batch, metrics = groups.next(inner, agent, agent_state, key)
        teacher, _ = demonstrator.read(*batch.flat())
        left = jnp.maximum(1.0 - count / jnp.maximum(config.annealing_batches, 1.0), 0.0)
        coefficient = config.kl_last + left * (config.kl_coefficient - config.kl_last)
        return (inner, count + 1.0), Taught(batch, teacher.reshape(batch.tokens.shape), coefficient), metrics

    return groups._replace(init=init, next=next_batch)
