"""Policy gradients on groups of completions: GRPO, and by configuration its family. Shao et al., 2024, arXiv:2402.03300.

Each prompt is answered several times; what an answer is worth is told by those beside it, so there is no critic. Which advantage
(`rljax.losses.outcome`), which surrogate and which mean over tokens (`surrogate`), and which divergence from a reference
(`divergence`) are names, so that each method of the family is a few lines of configuration, and so is each crossing of two.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax.agents.alignment import policy_gradient, writer
from rljax.agents.alignment.policy_gradient import Written, source
from rljax.agents.alignment.writer import State, Writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.losses import divergence, outcome, surrogate
from rljax.record import record, static
from rljax.tokens import mask
from rljax.types import Agent, EnvSpec, Key, Metrics
from rljax.updates import descend

__all__ = ["Config", "State", "Written", "check", "learn", "make", "read", "source"]

SHARES = ("bnpo", "max_rl", "max_rl_full")  # advantages that are made of shares of success, so of rewards 0 and 1


@record
class Config(policy_gradient.Config, outcome.Options):
    """Defaults: the paper's loss, without its divergence; sizes for tasks of digits. An advantage's numbers have the names they
    have there, and are read by it alone."""

    advantage: str = static("grpo")  # of outcome.ADVANTAGES
    metric: str = static("entropy")  # canon: halves groups by the mean entropy of the tokens, or by length
    only_mixed: bool = static(
        False
    )  # groups whose rewards are all equal do not count: dynamic sampling, in static shapes
    overlong_buffer: float = 0.0  # tokens before the limit from which on a completion is paid less, up to 1 less


def make(spec: EnvSpec, config: Config = Config(), objective: Callable | None = None) -> Agent:
    """For completions. Reads `Completions` [Q, K]; its state is a `writer.State`.

    Args:
      objective: (config, log_prob [T], one completion's Written, mask [T]) -> loss [T], in the place of the surrogate.
    Raises:
      UserError: as `writer.make`, or a name is not one of those it may be.
    """
    parts = writer.make(spec, config)
    check(config)

    def update(state: State, batch: Completions, key: Key) -> tuple[State, Metrics]:
        return learn(parts, config, state, batch, read(parts, config, state, batch), key, objective=objective)

    return writer.agent(parts, update)


def read(parts: Writer, config: Config, state: State, batch: Completions) -> Written:
    """The completions of groups one by one, with their advantages."""
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    prompt, tokens = batch.flat()
    log_prob, reference = policy_gradient.log_probs(parts, config, state, batch)
    reward, there = _paid(parts, config, batch, log_prob, reference), batch.drawn
    length, metric = there.sum(axis=-1).astype(jnp.float32), None
    if config.advantage == "canon":
        metric = length
        if config.metric == "entropy":
            entropy = parts.score(state.model.params, prompt, tokens).entropy
            metric = (entropy.reshape(there.shape) * there).sum(axis=-1) / jnp.maximum(length, 1.0)
    advantage = outcome.advantages(config.advantage, outcome.Samples(reward, length, metric), config)
    success = jnp.broadcast_to(batch.reward.mean(axis=1, keepdims=True), reward.shape)
    counts = jnp.ones(reward.shape, bool)
    if config.only_mixed:
        counts = jnp.broadcast_to((batch.reward != batch.reward[:, :1]).any(axis=1, keepdims=True), reward.shape)
    if config.advantage == "d3s":
        plain = outcome.grpo(reward, config.ddof, config.eps)
        counts = counts & outcome.most_varied(plain, config.kept * reward.size)
    each = flat(advantage), flat(batch.reward), flat(success), flat(counts)
    forced = None if batch.forced is None else flat(batch.forced)
    return jax.lax.stop_gradient(Written(prompt, tokens, log_prob, reference, *each, forced))


def _paid(parts: Writer, config: Config, batch: Completions, log_prob, reference) -> Float[Array, "Q K"]:
    """Rewards, less for long completions and for such as the reference would not have written. Advantages that are made of
    shares of success read them as they are."""
    if config.advantage in SHARES:
        return batch.reward
    length = mask(batch.tokens).sum(axis=-1).astype(jnp.float32)
    penalty = surrogate.overlong_penalty(length, float(parts.length), jnp.maximum(config.overlong_buffer, 1e-6))
    reward = batch.reward + jnp.where(config.overlong_buffer > 0.0, penalty, 0.0)
    if config.kl and config.kl_place == "reward":
        whole = (x.reshape(batch.tokens.shape).sum(axis=-1) for x in (log_prob, reference))
        reward = divergence.penalised(config.kl, reward, *whole, config.kl_coefficient)
    return reward


def learn(
    parts: Writer, config: Config, state: State, batch: Completions, written: Written, key: Key, **instead: Callable
) -> tuple[State, Metrics]:
    """The state after the gradient steps on a batch that was read.

    Args:
      instead: what stands in the place of parts of the loss (`policy_gradient.loss`).
    """
    loss = lambda params, some: policy_gradient.loss(parts, config, params, some, **instead)
    step = lambda model, some: descend(parts.optimiser, model, lambda params: loss(params, some))
    model, metrics = policy_gradient.epochs(config, step, state.model, written, len(written.prompt), key)
    state, told = writer.after(config, state, model, batch)
    return state, metrics | told | {"advantage/size": jnp.abs(written.advantage).mean()}


def check(config: Config) -> None:
    """Raises UserError where a name is not one of those it may be."""
    outcome.check(config.advantage)
    policy_gradient.check(config)
    if config.kl_place == "reward" and config.kl and config.advantage in SHARES:
        raise UserError(
            f"{config.advantage} reads shares of success: the divergence must be in the loss, by kl_place=loss."
        )
    if config.metric not in ("entropy", "length"):
        raise UserError(f"metric={config.metric!r} must be entropy or length.")
