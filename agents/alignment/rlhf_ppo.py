"""PPO on tokens with a critic, as in learning from human feedback. Ziegler et al., 2019, arXiv:1909.08593; Ouyang et al., 2022,
arXiv:2203.02155.

Each token is a step. It pays -beta (log pi - log reference) of when it was drawn, the last one also what the whole completion was
paid: by the task, or by a learned reward (`completion_reward`).

train --agent=sft --env=tokens/sort-8 --steps=10000 --run_dir=runs/sft
train --agent=completion_reward --env='tokens/sort-8?dense=true' --start_from=runs/sft --run_dir=runs/reward
train --agent=rlhf_ppo --env=tokens/sort-8 --start_from=runs/sft --reward_from=runs/reward

Nothing follows a completion, whether it ended by END or the limit of its length cut it off: that limit belongs to the task, which
paid what stood there. The critic is a transformer of its own, of the policy's sizes.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rljax import metrics as metrics_lib
from rljax.agents.alignment import policy_gradient, writer
from rljax.agents.alignment.policy_gradient import Written, source
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.losses import divergence, outcome, surrogate
from rljax.losses.policy_gradient import clipped_value_loss
from rljax.networks import language_model
from rljax.record import record, static
from rljax.tokens import mask
from rljax.types import Agent, EnvSpec, Key, Metrics, Model
from rljax.updates import descend

__all__ = ["Config", "State", "credit", "make", "source"]


@record
class Config(policy_gradient.Config):
    """Defaults: undiscounted, four epochs, one completion of each prompt. A divergence may stand in the loss as well
    (`kl_place`), and the others of `surrogate.SURROGATES` in the place of PPO's."""

    critic_learning_rate: float = 1e-3
    gamma: float = 1.0
    gae_lambda: float = 0.95
    value_clip: float = 0.2  # how far a value may move on one batch, where it is clipped
    kl_target: float = 6.0  # nats of a completion, where the coefficient adapts
    kl_rate: float = 0.1  # by which it adapts
    aggregation: str = static("token_mean")
    kl: str = static("k1")
    kl_place: str = static("reward")
    kl_coefficient: float = 0.02
    whiten_advantages: bool = static(True)  # over the tokens of the batch
    clip_value: bool = static(False)
    adaptive_kl: bool = static(False)  # the coefficient begins as kl_coefficient and holds the divergence at kl_target
    num_prompts: int = static(256)
    group_size: int = static(1)
    num_epochs: int = static(4)
    num_minibatches: int = static(4)


class State(NamedTuple):
    policy: writer.State
    critic: Model
    kl_coefficient: Float[Array, ""]  # where it adapts


class Judged(NamedTuple):
    """Completions [B], and what the critic is to learn of them."""

    written: Written
    value: Float[Array, "B T"]  # before the update
    target: Float[Array, "B T"]


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Completions` [Q, K], which need be no groups. Another agent that writes begins its policy
    (`--start_from`), beside a new critic; another of these begins all of it.

    `update` takes, last, what each token is paid besides [Q, K, T]; by default nothing.

    Raises:
      UserError: as `writer.make`; a name is not one of those it may be; or a coefficient should adapt that is not in the reward.
    """
    parts = writer.make(spec, config)
    policy_gradient.check(config)
    if config.adaptive_kl and (not config.kl or config.kl_place != "reward"):
        raise UserError("adaptive_kl holds the divergence in the reward at its target: give kl=k1 and kl_place=reward.")
    if config.adaptive_kl:
        for name, most in (("kl_coefficient", math.inf), ("kl_target", math.inf), ("kl_rate", 5.0)):
            number = getattr(config, name)
            if isinstance(number, float) and not 0.0 < number < most:
                raise UserError(
                    f"{name}={number} must be above 0{' and below 5' * (most == 5.0)} where adaptive_kl adapts."
                )
    network = writer.network_of(spec, config, outputs=1)
    optimiser = writer.optimiser_of(config, config.critic_learning_rate)

    def init(key: Key) -> State:
        policy_key, critic_key = jax.random.split(key)
        critic = writer.begin(network, optimiser, spec, critic_key, config.model)
        return State(parts.init(policy_key), critic, jnp.asarray(config.kl_coefficient, jnp.float32))

    def read(state: State, batch: Completions, coefficient, besides) -> Judged:
        prompt, tokens = batch.flat()
        log_prob, reference = policy_gradient.log_probs(parts, config, state.policy, batch)
        value = language_model.completion_values(network, state.critic.params, prompt, tokens)
        reward, there = batch.reward.reshape(-1), batch.drawn.reshape(tokens.shape)
        paid = jax.vmap(surrogate.at_the_end)(reward, there)
        if besides is not None:
            paid = paid + besides.reshape(paid.shape)
        if config.kl and config.kl_place == "reward":
            paid = divergence.penalised(config.kl, paid, log_prob, reference, coefficient)
        advantage, target = credit(config, paid, value, there)
        success = jnp.broadcast_to(batch.reward.mean(axis=1, keepdims=True), batch.reward.shape).reshape(-1)
        each = advantage, reward, success, jnp.ones(reward.shape, bool)
        forced = None if batch.forced is None else batch.forced.reshape(-1)
        written = Written(prompt, tokens, log_prob, reference, *each, forced)
        return jax.lax.stop_gradient(Judged(written, value, target))

    def value_loss(params, judged: Judged):
        value = language_model.completion_values(network, params, judged.written.prompt, judged.written.tokens)
        if config.clip_value:
            clipped = lambda value, old, target: clipped_value_loss(value, old, target, config.value_clip)
            each = jax.vmap(jax.vmap(clipped))(value, judged.value, judged.target)
        else:
            each = 0.5 * jnp.square(value - judged.target)
        there = mask(judged.written.tokens, judged.written.forced)
        loss = metrics_lib.mean(surrogate.aggregate(each, there, "token_mean"))
        return loss, {"loss/value": loss}

    def step(models: tuple[Model, Model], judged: Judged):
        policy, critic = models
        policy_loss = lambda params: policy_gradient.loss(parts, config, params, judged.written)
        policy, told = descend(parts.optimiser, policy, policy_loss)
        critic, of_values = descend(optimiser, critic, lambda params: value_loss(params, judged))
        return (policy, critic), told | of_values

    def update(state: State, batch: Completions, key: Key, besides=None) -> tuple[State, Metrics]:
        coefficient = state.kl_coefficient if config.adaptive_kl else config.kl_coefficient
        judged = read(state, batch, coefficient, besides)
        models = state.policy.model, state.critic
        (model, critic), metrics = policy_gradient.epochs(config, step, models, judged, len(judged.written.prompt), key)
        if config.kl and config.kl_place == "reward":
            ahead = judged.written.log_prob - judged.written.reference
            there = mask(judged.written.tokens, judged.written.forced)
            far = jnp.where(there, ahead, 0.0).sum(axis=1).mean()  # of completions
            metrics |= {"reference/kl": far, "reference/coefficient": jnp.asarray(coefficient, jnp.float32)}
            if config.adaptive_kl:
                coefficient = divergence.adapted(coefficient, far, config.kl_target, config.kl_rate)
        policy, told = writer.after(config, state.policy, model, batch)
        coefficient = coefficient if config.adaptive_kl else state.kl_coefficient
        return State(policy, critic, coefficient), metrics | told

    return writer.agent(parts, update, init)


def credit(
    config: Config, paid: Float[Array, "B T"], value: Float[Array, "B T"], there: Bool[Array, "B T"]
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Advantages of tokens, whitened over all there are where the config says so, and targets of values; 0 where there is no token.

    Args:
      paid: for each token.
      value: of what stood before each token.
    """
    along = lambda paid, value, there: surrogate.token_gae(
        paid, value, there, jnp.float32(0.0), jnp.bool_(True), config.gamma, config.gae_lambda
    )
    advantage, target = jax.vmap(along)(paid, value, there)
    if config.whiten_advantages:
        advantage = jnp.where(there, outcome.whiten(advantage, there), 0.0)
    return advantage, target
