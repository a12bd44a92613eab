"""AEPO: an entropy held at a target by what is learned from hotter or colder completions. Wang et al., 2025, arXiv:2510.08141.

Beside its groups, which are GRPO's, a policy writes some at another temperature: `temperature_high` while the mean entropy of its
tokens is below `entropy_target`, `temperature_low` while it is above. Of these the paid ones are learned by REINFORCE, each as
good as an advantage of `alpha`, the others as 0: more of what a hotter policy writes raises the entropy, of what a colder one
writes lowers it, and neither pays for anything but right answers. So it asks for questions that have many: where one alone is
right that is what all temperatures teach.

Both are one batch, as in the released code, which fills a number of places with paid ones, half as many above the target; here
it is how many were paid that tells how much they count, as in the paper's gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax import completions
from rljax.agents.alignment import grpo, policy_gradient, writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.networks import language_model
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Source

__all__ = ["Both", "Config", "make", "source"]


@record
class Config(grpo.Config):
    """Defaults: the paper's temperatures, and a fourth of the prompts asked again."""

    entropy_target: float = 0.5  # nats, of a token
    alpha: float = 1.0
    temperature_high: float = 1.2  # times `temperature`
    temperature_low: float = 0.8
    num_tempered: int = static(8)  # prompts that are answered at these


class Both(NamedTuple):
    """Groups that were written at the policy's temperature, and at another."""

    own: Completions
    tempered: Completions


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Both`; its state is a `writer.State`.

    Raises:
      UserError: as `grpo.make`; temperatures do not lie on both sides of 1; or a divergence should be in the loss.
    """
    parts = writer.make(spec, config)
    grpo.check(config)
    low, high = config.temperature_low, config.temperature_high
    if all(isinstance(x, float) for x in (low, high)) and not 0.0 < low <= 1.0 <= high:
        raise UserError(
            f"temperature_low={low} must be above 0 and at most 1, and temperature_high={high} at least 1, or entropy is not held."
        )
    if config.kl and config.kl_place != "reward":
        raise UserError(
            "Completions of other temperatures tell nothing of the policy's divergence: with aepo it must be in the reward, by "
            "kl=k1 and kl_place=reward."
        )

    def update(state: writer.State, both: Both, key: Key) -> tuple[writer.State, Metrics]:
        own, tempered = (grpo.read(parts, config, state, batch) for batch in both)
        log_prob = parts.score(state.model.params, tempered.prompt, tempered.tokens).log_prob  # by the policy itself
        paid = tempered.reward > 0.0
        tempered = tempered._replace(
            log_prob=log_prob,
            advantage=config.alpha * paid,
            counts=jnp.ones_like(paid),
            forced=None if own.forced is None else jnp.zeros(paid.shape, own.forced.dtype),
        )
        written = jax.tree.map(lambda *x: jnp.concatenate(x), own, tempered)
        state, metrics = grpo.learn(parts, config, state, both.own, written, key)
        return state, metrics | {"tempered/paid": paid.mean()}

    return writer.agent(parts, update)


def source(env: Env, config: Config, dataset: Completions | None = None) -> Source:
    """As `grpo.source`, and `num_tempered` prompts more, answered `group_size` times at the temperature that is due.

    Raises:
      UserError: as `grpo.source`.
    """
    parts, groups = writer.make(env.spec, config), grpo.source(env, config, dataset)
    others = completions.groups(env, config.num_tempered, config.group_size)

    def next_batch(state, agent, agent_state, key):
        own_key, key = jax.random.split(key)
        state, own, metrics = groups.next(state, agent, agent_state, own_key)
        entropy = policy_gradient.mean_entropy(parts, agent_state.model.params, own)
        due = jnp.where(entropy < config.entropy_target, config.temperature_high, config.temperature_low)

        def act(agent_state, prompt, memory, key, explore, beginning):
            asked = parts.network, agent_state.model.params, prompt, parts.length, key
            written = language_model.complete(*asked, config.temperature * due, beginning=beginning)
            return written.tokens, memory, {"log_prob": written.log_prob}

        _, tempered, _ = others.next((), agent._replace(act=act), agent_state, key)
        metrics |= {"entropy/written": entropy, "tempered/temperature": due}
        return state, Both(own, tempered), metrics

    return groups._replace(next=next_batch, env_steps=groups.env_steps + others.env_steps)
