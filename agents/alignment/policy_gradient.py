"""What policy gradients on completions share, whoever tells their advantages: the group (grpo) or a critic (rlhf_ppo).

Which surrogate and which mean over tokens (`rljax.losses.surrogate`), and which divergence from a reference (`divergence`), are
names.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rljax import completions
from rljax import metrics as metrics_lib
from rljax import resets as resets_lib
from rljax.agents.alignment import writer
from rljax.agents.alignment.writer import State, Writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.losses import divergence, surrogate
from rljax.networks import language_model
from rljax.record import record, static
from rljax.tokens import mask
from rljax.types import Env, Key, Metrics, Params, Source
from rljax.updates import minibatch_epochs


@record
class Config(writer.GroupConfig, surrogate.Options, resets_lib.Options):
    """A surrogate's numbers have the names they have there, and are read by it alone."""

    surrogate: str = static("ppo")  # of surrogate.SURROGATES
    aggregation: str = static("sequence_mean_token_mean")  # of surrogate.AGGREGATIONS
    kl: str = static("")  # of divergence.ESTIMATORS, or exact: how far from the reference; "": it is not asked
    kl_place: str = static("loss")  # of divergence.PLACES
    kl_coefficient: float = 0.01
    entropy_coefficient: float = 0.0
    num_epochs: int = static(1)
    num_minibatches: int = static(1)


class Written(NamedTuple):
    """Completions [B] one by one, as a loss reads them, those of a prompt [Q] one after another."""

    prompt: Int[Array, "Q P"]
    tokens: Int[Array, "B T"]
    log_prob: Float[Array, "B T"]  # when it was drawn
    reference: Float[Array, "B T"]  # by the reference, or that of all tokens [B, T, V] where the divergence is exact
    advantage: Float[Array, " B"] | Float[Array, "B T"]  # of completions, or of each token
    reward: Float[Array, " B"]  # as the environment paid
    success: Float[Array, " B"]  # mean reward of its group, as well
    counts: Bool[Array, " B"]  # in the loss
    forced: Int[Array, " B"] | None = None  # how many of its tokens were given, and are not
    held: Float[Array, " B"] | None = None  # how much its divergence counts, where that is in the loss; None: 1


def log_probs(
    parts: Writer, config: Config, state: State, batch: Completions
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Of the tokens of a batch, one completion after another: when they were drawn, and by the reference (of all tokens [B, T, V]
    where the divergence is exact; where none is asked for, the same). 0 for tokens that were given."""
    prompt, tokens = batch.flat()
    drawn = lambda x: x if batch.forced is None else jnp.where(batch.drawn.reshape(tokens.shape), x, 0.0)
    taken = lambda params: drawn(parts.score(params, prompt, tokens).log_prob)
    log_prob = batch.log_prob.reshape(tokens.shape)
    if config.dtype != "float32":  # what rounds differently when it is read anew would be taken for another policy
        log_prob = taken(state.model.params)
    if not config.kl:
        return log_prob, log_prob
    if config.kl == "exact":
        return log_prob, _every(parts, config, state.reference, prompt, tokens)
    return log_prob, taken(state.reference)


def _every(parts: Writer, config: Config, params: Params, prompt, tokens) -> Float[Array, "B T V"]:
    """Log-probabilities of all that might have stood at each token."""
    logits = language_model.completion_logits(parts.network, params, prompt, tokens)
    return jax.nn.log_softmax(logits / config.temperature)


def mean_entropy(parts: Writer, params: Params, batch: Completions) -> Float[Array, ""]:
    """What is left open at the tokens of a batch that were drawn, in the mean, in nats."""
    entropy, there = parts.score(params, *batch.flat()).entropy, batch.drawn.reshape(-1, batch.tokens.shape[-1])
    return jnp.where(there, entropy, 0.0).sum() / jnp.maximum(there.sum(), 1)


def loss(
    parts: Writer,
    config: Config,
    params: Params,
    written: Written,
    objective: Callable | None = None,
    cost: Callable | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """The surrogate of a batch, with the divergence where it stands in the loss and less the entropy.

    Args:
      objective: (config, log_prob [T], one completion's Written, mask [T]) -> loss [T], in the place of the surrogate.
      cost: (entropy [B, T]) -> what it costs [B, T], in the place of -entropy_coefficient for each nat.
    """
    if config.kl == "exact":
        every = _every(parts, config, params, written.prompt, written.tokens)
        log_prob, entropy = language_model.taken(every, written.tokens), language_model.entropy(every)
    else:
        every, (log_prob, entropy) = None, parts.score(params, written.prompt, written.tokens)
    there = mask(written.tokens, written.forced) & written.counts[:, None]
    prompt = jnp.repeat(written.prompt, len(there) // len(written.prompt), axis=0)
    of_each = jax.vmap(objective or _by_surrogate, (None, 0, 0, 0))
    each = of_each(config, log_prob, written._replace(prompt=prompt), there)
    mean = lambda x: jnp.where(there, x, 0.0).sum() / jnp.maximum(there.sum(), 1)
    metrics = {"policy/entropy": mean(entropy)}
    if config.kl and config.kl_place != "reward":
        far = jnp.where(there, _distance(config, every, log_prob, written), 0.0)
        each = each + config.kl_coefficient * (far if written.held is None else written.held[:, None] * far)
        metrics["policy/kl"] = mean(far)
    each = each + (cost(entropy) if cost else -config.entropy_coefficient * entropy)
    longest = parts.length if config.aggregation == "fixed_length" else None
    value = metrics_lib.mean(surrogate.aggregate(each, there, config.aggregation, longest))
    ratio = jnp.exp(jax.vmap(surrogate.log_ratios)(log_prob, written.log_prob, there))
    outside = (ratio < 1.0 - config.clip_low) | (ratio > 1.0 + config.clip_high)
    return value, metrics | {"loss/policy": value, "policy/outside": mean(outside.astype(jnp.float32))}


def _by_surrogate(config, log_prob, written, there):
    return surrogate.surrogate(config.surrogate, log_prob, written.log_prob, written.advantage, there, config)


def _distance(config: Config, every, log_prob, written: Written) -> Float[Array, "B T"]:
    """The divergence from the reference, of each token."""
    if config.kl == "exact":
        return jax.vmap(jax.vmap(divergence.exact))(every, written.reference)
    if config.kl_place == "weighted_loss":
        return divergence.weighted_loss(config.kl, log_prob, written.reference, written.log_prob)
    return divergence.loss(config.kl, log_prob, written.reference)


def epochs(config: Config, step: Callable, models: Any, data: Any, num_prompts: int, key: Key) -> tuple[Any, Metrics]:
    """`updates.minibatch_epochs` on completions one by one [B] and their prompts [Q], in minibatches of whole groups: so a prompt
    is read once for each.

    Args:
      step: (models, some of the data) -> (models, metrics).
    Raises:
      UserError: groups cannot be cut into so many.
    """
    groups = lambda x: x.reshape(num_prompts, -1, *x.shape[1:])
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    of_groups = lambda models, some: step(models, jax.tree.map(flat, some))
    return minibatch_epochs(
        of_groups, models, jax.tree.map(groups, data), key, config.num_epochs, config.num_minibatches
    )


def check(config: Config) -> None:
    """Raises UserError where a name is not one of those it may be."""
    surrogate.check(config.surrogate, config)
    surrogate.check_aggregation(config.aggregation)
    if config.kl == "exact":
        if config.kl_place != "loss":
            raise UserError("The exact divergence is a term of the loss: kl_place must be loss.")
        if config.score_chunk:
            raise UserError(
                "The exact divergence asks for all logits at once: score_chunk must be 0, or kl an estimator."
            )
    elif config.kl:
        divergence.check(config.kl, config.kl_place)
    if config.resets:
        resets_lib.check(config)


def source(env: Env, config: Config, dataset: Completions | None = None) -> Source:
    """`num_prompts` prompts, each answered `group_size` times by the present policy; steps are completions. With resets some are
    answered from within a right answer, which the environment tells, or from within one of the dataset that was paid.

    Raises:
      UserError: as `completions.groups`; or there is a dataset that nothing begins from, or none of it was paid.
    """
    if dataset is not None and not config.resets:
        raise UserError(
            "Who learns from its own completions may begin them as those of a --dataset: say how by --config.resets=uniform "
            "or curriculum, or leave out --dataset."
        )
    if dataset is not None:
        completions.check_paid(dataset, "begin from")
    resets = config if config.resets else None
    return completions.groups(env, config.num_prompts, config.group_size, resets, dataset)
