"""Policy gradients on groups of completions: GRPO, and by configuration its family. Shao et al., 2024, arXiv:2402.03300.

Each prompt is answered several times; what an answer is worth is told by those beside it, so there is no critic. Which advantage
(`rljax.losses.outcome`), which surrogate and which mean over tokens (`surrogate`), and which divergence from a reference
(`divergence`) are names, so that each method of the family is a few lines of configuration, and so is each crossing of two.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rljax import metrics as metrics_lib
from rljax.agents.alignment import writer
from rljax.agents.alignment.writer import State, source
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.losses import divergence, outcome, surrogate
from rljax.networks import language_model
from rljax.record import record, static
from rljax.tokens import mask
from rljax.types import Agent, EnvSpec, Key, Metrics
from rljax.updates import descend, minibatch_epochs

__all__ = ["Config", "Written", "check", "make", "source"]

SHARES = ("bnpo", "max_rl", "max_rl_full")  # advantages that are made of shares of success, so of rewards 0 and 1


@record
class Config(writer.GroupConfig, outcome.Options, surrogate.Options):
    """Defaults: the paper's loss, without its divergence; sizes for tasks of digits. The numbers of a surrogate or an advantage
    have the names they have there, and are read by it alone."""

    advantage: str = static("grpo")  # of outcome.ADVANTAGES
    metric: str = static("entropy")  # canon: halves groups by the mean entropy of the tokens, or by length
    surrogate: str = static("ppo")  # of surrogate.SURROGATES
    aggregation: str = static("sequence_mean_token_mean")  # of surrogate.AGGREGATIONS
    only_mixed: bool = static(
        False
    )  # groups whose rewards are all equal do not count: dynamic sampling, in static shapes
    overlong_buffer: float = 0.0  # tokens before the limit from which on a completion is paid less, up to 1 less
    kl: str = static("")  # of divergence.ESTIMATORS, or exact: how far from the reference; "": it is not asked
    kl_place: str = static("loss")  # of divergence.PLACES
    kl_coefficient: float = 0.01
    entropy_coefficient: float = 0.0
    num_epochs: int = static(1)
    num_minibatches: int = static(1)


class Written(NamedTuple):
    """Completions [B] one by one, as a loss reads them."""

    prompt: Int[Array, "B P"]
    tokens: Int[Array, "B T"]
    log_prob: Float[Array, "B T"]  # when it was drawn
    reference: Float[Array, "B T"]  # by the reference, or that of all tokens [B, T, V] where the divergence is exact
    advantage: Float[Array, " B"]
    reward: Float[Array, " B"]  # as the environment paid
    success: Float[Array, " B"]  # mean reward of its group, as well
    counts: Bool[Array, " B"]  # in the loss


def make(spec: EnvSpec, config: Config = Config(), objective: Callable | None = None) -> Agent:
    """For completions. Reads `Completions` [Q, K]; its state is a `writer.State`.

    Args:
      objective: (config, log_prob [T], one completion's Written, mask [T]) -> loss [T], in the place of the surrogate.
    Raises:
      UserError: as `writer.make`, or a name is not one of those it may be.
    """
    parts = writer.make(spec, config)
    check(config)
    longest = parts.length if config.aggregation == "fixed_length" else None
    taken = lambda logits, tokens: language_model.taken(logits, tokens, config.temperature)
    logits_of = lambda params, prompt, tokens: language_model.completion_logits(parts.network, params, prompt, tokens)
    log_probs = lambda logits: jax.nn.log_softmax(logits / config.temperature)

    def by_surrogate(config, log_prob, written, there):
        return surrogate.surrogate(config.surrogate, log_prob, written.log_prob, written.advantage, there, config)

    def paid(batch: Completions, log_prob, reference) -> Float[Array, "Q K"]:
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

    def read(state: State, batch: Completions) -> Written:
        flat = lambda x: x.reshape(-1, *x.shape[2:])
        prompt, tokens = batch.flat()
        log_prob = flat(batch.log_prob)
        if config.dtype != "float32":  # what rounds differently when it is read anew would be taken for another policy
            log_prob = taken(logits_of(state.model.params, prompt, tokens), tokens)
        reference = log_prob
        if config.kl:
            logits = logits_of(state.reference, prompt, tokens)
            reference = log_probs(logits) if config.kl == "exact" else taken(logits, tokens)
        reward, there = paid(batch, log_prob, reference), mask(batch.tokens)
        length, metric = there.sum(axis=-1).astype(jnp.float32), None
        if config.advantage == "canon":
            metric = length
            if config.metric == "entropy":
                entropy = language_model.entropy(logits_of(state.model.params, prompt, tokens) / config.temperature)
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
        return jax.lax.stop_gradient(Written(prompt, tokens, log_prob, reference, *each))

    def distance(logits, log_prob, written: Written, there) -> Float[Array, "B T"]:
        """The divergence from the reference, of each token."""
        if config.kl == "exact":
            each = jax.vmap(jax.vmap(divergence.exact))(log_probs(logits), written.reference)
        elif config.kl_place == "weighted_loss":
            each = divergence.weighted_loss(config.kl, log_prob, written.reference, written.log_prob)
        else:
            each = divergence.loss(config.kl, log_prob, written.reference)
        return jnp.where(there, each, 0.0)

    def loss(params, written: Written):
        logits = logits_of(params, written.prompt, written.tokens)
        log_prob, there = taken(logits, written.tokens), mask(written.tokens) & written.counts[:, None]
        each = jax.vmap(objective or by_surrogate, (None, 0, 0, 0))(config, log_prob, written, there)
        mean = lambda x: jnp.where(there, x, 0.0).sum() / jnp.maximum(there.sum(), 1)
        entropy = language_model.entropy(logits / config.temperature)
        metrics = {"policy/entropy": mean(entropy)}
        if config.kl and config.kl_place != "reward":
            far = distance(logits, log_prob, written, there)
            each = each + config.kl_coefficient * far
            metrics["policy/kl"] = mean(far)
        each = each - config.entropy_coefficient * entropy
        value = metrics_lib.mean(surrogate.aggregate(each, there, config.aggregation, longest))
        ratio = jnp.exp(jax.vmap(surrogate.log_ratios)(log_prob, written.log_prob, there))
        outside = (ratio < 1.0 - config.clip_low) | (ratio > 1.0 + config.clip_high)
        metrics |= {"loss/policy": value, "policy/outside": mean(outside.astype(jnp.float32))}
        return value, metrics

    def update(state: State, batch: Completions, key: Key) -> tuple[State, Metrics]:
        written = read(state, batch)
        model, metrics = minibatch_epochs(
            lambda model, some: descend(parts.optimiser, model, lambda params: loss(params, some)),
            state.model,
            written,
            key,
            config.num_epochs,
            config.num_minibatches,
        )
        state, told = writer.after(config, state, model, batch)
        return state, metrics | told | {"advantage/size": jnp.abs(written.advantage).mean()}

    return Agent(parts.init, parts.act, update, log_prob=parts.log_prob)


def check(config: Config) -> None:
    """Raises UserError where a name is not one of those it may be."""
    outcome.check(config.advantage)
    surrogate.check(config.surrogate, config)
    surrogate.check_aggregation(config.aggregation)
    if config.kl == "exact":
        if config.kl_place != "loss":
            raise UserError("The exact divergence is a term of the loss: kl_place must be loss.")
    elif config.kl:
        divergence.check(config.kl, config.kl_place)
    if config.kl_place == "reward" and config.kl and config.advantage in SHARES:
        raise UserError(
            f"{config.advantage} reads shares of success: the divergence must be in the loss, by kl_place=loss."
        )
    if config.metric not in ("entropy", "length"):
        raise UserError(f"metric={config.metric!r} must be entropy or length.")
