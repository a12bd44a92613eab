"""Environments around environments: time limits, repeated actions, stacked and masked observations, statistics.

A wrapper is a frozen pytree with the environment it wraps in `env`, so parameters stay leaves: `wrapped.env.params`.
None resets: a wrapper sees an episode's last observation like any other.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rljax.distributions import in_box
from rljax.errors import UserError
from rljax.record import record, static
from rljax.rollout import as_transition
from rljax.types import Continuous, Env, EnvSpec, Key, TimeStep


def strong(tree: Any) -> Any:
    """Python numbers as arrays and weak types made strong, so that reset and step give the same types. Keys pass."""

    def leaf(x):
        return x if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key) else jnp.asarray(x, jnp.result_type(x))

    return jax.tree.map(leaf, tree)


def rescale(action: Array, low, high) -> Array:
    """From [-1, 1], beyond which actions are clipped, to [low, high]."""
    return low + (jnp.clip(action, -1.0, 1.0) + 1.0) * 0.5 * (high - low)


@record
class Wrapper:
    """Passes everything through; the base of the others."""

    env: Env

    @property
    def spec(self) -> EnvSpec:
        return self.env.spec

    def reset(self, key: Key) -> tuple[Any, Array]:
        return self.env.reset(key)

    def step(self, state: Any, action: Array, key: Key) -> tuple[Any, TimeStep]:
        return self.env.step(state, action, key)


@record
class TimeLimitState:
    env: Any
    steps: Int[Array, ""]


@record
class TimeLimit(Wrapper):
    """Truncates after `length` steps, or when the inner environment does if that is sooner. Never terminates.

    A step that terminates is not truncated as well.
    """

    length: int = static()

    @property
    def spec(self):
        inner = self.env.spec.episode_length
        return replace(self.env.spec, episode_length=self.length if inner is None else min(self.length, inner))

    def reset(self, key):
        state, observation = self.env.reset(key)
        return TimeLimitState(state, jnp.int32(0)), observation

    def step(self, state, action, key):
        inner, following = self.env.step(state.env, action, key)
        steps = state.steps + 1
        truncated = (following.truncated | (steps >= self.length)) & ~following.terminated
        return TimeLimitState(inner, steps), following.replace(truncated=truncated)


@record
class RewardedState:
    env: Any
    observation: Array
    memory: Any  # the reward's


@record
class Rewarded(Wrapper):
    """Pays what an agent has learned that a step is worth, of actions as they were done, in place of what the environment pays.

    state: of that agent. reward: its `Agent.reward`. memory: its `Agent.reward_memory`.
    """

    state: Any
    reward: Callable = static()
    memory: Any = ()

    @property
    def spec(self):
        return replace(self.env.spec, num_rewards=1)

    def reset(self, key):
        state, observation = self.env.reset(key)
        return RewardedState(state, observation, self.memory), observation

    def step(self, state, action, key):
        inner, following = self.env.step(state.env, action, key)
        step = as_transition(state.observation, in_box(self.spec.action, action), following)
        step, memory = jax.tree.map(lambda x: jnp.asarray(x)[None], (step, state.memory))
        if jax.tree.leaves(memory):
            found = self.reward(self.state, step, memory)
        else:
            found = self.reward(self.state, step), ()
        paid, memory = jax.tree.map(lambda x: x[0], found)
        info = {name: x for name, x in following.info.items() if name != "rewards"}
        return RewardedState(inner, following.observation, memory), following.replace(reward=paid, info=info)


@record
class ActionRepeat(Wrapper):
    """Takes every action `repeats` times and sums the rewards. A repeat stops where the episode ends."""

    repeats: int = static()

    @property
    def spec(self):
        inner = self.env.spec.episode_length
        return replace(self.env.spec, episode_length=None if inner is None else math.ceil(inner / self.repeats))

    def step(self, state, action, key):
        def repeat(carry, key):
            state, so_far = carry
            new_state, new = self.env.step(state, action, key)
            summed = {name: so_far.info[name] + x for name, x in new.info.items() if name == "rewards"}
            new = new.replace(reward=so_far.reward + new.reward, info={**new.info, **summed})
            ended = so_far.terminated | so_far.truncated
            return jax.tree.map(lambda old, new: jnp.where(ended, old, new), carry, (new_state, new)), None

        _, shapes = jax.eval_shape(self.env.step, state, action, key)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)  # one traced copy of env.step, not two
        return jax.lax.scan(repeat, (state, nothing), jax.random.split(key, self.repeats))[0]


@record
class FrameStackState:
    env: Any
    frames: Array


@record
class FrameStack(Wrapper):
    """The last `num_frames` observations [..., C] joined along the last axis, oldest first: [..., num_frames * C].

    An episode begins with its first observation repeated.
    """

    num_frames: int = static()

    @property
    def spec(self):
        *shape, channels = self.env.spec.observation_shape
        return replace(self.env.spec, observation_shape=(*shape, self.num_frames * channels))

    def reset(self, key):
        state, observation = self.env.reset(key)
        frames = jnp.concatenate([observation] * self.num_frames, axis=-1)
        return FrameStackState(state, frames), frames

    def step(self, state, action, key):
        inner, following = self.env.step(state.env, action, key)
        channels = following.observation.shape[-1]
        frames = jnp.concatenate([state.frames[..., channels:], following.observation], axis=-1)
        return FrameStackState(inner, frames), following.replace(observation=frames)


@record
class MaskObservation(Wrapper):
    """Keeps the entries `keep` of the observation's last axis and hides the others (the velocities of CartPole, say)."""

    keep: tuple[int, ...] = static()

    @property
    def spec(self):
        """Raises ValueError if there is nothing to keep, or no such entry."""
        *shape, size = self.env.spec.observation_shape
        if not self.keep or not all(0 <= index < size for index in self.keep):
            raise UserError(f"Cannot keep entries {list(self.keep)} of an observation with entries 0 to {size - 1}.")
        return replace(self.env.spec, observation_shape=(*shape, len(self.keep)))

    def reset(self, key):
        state, observation = self.env.reset(key)
        return state, observation[..., np.array(self.keep)]

    def step(self, state, action, key):
        state, following = self.env.step(state, action, key)
        return state, following.replace(observation=following.observation[..., np.array(self.keep)])


@record
class ScaleAction(Wrapper):
    """Presents a Continuous environment with actions in [-1, 1], clipped and rescaled to its bounds."""

    @property
    def spec(self):
        return replace(self.env.spec, action=Continuous(self.env.spec.action.shape))

    def step(self, state, action, key):
        bounds = self.env.spec.action
        return self.env.step(state, rescale(action, bounds.low, bounds.high), key)


@record
class ClipAction(Wrapper):
    """Clips Continuous actions to the bounds of the environment."""

    def step(self, state, action, key):
        bounds = self.env.spec.action
        return self.env.step(state, jnp.clip(action, bounds.low, bounds.high), key)


@record
class StatisticsState:
    env: Any
    episode_return: Float[Array, ""]
    episode_length: Int[Array, ""]


@record
class EpisodeStatistics(Wrapper):
    """Adds "episode/return" and "episode/length" to `info`: of the episode so far, and of all of it at its end."""

    def reset(self, key):
        state, observation = self.env.reset(key)
        return StatisticsState(state, jnp.float32(0), jnp.int32(0)), observation

    def step(self, state, action, key):
        inner, following = self.env.step(state.env, action, key)
        state = StatisticsState(inner, state.episode_return + following.reward, state.episode_length + 1)
        statistics = {"episode/return": state.episode_return, "episode/length": state.episode_length}
        return state, following.replace(info={**following.info, **statistics})
