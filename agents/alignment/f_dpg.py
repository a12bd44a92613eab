"""f-DPG: a policy is moved to a target by the gradient of an f-divergence from it, whichever. Go et al., 2023, arXiv:2302.08215.

train --agent=sft --env=tokens/sort-8 --steps=10000 --run_dir=runs/sft
train --agent=f_dpg --env=tokens/sort-8 --start_from=runs/sft --steps=20000

The target is a law of the completions of a prompt: p = ref e^(r / beta) / Z (`target=reward`), the optimum of RLHF's objective, or
the reference's of those that are paid 1 (`target=constraint`). The gradient of D_f(pi, p) is E_pi[f'(pi / p) grad log pi], so a
completion is paid -f'(pi / p) as a whole, against the mean of those beside it. Where p has no chance log (pi / p) counts as 20, so
a constraint asks for a divergence that stays finite there.

Z is estimated for each group by importance sampling from its own completions. No moving average of it is kept, as the paper keeps
for its one prompt: prompts differ. So the gradient is biased by what these few do not tell, but not at the target, where all of a
group are paid the same. A group none of which the target would have written moves nothing.
"""

import jax
import jax.numpy as jnp

from rljax.agents.alignment import writer
from rljax.agents.alignment.writer import State, source
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.losses import divergence, outcome
from rljax.names import nearest
from rljax.record import record, static
from rljax.types import Agent, EnvSpec, Key, Metrics
from rljax.updates import descend

__all__ = ["Config", "TARGETS", "make", "source"]

# (log-probabilities by the reference, rewards, beta) -> those of the target, but for log Z
TARGETS = {
    "reward": lambda reference, reward, beta: reference + reward / beta,
    "constraint": lambda reference, reward, beta: jnp.where(reward >= 1.0, reference, -jnp.inf),
}


@record
class Config(writer.GroupConfig):
    """Defaults: the divergence that the paper recommends, and larger groups, which Z is told by."""

    beta: float = 0.1
    alpha: float = 0.5  # of the alpha divergence
    divergence: str = static("jensen_shannon")  # of divergence.FDIVERGENCES: D_f(policy, target)
    target: str = static("reward")  # of TARGETS
    num_prompts: int = static(16)
    group_size: int = static(16)


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Completions` [Q, K]; its state is a `writer.State`.

    Raises:
      UserError: as `writer.make`; there is no such divergence or target; the one is infinite for the other; or groups are of one.
    """
    parts = writer.make(spec, config)
    check(config)

    def update(state: State, batch: Completions, key: Key) -> tuple[State, Metrics]:
        target = TARGETS[config.target](parts.whole(state.reference, batch), batch.reward, config.beta)

        def loss(params):
            log_prob = parts.whole(params, batch)
            log_z = jax.vmap(divergence.log_partition)(target, log_prob)
            known = jnp.isfinite(log_z)
            normalised = target - jnp.where(known, log_z, 0.0)[:, None]
            paid = divergence.pseudo_reward(config.divergence, log_prob, normalised, config.alpha)
            value = -(outcome.rloo(paid) * log_prob).mean()
            mean_log_z = jnp.where(known, log_z, 0.0).sum() / jnp.maximum(known.sum(), 1)
            return value, {"loss/policy": value, "target/log_partition": mean_log_z, "target/known": known.mean()}

        model, metrics = descend(parts.optimiser, state.model, loss)
        state, told = writer.after(config, state, model, batch)
        return state, metrics | told

    return writer.agent(parts, update)


def check(config: Config) -> None:
    """Raises UserError where a name is not one of those it may be, or numbers and names do not go together."""
    divergence.f_divergence(config.divergence)
    if config.target not in TARGETS:
        raise UserError(f"f-DPG has no target {config.target!r}; {nearest(config.target, TARGETS)}")
    if config.group_size < 2:
        raise UserError(f"group_size={config.group_size} leaves no completion to compare with; it must be 2 at least.")
    if isinstance(config.beta, float) and config.beta <= 0.0:
        raise UserError(f"beta={config.beta} must be above 0.")
    alpha = config.alpha if isinstance(config.alpha, float) and config.divergence == "alpha" else 0.5
    if alpha in (0.0, 1.0):
        raise UserError(f"alpha={alpha} is a limit: divergence=kl is that of 0, reverse_kl that of 1.")
    if config.target == "constraint" and (config.divergence in divergence.UNBOUNDED or alpha > 1.0):
        raise UserError(
            f"divergence={config.divergence} is infinite while the policy breaks a constraint at all: with target=constraint it "
            "must stay finite, as kl, jensen_shannon or total_variation do."
        )
