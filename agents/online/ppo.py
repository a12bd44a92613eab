"""Proximal policy optimisation. Schulman et al., 2017, arXiv:1707.06347.

Several epochs of minibatch steps on each rollout, on a surrogate that stops paying once the probability of an action has moved
too far. Discrete and continuous actions, feed-forward or recurrent (`memory` > 0).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import distributions, normalize, sources
from rljax.losses import multistep, policy_gradient
from rljax.networks import Torso, unroll_memory
from rljax.networks.policies import log_prob_of
from rljax.networks.torsos import dense
from rljax.record import record, static
from rljax.types import Agent, Continuous, Env, EnvSpec, Key, Metrics, Model, Rollout, Source
from rljax.updates import descend, minibatch_epochs


@record
class Config:
    """Defaults: those of the paper's Atari table, with the learning rate and network usual for small observations."""

    learning_rate: float = 2.5e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy_coefficient: float = 0.01
    value_coefficient: float = 0.5
    max_grad_norm: float = 0.5  # global norm over all parameters
    reward_scale: float = 1.0
    total_steps: float = (
        0.0  # environment steps over which the learning rate falls to 0, if it falls; the binary sets it
    )
    anneal_learning_rate: bool = static(False)
    normalize_advantages: bool = static(True)  # per minibatch
    normalize_observations: bool = static(False)
    clip_value: bool = static(False)
    num_envs: int = static(16)
    rollout_length: int = static(128)
    num_epochs: int = static(4)
    num_minibatches: int = static(4)
    hidden: tuple[int, ...] = static((64, 64))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("tanh")
    memory: int = static(0)  # units of a GRU after the hidden layers; 0: none
    dtype: str = static("float32")


class State(NamedTuple):
    model: Model
    statistics: normalize.RunningStatistics  # of observations


class ActorCritic(nn.Module):
    """(observation, memory) -> (memory, (policy parameters, value)). Policy and value share nothing but the memory."""

    spec: EnvSpec
    config: Config

    @nn.compact
    def __call__(self, observation, memory):
        config, action = self.config, self.spec.action

        def torso(name):
            return Torso(
                config.hidden,
                len(self.spec.observation_shape),
                config.channels,
                config.activation,
                orthogonal=True,
                dtype=config.dtype,
                name=name,
            )

        if config.memory:
            features = torso("torso")(observation)
            memory, features = nn.GRUCell(config.memory, dtype=config.dtype)(memory, features)
            policy_features = value_features = features
        else:
            policy_features, value_features = torso("policy_torso")(observation), torso("value_torso")(observation)
        size = action.size if isinstance(action, Continuous) else action.num_actions
        policy = dense(size, 0.01, name="policy")(policy_features).astype(jnp.float32)
        value = dense(1, 1.0, name="value")(value_features).astype(jnp.float32)[..., 0]
        if isinstance(action, Continuous):
            policy = policy, jnp.broadcast_to(self.param("log_std", nn.initializers.zeros, (size,)), policy.shape)
        return memory, (policy, value)


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """PPO for any actions. Reads a `Rollout` at a time."""
    network = ActorCritic(spec, config)
    memory = jnp.zeros(config.memory) if config.memory else ()
    updates = (
        config.total_steps / (config.num_envs * config.rollout_length) * config.num_epochs * config.num_minibatches
    )

    def learning_rate(count):
        return config.learning_rate * jnp.maximum(1.0 - count / updates, 0.0)

    optimiser = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adam(learning_rate if config.anneal_learning_rate else config.learning_rate, eps=1e-5),
    )

    def distribution(policy):
        return (
            distributions.normal(*policy) if isinstance(spec.action, Continuous) else distributions.categorical(policy)
        )

    def normalized(statistics, observation):
        return normalize.normalize(statistics, observation) if config.normalize_observations else observation

    def init(key: Key) -> State:
        params = network.init(key, jnp.zeros((1, *spec.observation_shape)), initial(1))
        return State(Model(params, optimiser.init(params)), normalize.init(spec.observation_shape))

    def initial(num_envs: int):
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_envs, *x.shape)), memory)

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        observation = normalized(state.statistics, observation)
        memory, (policy, _) = network.apply(state.model.params, observation, memory)
        policy = distribution(policy)
        action = policy.sample(seed=key) if explore else policy.mode()
        return action, memory, {"log_prob": policy.log_prob(action)}

    def log_prob(state: State, observation, action, explore: bool = True):
        _, (policy, _) = network.apply(state.model.params, normalized(state.statistics, observation), ())
        return log_prob_of(distribution(policy), spec, action, explore)

    def evaluate(params, steps, start):
        """The memory after each step and (policy parameters, values), [T, N] or, without a memory, of any shape."""
        if not config.memory:
            return network.apply(params, steps.observation, ())
        apply = lambda observation, memory: network.apply(params, observation, memory)
        return unroll_memory(apply, start, initial(steps.done.shape[1]), steps.observation, steps.done)

    def advantages(params, steps, start):
        """Advantages and values [T, N]. The value that follows is that of the observation the dynamics led to."""
        after, (_, value) = evaluate(params, steps, start)
        _, (_, next_value) = network.apply(params, steps.next_observation, after)
        discount = config.gamma * (1.0 - steps.terminated)
        trace = config.gae_lambda * (1.0 - steps.done)
        estimate = jax.vmap(multistep.lambda_advantages, in_axes=1, out_axes=1)
        return estimate(config.reward_scale * steps.reward, discount, trace, value, next_value), value

    # A minibatch is made of steps; of whole sequences where there is a memory.
    to_items = time_first if config.memory else lambda x: x.reshape(-1, *x.shape[2:])
    from_items = time_first if config.memory else lambda x: x

    def loss(params, items, start):
        steps, advantage, old_value = jax.tree.map(from_items, items)
        _, (policy, value) = evaluate(params, steps, start)
        policy = distribution(policy)
        target = advantage + old_value
        if config.normalize_advantages:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        log_ratio = policy.log_prob(steps.action) - steps.extras["log_prob"]
        surrogate = jnp.vectorize(policy_gradient.clipped_surrogate)(log_ratio, advantage, config.clip).mean()
        if config.clip_value:
            value_loss = jnp.vectorize(policy_gradient.clipped_value_loss)(value, old_value, target, config.clip).mean()
        else:
            value_loss = 0.5 * jnp.square(value - target).mean()
        entropy = policy.entropy().mean()
        ratio = jnp.exp(log_ratio)
        metrics = {
            "loss/policy": surrogate,
            "loss/value": value_loss,
            "policy/entropy": entropy,
            "policy/kl": (ratio - 1.0 - log_ratio).mean(),
            "policy/clipped": (jnp.abs(ratio - 1.0) > config.clip).mean(),
        }
        return surrogate + config.value_coefficient * value_loss - config.entropy_coefficient * entropy, metrics

    def update(state: State, batch: Rollout, key: Key) -> tuple[State, Metrics]:
        steps = batch.steps.replace(
            observation=normalized(state.statistics, batch.steps.observation),
            next_observation=normalized(state.statistics, batch.steps.next_observation),
        )
        advantage, value = advantages(state.model.params, steps, batch.memory)
        items = jax.tree.map(to_items, (steps.replace(next_observation=()), advantage, value))
        model, metrics = minibatch_epochs(
            lambda model, minibatch: descend(optimiser, model, lambda params: loss(params, *minibatch)),
            state.model,
            (items, batch.memory),
            key,
            config.num_epochs,
            config.num_minibatches,
        )
        statistics = state.statistics
        if config.normalize_observations:  # after the update: until then policy and data must see the same observations
            statistics = normalize.update(statistics, batch.steps.observation)
        return State(model, statistics), metrics

    return Agent(init, act, update, memory, log_prob=None if config.memory else log_prob)


def source(env: Env, config: Config = Config()) -> Source:
    """Rollouts of the present policy."""
    return sources.rollouts(env, config.num_envs, config.rollout_length)


def time_first(x):
    """[N, T, ...] to [T, N, ...] and back."""
    return jnp.swapaxes(x, 0, 1)
