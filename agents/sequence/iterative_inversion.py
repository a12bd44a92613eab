"""Iterative inversion, IT-IN: control learned from what one's own actions led to, steered towards demonstrated intents.
Leibovich et al., 2022, "Learning control by iterative inversion", arXiv:2211.01724.

An intent is what a whole episode looked like. The policy reads one and is trained by supervision to do what its own episodes
did, given the intents that these turned out to have; so it inverts the map from actions to intents where its episodes are. Acting,
it asks for demonstrated intents, of which no actions are known, and for its own with noise: its episodes, and with them what it can
invert, move towards the demonstrations.

An intent here is the episode's observations at some times, evenly spaced; the paper encodes videos by a VQ-VAE, and its policy
is a transformer.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from rljax import sources
from rljax.data import episodes as episodes_lib
from rljax.data.dataset import Dataset
from rljax.errors import UserError
from rljax.networks.policies import Policy, sample_or_mode
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Source, Transition
from rljax.updates import descend


@record
class Config:
    """Who evaluates asks for demonstrated intents alone."""

    learning_rate: float = 1e-3
    steering: float = 0.5  # share of own episodes that ask for a demonstrated intent; the others for one of their own
    intent_noise: float = 0.1  # standard deviation of what is added to own intents when they are asked for
    num_points: int = static(5)  # of an episode that make its intent, the last one among them
    observe: tuple[int, ...] = static(())  # entries of the observation, counted from 1, that intents are of; (): all
    hidden: tuple[int, ...] = static((128, 128))
    activation: str = static("relu")
    dtype: str = static("float32")
    batch_size: int = static(256)
    num_envs: int = static(32)
    rollout_length: int = static(50)  # steps in each environment between updates
    num_updates: int = static(50)  # after each rollout
    capacity: int = static(500)  # of the newest episodes
    num_intents: int = static(64)  # of either kind that are at hand to be asked for
    random_steps: int = static(0)  # before the first update; at least one episode in each environment


class State(NamedTuple):
    policy: Model
    demonstrated: Float[Array, "P Z"]  # intents to ask for; zeros before the first update
    own: Float[Array, "P Z"]


class Memory(NamedTuple):
    """What is asked for, and how many steps ago. Not `begun`: an episode starts, nothing is asked yet."""

    intent: Float[Array, "*B Z"]
    time: Int[Array, "*B"]
    begun: Bool[Array, "*B"]


class Inverted(NamedTuple):
    """Own steps [B], their times in their episodes and the intents that these had; and intents [P] of both kinds."""

    transition: Transition
    time: Int[Array, " B"]
    intent: Float[Array, "B Z"]
    demonstrated: Float[Array, "P Z"]
    own: Float[Array, "P Z"]


def entries(spec: EnvSpec, config: Config) -> Int[np.ndarray, " D"]:
    """Which entries of the observation intents are of.

    Raises:
      UserError: there is no such entry, observations are no vectors, or episodes have no time limit or fewer steps than points.
    """
    if len(spec.observation_shape) != 1 or not (spec.episode_length or 0) >= config.num_points:
        raise UserError(
            f"Intents of {config.num_points} points need vectors as observations, and a time limit of as many steps."
        )
    size = spec.observation_shape[0]
    if any(entry > size for entry in config.observe):
        raise UserError(f"observe={config.observe} must be entries of an observation of {size}, counted from 1.")
    return np.array(config.observe) - 1 if config.observe else np.arange(size)


def points(length: Int[Array, "*B"], number: int) -> Int[Array, "*B number"]:
    """Steps of an episode, evenly spaced up to its last one, whose next observations make its intent."""
    return jnp.ceil(length[..., None] * jnp.arange(1, number + 1) / number).astype(jnp.int32) - 1


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """IT-IN for any actions. Reads `Inverted` at a time. Raises UserError as `entries` does."""
    size = config.num_points * len(entries(spec, config))
    seen = EnvSpec((spec.observation_shape[0] + size + 1,), spec.action)
    policy = Policy(seen, dict(hidden=config.hidden, activation=config.activation, dtype=config.dtype))
    optimiser = optax.adam(config.learning_rate)

    def distribution(params, observation, intent, time):
        passed = (time / spec.episode_length)[:, None]
        return policy.apply(params, jnp.concatenate([observation, intent, passed], axis=-1))

    def init(key: Key) -> State:
        params = policy.init(key, jnp.zeros((1, *seen.observation_shape)))
        nothing = jnp.zeros((config.num_intents, size))
        return State(Model(params, optimiser.init(params)), nothing, jnp.copy(nothing))

    def ask(state: State, key: Key, number: int, explore: bool) -> Float[Array, "B Z"]:
        kind_key, choice_key, noise_key = jax.random.split(key, 3)
        chosen = jax.random.randint(choice_key, (number,), 0, config.num_intents)
        if not explore:
            return state.demonstrated[chosen]
        noise = config.intent_noise * jax.random.normal(noise_key, (number, size))
        steered = jax.random.uniform(kind_key, (number, 1)) < config.steering
        return jnp.where(steered, state.demonstrated[chosen], state.own[chosen] + noise)

    def act(state: State, observation, memory: Memory, key: Key, explore: bool = True):
        ask_key, action_key = jax.random.split(key)
        new = ask(state, ask_key, observation.shape[0], explore)
        intent = jnp.where(memory.begun[:, None], memory.intent, new)
        action = sample_or_mode(
            distribution(state.policy.params, observation, intent, memory.time), spec, action_key, explore
        )
        return action, Memory(intent, memory.time + 1, jnp.ones_like(memory.begun)), {}

    def update(state: State, batch: Inverted, key: Key) -> tuple[State, Metrics]:
        def loss(params):
            acting = distribution(params, batch.transition.observation, batch.intent, batch.time)
            value = -acting.log_prob(batch.transition.action).mean()
            return value, {"loss/policy": value}

        model, metrics = descend(optimiser, state.policy, loss)
        return State(model, batch.demonstrated, batch.own), metrics

    return Agent(init, act, update, Memory(jnp.zeros(size), jnp.int32(0), jnp.bool_(False)))


def demonstrated_intents(spec: EnvSpec, config: Config, dataset: Dataset) -> Float[Array, "E Z"]:
    """Those of a dataset's episodes, which need no actions."""
    rows = dataset.start[:, None] + points(dataset.length, config.num_points)
    return dataset.transition.next_observation[rows][..., entries(spec, config)].reshape(len(rows), -1)


def source(env: Env, config: Config, dataset: Any) -> Source:
    """Steps of own episodes with the intents that these had, and demonstrated intents, drawn by their episodes' weights.

    At first episodes are random; then the agent's own, the newest of which are kept. Its steps are the environment's.
    """
    wanted = entries(env.spec, config)

    def read(episodes: episodes_lib.Episodes, key: Key) -> Inverted:
        step_key, own_key, demo_key = jax.random.split(key, 3)

        def intents(row):
            times = points(episodes.steps[row], config.num_points)
            return episodes.data.next_observation[row[:, None], times][..., wanted].reshape(len(row), -1)

        row, time = episodes_lib.draw_steps(episodes, step_key, config.batch_size)
        own_row, _ = episodes_lib.draw_steps(episodes, own_key, config.num_intents)
        weight = jnp.log(jnp.diff(dataset.cumulative, prepend=0.0) / dataset.length)
        chosen = jax.random.categorical(demo_key, weight, shape=(config.num_intents,))
        transition = jax.tree.map(lambda x: x[row, time], episodes.data)
        demonstrated = demonstrated_intents(env.spec, config, dataset)[chosen]
        return Inverted(transition, time, intents(row), demonstrated, intents(own_row))

    return sources.episodes_of(env, config, read, keep_best=False, dataset=None)
