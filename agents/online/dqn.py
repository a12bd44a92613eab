"""Deep Q-learning. Mnih et al., 2015, "Human-level control through deep reinforcement learning", Nature 518.

Q regresses onto r + gamma max_a Q'(s', a) over a replay of past experience, where Q' is an older copy of Q. Switches of the
Config: Double (van Hasselt et al., 2015, arXiv:1509.06461), Dueling (Wang et al., 2015, arXiv:1511.06581), prioritised replay
(Schaul et al., 2015, arXiv:1511.05952), and targets over several steps.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from rljax import distributions, sources
from rljax.errors import UserError
from rljax.losses import value as losses
from rljax.networks.torsos import Torso, dense
from rljax.record import record, static
from rljax.types import Agent, Discrete, Env, EnvSpec, Key, Metrics, Model, Params, Sample, Source
from rljax.updates import descend


@record
class Config:
    """Defaults: CleanRL's for classic control, but an update for a step in each of 16 environments, and Double."""

    learning_rate: float = 2.5e-4
    gamma: float = 0.99
    target_rate: float = 1.0  # share of the new parameters in the target's, every `target_period` updates: 1 copies
    target_period: int = 50
    huber_delta: float = 1e6  # error from which on the loss is linear: here none; 1 for rewards clipped to [-1, 1]
    max_grad_norm: float = 1e6  # global norm over all parameters; here no bound, 10 in the paper on dueling networks
    reward_scale: float = 1.0
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    exploration_steps: float = 1.5e5  # environment steps over which epsilon falls
    evaluation_epsilon: float = 0.0
    priority_exponent: float = 0.6
    importance_exponent: float = 0.4  # rises to 1
    importance_steps: float = 5e5  # environment steps over which it does
    double: bool = static(True)
    dueling: bool = static(False)
    prioritised: bool = static(False)
    hidden: tuple[int, ...] = static((120, 84))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    layer_norm: bool = static(False)
    dtype: str = static("float32")
    num_envs: int = static(16)
    rollout_length: int = static(1)  # steps in each environment between updates
    num_updates: int = static(1)  # after each rollout
    num_steps: int = static(1)  # that a sample spans
    batch_size: int = static(128)
    capacity: int = static(10_000)
    warmup: int = static(1_000)  # random steps before the first update


class State(NamedTuple):
    q: Model
    target: Params
    updates: Int[Array, ""]


class QNetwork(nn.Module):
    """Observations [B, *shape] to Q [B, A]. The last hidden layer belongs to the stream(s)."""

    spec: EnvSpec
    config: Config

    @nn.compact
    def __call__(self, observation):
        config, num_actions = self.config, self.spec.action.num_actions
        shared = dict(activation=config.activation, layer_norm=config.layer_norm, dtype=config.dtype)
        features = Torso(config.hidden[:-1], len(self.spec.observation_shape), config.channels, **shared)(observation)
        stream = lambda size: dense(size)(Torso(config.hidden[-1:], **shared)(features).astype(jnp.float32))
        if not config.dueling:
            return stream(num_actions)
        return jax.vmap(losses.dueling)(stream(1)[:, 0], stream(num_actions))


def env_steps(config: Config, state: State):
    """Environment steps that the experience behind the next update took, random ones included."""
    return config.warmup + state.updates * (config.num_envs * config.rollout_length / config.num_updates)


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """DQN for discrete actions. Reads a `Sample` [B] at a time."""
    if not isinstance(spec.action, Discrete):
        raise UserError("DQN is for discrete actions and this environment's are continuous: take SAC or TD3.")
    network = QNetwork(spec, config)
    optimiser = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(config.learning_rate))

    def init(key: Key) -> State:
        params = network.init(key, jnp.zeros((1, *spec.observation_shape)))
        target = jax.tree.map(jnp.copy, params)  # apart, so that the state can be donated
        return State(Model(params, optimiser.init(params)), target, jnp.int32(0))

    def epsilon(state: State):
        progress = jnp.minimum(env_steps(config, state) / config.exploration_steps, 1.0)
        return config.epsilon_start + progress * (config.epsilon_end - config.epsilon_start)

    def chance(state: State, explore: bool):
        return epsilon(state) if explore else config.evaluation_epsilon

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        q = network.apply(state.q.params, observation)
        return distributions.epsilon_greedy(q, chance(state, explore), key), memory, {}

    def log_prob(state: State, observation, action, explore: bool = True):
        q = network.apply(state.q.params, observation)
        return distributions.epsilon_greedy_log_prob(q, chance(state, explore), action)

    def update(state: State, batch: Sample, key: Key) -> tuple[State, Metrics]:
        del key  # nothing here is random
        steps = batch.transition
        q_target = network.apply(state.target, steps.next_observation)
        q_selector = network.apply(state.q.params, steps.next_observation) if config.double else q_target
        next_value = jax.vmap(losses.double_q_value)(q_selector, q_target)
        target = jax.vmap(losses.td_target)(config.reward_scale * steps.reward, batch.discount, next_value)

        def loss(params):
            q = jnp.take_along_axis(network.apply(params, steps.observation), steps.action[:, None], axis=1)[:, 0]
            error = target - q
            loss = (batch.weight * jax.vmap(losses.huber, (0, None))(error, config.huber_delta)).mean()
            metrics = {"loss/q": loss, "q/mean": q.mean(), "q/error": jnp.abs(error).mean()}
            return loss, metrics | ({"priority": jnp.abs(error)} if config.prioritised else {})

        model, metrics = descend(optimiser, state.q, loss)
        updates = state.updates + 1
        rate = jnp.where(updates % config.target_period == 0, config.target_rate, 0.0)
        target_params = optax.incremental_update(model.params, state.target, rate)
        return State(model, target_params, updates), metrics | {"policy/epsilon": epsilon(state)}

    return Agent(init, act, update, log_prob=log_prob)


def source(env: Env, config: Config = Config()) -> Source:
    """Steps of the present policy into a replay, batches out of it."""

    def importance_exponent(state: State):
        progress = jnp.minimum(env_steps(config, state) / config.importance_steps, 1.0)
        return config.importance_exponent + progress * (1.0 - config.importance_exponent)

    exponent = config.priority_exponent if config.prioritised else None
    return sources.replay_of(env, config, priority_exponent=exponent, importance_exponent=importance_exponent)
