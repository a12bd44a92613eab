"""What learners of action values from a replay have in common (dqn.py, decqn.py): a target network that follows, exploration by
chance that falls, a replay that is prioritised or not."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from rljax import sources
from rljax.record import record, static
from rljax.types import Env, Model, Params, Source


@record
class Config:
    """Defaults: DQN's here (agents/online/dqn.py)."""

    learning_rate: float = 2.5e-4
    adam_epsilon: float = 1e-8
    gamma: float = 0.99
    target_rate: float = 1.0  # share of the new parameters in the target's, every `target_period` updates: 1 copies
    target_period: int = 50
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


def adam(config: Config) -> optax.GradientTransformation:
    clip = optax.clip_by_global_norm(config.max_grad_norm)
    return optax.chain(clip, optax.adam(config.learning_rate, eps=config.adam_epsilon))


def begin(params: Params, optimiser: optax.GradientTransformation) -> State:
    """The state before the first update; the target's parameters lie apart, so that it can be donated."""
    return State(Model(params, optimiser.init(params)), jax.tree.map(jnp.copy, params), jnp.int32(0))


def follow(config: Config, state: State, q: Model) -> State:
    """The state after a gradient step: every so often the target follows."""
    updates = state.updates + 1
    rate = jnp.where(updates % config.target_period == 0, config.target_rate, 0.0)
    return State(q, optax.incremental_update(q.params, state.target, rate), updates)


def env_steps(config: Config, state: State):
    """Environment steps that the experience behind the next update took, random ones included."""
    return config.warmup + state.updates * (config.num_envs * config.rollout_length / config.num_updates)


def epsilon(config: Config, state: State, explore: bool = True):
    """How likely an action is one by chance."""
    if not explore:
        return config.evaluation_epsilon
    progress = jnp.minimum(env_steps(config, state) / config.exploration_steps, 1.0)
    return config.epsilon_start + progress * (config.epsilon_end - config.epsilon_start)


def replay_of(env: Env, config: Config, **changes) -> Source:
    """The replay that a config describes, prioritised or not; `changes` are arguments of `sources.replay`."""

    def importance_exponent(state: State):
        progress = jnp.minimum(env_steps(config, state) / config.importance_steps, 1.0)
        return config.importance_exponent + progress * (1.0 - config.importance_exponent)

    exponent = config.priority_exponent if config.prioritised else None
    given = dict(priority_exponent=exponent, importance_exponent=importance_exponent) | changes
    return sources.replay_of(env, config, **given)
