"""SMODICE and DemoDICE: demonstrations imitated by what a larger dataset of any quality shows how to do. Ma et al., 2022,
arXiv:2202.02433; Kim et al., 2022, "DemoDICE: Offline imitation learning with supplementary imperfect demonstrations".

A discriminator tells demonstrations from the dataset; its logit is R = log(d_E / d_O). V minimises (1 - gamma) E V(s_0) plus a
conjugate of e = R + gamma V(s') - V(s) over the dataset, whose slope is how much more often than the dataset the policy should take
a step; so often it copies it. The demonstrations are not copied themselves.

  SMODICE    inputs="state": what was done in the demonstrations need not be known; divergence="chi_square" is its other form
  DemoDICE   inputs="state_action", conservatism=1 + its alpha, and a dataset that holds the demonstrations too

The discriminator learns along with the rest, as DemoDICE's does; SMODICE's authors train it before. Weights of the Kullback-Leibler
form are normalised over the batch. Observations are taken as they are.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import sources
from rljax.agents.imitation import reward_model
from rljax.errors import UserError
from rljax.losses import dual
from rljax.losses.adversarial import logistic_loss
from rljax.names import nearest
from rljax.networks.feed_forward import FeedForward, structure
from rljax.networks.policies import Policy, log_prob_of, sample_or_mode
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Source
from rljax.updates import descend


@record
class Config(reward_model.Config):
    """Defaults: SMODICE's authors' (github.com/JasonMa2016/SMODICE, configs/oil_observations_default.py), but for their target
    entropy."""

    policy_learning_rate: float = 3e-4
    value_learning_rate: float = 3e-4
    value_weight_decay: float = 1e-4
    gamma: float = 0.99
    conservatism: float = 1.0  # weight of the divergence from the dataset; times (w - 1)^2, theirs is 1/2
    gradient_penalty: float = 10.0
    divergence: str = static("kl")
    inputs: str = static("state")
    absorbing: bool = static(True)
    reward_hidden: tuple[int, ...] = static((256, 256))
    hidden: tuple[int, ...] = static((256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    dtype: str = static("float32")
    batch_size: int = static(512)  # of the dataset, and of demonstrations
    num_updates: int = static(8)  # on batches drawn together


class State(NamedTuple):
    policy: Model
    value: Model  # the network, and (1 - gamma) times the value of the absorbing state
    reward: Model


def networks(spec: EnvSpec, config: Config) -> tuple[Policy, FeedForward]:
    """Policy (observation) -> distribution, value (observation) -> [..., 1]."""
    shared = structure(spec, config)
    return Policy(spec, shared), FeedForward(1, **shared)


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For any actions. Reads a `Sample` [B] of the dataset, with a `first_observation`, and demonstrations [B] beside it.

    Raises:
      UserError: there is no such divergence; or as `reward_model.make` does.
    """
    if config.divergence not in dual.DIVERGENCES:
        raise UserError(f"There is no divergence {config.divergence!r}; {nearest(config.divergence, dual.DIVERGENCES)}")
    divergence = dual.DIVERGENCES[config.divergence]
    policy, value = networks(spec, config)
    model = reward_model.make(spec, config)
    reward_loss = reward_model.loss_function(spec, config, model, model.logit, logistic_loss)
    absorbing_state = reward_model.nothing(spec, absorbed=1.0)
    policy_optimiser = optax.adam(config.policy_learning_rate)
    value_optimiser = optax.adamw(config.value_learning_rate, weight_decay=config.value_weight_decay)
    reward_optimiser = optax.adamw(config.reward_learning_rate, weight_decay=config.reward_weight_decay)

    def init(key: Key) -> State:
        policy_key, value_key, reward_key = jax.random.split(key, 3)
        observation = jnp.zeros((1, *spec.observation_shape))
        value_params = {"network": value.init(value_key, observation), "absorbed": jnp.zeros(())}
        policy_params, reward_params = policy.init(policy_key, observation), model.init(reward_key)
        return State(
            Model(policy_params, policy_optimiser.init(policy_params)),
            Model(value_params, value_optimiser.init(value_params)),
            Model(reward_params, reward_optimiser.init(reward_params)),
        )

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        return sample_or_mode(policy.apply(state.policy.params, observation), spec, key, explore), memory, {}

    def log_prob(state: State, observation, action, explore: bool = True):
        return log_prob_of(policy.apply(state.policy.params, observation), spec, action, explore)

    def update(state: State, batch: sources.Beside, key: Key) -> tuple[State, Metrics]:
        steps, demonstrations = batch.own.transition, batch.data.transition
        seen, shown = (reward_model.step_of(spec, x, jnp.zeros_like(x.reward)) for x in (steps, demonstrations))
        reward, metrics = descend(reward_optimiser, state.reward, lambda params: reward_loss(params, shown, seen, key))
        pay = model.reward(reward.params, seen)
        absorbed_pay = model.reward(reward.params, absorbing_state)

        def scaled_residuals(params):
            v = lambda observation: value.apply(params["network"], observation)[..., 0]
            end = (absorbed_pay, params["absorbed"]) if config.absorbing else ()
            here, there = v(steps.observation), v(steps.next_observation)
            residual, mass = dual.residuals(pay, here, there, steps.terminated, config.gamma, *end)
            return residual / config.conservatism, mass

        def loss_of_value(params):
            starts = value.apply(params["network"], steps.extras["first_observation"])[..., 0]
            conjugate = divergence.conjugate(*scaled_residuals(params))
            loss = (1.0 - config.gamma) * starts.mean() + config.conservatism * conjugate
            return loss, {"loss/value": loss, "critic/value": starts.mean()}

        value_model, value_metrics = descend(value_optimiser, state.value, loss_of_value)
        weight = divergence.weight(*scaled_residuals(value_model.params))[: len(pay)]

        def loss_of_policy(params):
            log_prob = policy.apply(params, steps.observation).log_prob(steps.action)
            loss = -(weight * log_prob).mean()
            return loss, {"loss/policy": loss, "policy/weight": weight.mean(), "policy/max_weight": weight.max()}

        policy_model, policy_metrics = descend(policy_optimiser, state.policy, loss_of_policy)
        return State(policy_model, value_model, reward), metrics | value_metrics | policy_metrics

    return Agent(init, act, update, log_prob=log_prob)


def source(env: Env, config: Config, dataset, demonstrations) -> Source:
    """Transitions of the dataset, and demonstrations beside them; the environment is only evaluated in.

    Raises:
      UserError: the demonstrations hold no actions, and the discriminator is to see them.
    """
    batch = dict(batch_size=config.batch_size, num_batches=config.num_updates, gamma=config.gamma)
    shown = sources.at_rest(demonstrations, **batch, actions="action" in config.inputs)
    return sources.beside(sources.with_starts(sources.at_rest(dataset, **batch), dataset), shown)
