"""Implicit Q-learning and its relatives: values of the best actions in the data, never of actions outside of them.

IQL: Kostrikov et al., 2021, arXiv:2110.06169. With another `value_loss` (rljax.losses.implicit) it is XQL (Garg et al., 2023,
arXiv:2301.02328: `gumbel`) or f-DVL (Sikchi et al., 2023, arXiv:2302.08560: `chi_square`, `total_variation`).

V is fitted to Q of the data's actions by a loss that leans upwards, Q to r + gamma V(s'), and the policy copies the data's actions
by their advantage.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import sources
from rljax.errors import UserError
from rljax.losses import implicit
from rljax.losses.actor_critic import clipped_q
from rljax.losses.value import td_target
from rljax.names import nearest
from rljax.networks import heads
from rljax.networks.ensemble import ensemble
from rljax.networks.feed_forward import FeedForward, structure
from rljax.networks.policies import (
    Policy,
    critic_size,
    init_critic,
    log_prob_of,
    loss_of_critics,
    q_taken,
    sample_or_mode,
)
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Params, Sample, Source
from rljax.updates import descend


@record
class Config(sources.Online, heads.Config):
    """Defaults: IQL's for locomotion (arXiv:2110.06169, appendix B), where the paper scales rewards so that the best and the worst
    episode's returns lie 1,000 apart."""

    learning_rate: float = 3e-4
    gamma: float = 0.99
    target_rate: float = 0.005  # share of the new critics in the target critics, each update
    reward_scale: float = 1.0
    lean: float = 0.7  # of the value loss: expectile, Gumbel temperature, or weight lambda
    inverse_temperature: float = 3.0  # of the advantages that the policy copies by
    max_weight: float = 100.0
    value_loss: str = static("expectile")
    num_critics: int = static(2)
    hidden: tuple[int, ...] = static((256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    layer_norm: bool = static(False)  # in the value and the critics
    dtype: str = static("float32")
    batch_size: int = static(256)
    num_updates: int = static(8)  # on batches drawn together


class State(NamedTuple):
    policy: Model
    value: Model
    critic: Model
    target_critic: Params


def networks(spec: EnvSpec, config: Config) -> tuple[Policy, FeedForward, FeedForward]:
    """Policy (observation) -> distribution, value (observation) -> [..., 1], critics (see `q_taken`)."""
    shared = structure(spec, config)
    value = FeedForward(1, layer_norm=config.layer_norm, **shared)
    size = critic_size(spec, heads.of(config))
    critic = ensemble(FeedForward, config.num_critics)(size, layer_norm=config.layer_norm, **shared)
    return Policy(spec, shared), value, critic


def make(spec: EnvSpec, config: Config = Config(), critic_loss: Callable | None = None) -> Agent:
    """IQL for any actions. Reads a `Sample` [B] at a time.

    Args:
      critic_loss: (critic params, state, batch, key) -> (loss, metrics), in place of the head's; the state has the new value.
    Raises:
      UserError: there is no such value loss.
    """
    if config.value_loss not in implicit.VALUE_LOSSES:
        raise UserError(
            f"Unknown value loss {config.value_loss!r}; {nearest(config.value_loss, implicit.VALUE_LOSSES)}"
        )
    value_loss = implicit.VALUE_LOSSES[config.value_loss]
    policy, value, critic = networks(spec, config)
    head = heads.of(config)
    optimiser = optax.adam(config.learning_rate)

    def init(key: Key) -> State:
        observation = jnp.zeros((1, *spec.observation_shape))
        policy_key, value_key, critic_key = jax.random.split(key, 3)
        policy_params = policy.init(policy_key, observation)
        value_params = value.init(value_key, observation)
        critic_params = init_critic(critic, spec, critic_key)
        return State(
            policy=Model(policy_params, optimiser.init(policy_params)),
            value=Model(value_params, optimiser.init(value_params)),
            critic=Model(critic_params, optimiser.init(critic_params)),
            target_critic=jax.tree.map(jnp.copy, critic_params),  # apart, so that the state can be donated
        )

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        return sample_or_mode(policy.apply(state.policy.params, observation), spec, key, explore), memory, {}

    def log_prob(state: State, observation, action, explore: bool = True):
        return log_prob_of(policy.apply(state.policy.params, observation), spec, action, explore)

    def update(state: State, batch: Sample, key: Key) -> tuple[State, Metrics]:
        steps = batch.transition
        q = q_taken(critic, spec, state.target_critic, steps.observation, steps.action, head)
        q = jax.vmap(clipped_q, 1)(q)

        def state_value(params, observation):
            return value.apply(params, observation)[..., 0]

        def loss_of_value(params):
            difference = q - state_value(params, steps.observation)
            loss = (batch.weight * jax.vmap(value_loss, (0, None))(difference, config.lean)).mean()
            return loss, {"loss/value": loss, "critic/advantage": difference.mean()}

        value_model, value_metrics = descend(optimiser, state.value, loss_of_value)
        advantage = q - state_value(value_model.params, steps.observation)
        weight = jax.vmap(implicit.advantage_weight, (0, None, None))(
            advantage, config.inverse_temperature, config.max_weight
        )

        def loss_of_policy(params):
            log_prob = policy.apply(params, steps.observation).log_prob(steps.action)
            loss = -(batch.weight * weight * log_prob).mean()
            return loss, {"loss/policy": loss, "policy/weight": weight.mean()}

        policy_model, policy_metrics = descend(optimiser, state.policy, loss_of_policy)

        def td_losses(params, state: State, batch: Sample, key: Key):
            next_value = state_value(state.value.params, steps.next_observation)
            target = jax.vmap(td_target)(config.reward_scale * steps.reward, batch.discount, next_value)
            return loss_of_critics(critic, spec, params, batch, heads.certain(target), head)

        loss_of_critic, known = critic_loss or td_losses, state._replace(value=value_model)
        critic_model, critic_metrics = descend(
            optimiser, state.critic, lambda params: loss_of_critic(params, known, batch, key)
        )
        target_critic = optax.incremental_update(critic_model.params, state.target_critic, config.target_rate)
        new = State(policy_model, value_model, critic_model, target_critic)
        return new, value_metrics | policy_metrics | critic_metrics

    return Agent(init, act, update, log_prob=log_prob)


def source(env: Env, config: Config, dataset) -> Source:
    """Transitions of the dataset; with `online`, a mixture of them and of its own steps."""
    return sources.of_data(env, config, dataset)
