"""Probes: the smallest environments in which one thing can go wrong, with what a right value or policy is.

The first five are those of Andy Jones, "Debugging RL, without the agonizing pain" (2021),
https://andyljones.com/posts/rl-debugging.html. In all of them an action is an index, or with `continuous=True` a number of
shape [1] in [-1, 1] (outside of it nothing is clipped). An episode's last observation is one that also occurs before its
end, so that it shows when a value is bootstrapped after a termination.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rljax.record import record, static
from rljax.types import Continuous, Discrete, EnvSpec, Key, TimeStep

BEST_SIZE = 0.5  # of a continuous action: well inside its box


def action_spec(continuous: bool, num_actions: int = 2) -> Discrete | Continuous:
    return Continuous((1,)) if continuous else Discrete(num_actions)


def judge(action: Array, sign: Float[Array, ""], continuous: bool) -> Float[Array, ""]:
    """The reward of an action where `sign` (-1 or 1) asks for it.

    Discrete: the right action is 0 for -1 and 1 for 1; it pays 1, the wrong one -1.
    Continuous: the right action is 0.5 * sign, it pays 0; any other pays minus the squared distance to it.
    """
    if continuous:
        return -jnp.square(action[0] - BEST_SIZE * sign)
    return jnp.where(action == (sign > 0), 1.0, -1.0)


def draw_sign(key: Key) -> Float[Array, ""]:
    return jax.random.rademacher(key, (), jnp.float32)


def following(observation, reward, terminated=True, truncated=False) -> TimeStep:
    return TimeStep(observation, jnp.float32(reward), jnp.bool_(terminated), jnp.bool_(truncated))


@record
class ConstantReward:
    """One step, observation [0], reward 1; actions do not matter (there is one).

    Right: value([0]) = 1 (and Q = 1). If not: the value's loss, its optimiser, or a bootstrap after a termination.
    """

    continuous: bool = static(False)

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec((1,), action_spec(self.continuous, num_actions=1), episode_length=1)

    def reset(self, key: Key) -> tuple[Any, Float[Array, "1"]]:
        return (), jnp.zeros(1)

    def step(self, state, action, key: Key) -> tuple[Any, TimeStep]:
        return (), following(jnp.zeros(1), 1.0)


@record
class ObservationReward:
    """One step, observation [-1] or [1], which is also the reward; actions do not matter (there is one).

    Right: value([o]) = o. If not: the observation does not reach the value, or is mixed up with another's.
    """

    continuous: bool = static(False)

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec((1,), action_spec(self.continuous, num_actions=1), episode_length=1)

    def reset(self, key: Key) -> tuple[Float[Array, ""], Float[Array, "1"]]:
        sign = draw_sign(key)
        return sign, sign[None]

    def step(self, state, action, key: Key) -> tuple[Float[Array, ""], TimeStep]:
        return state, following(state[None], state)


@record
class TwoStepCredit:
    """Two steps, observations [0] then [1], rewards 0 then 1; actions do not matter (there is one).

    Right: value([0]) = gamma, value([1]) = 1. If not: the discount, the bootstrap, or the order of time.
    """

    continuous: bool = static(False)

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec((1,), action_spec(self.continuous, num_actions=1), episode_length=2)

    def reset(self, key: Key) -> tuple[Int[Array, ""], Float[Array, "1"]]:
        return jnp.int32(0), jnp.zeros(1)

    def step(self, state, action, key: Key) -> tuple[Int[Array, ""], TimeStep]:
        return state + 1, following(jnp.ones(1), reward=state == 1, terminated=state == 1)


@record
class ActionReward:
    """One step, observation [0]; the reward is for the action alone (see `judge`).

    Right: always action 1, value 1; continuous: the mean (or mode) is 0.5, where the value of acting so is 0.
    If not: the sign or scale of the policy's loss, the advantage, or how actions are stored.
    """

    continuous: bool = static(False)

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec((1,), action_spec(self.continuous), episode_length=1)

    def reset(self, key: Key) -> tuple[Any, Float[Array, "1"]]:
        return (), jnp.zeros(1)

    def step(self, state, action, key: Key) -> tuple[Any, TimeStep]:
        return (), following(jnp.zeros(1), judge(action, 1.0, self.continuous))


@record
class ObservationActionReward:
    """One step, observation [-1] or [1], which says what the right action is (see `judge`).

    Right: action 0 at [-1] and 1 at [1], value 1 at both; continuous: the mean (or mode) is -0.5 and 0.5, value 0.
    If not: the policy does not see its observation, or observations and actions are stored out of step.
    """

    continuous: bool = static(False)

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec((1,), action_spec(self.continuous), episode_length=1)

    def reset(self, key: Key) -> tuple[Float[Array, ""], Float[Array, "1"]]:
        sign = draw_sign(key)
        return sign, sign[None]

    def step(self, state, action, key: Key) -> tuple[Float[Array, ""], TimeStep]:
        return state, following(state[None], judge(action, state, self.continuous))


@record
class TimeLimit:
    """Observation [0] and reward 1 at every step, truncated after 10 and never terminated; actions do not matter.

    Right: value([0]) = 1 / (1 - gamma), since the task goes on after the limit. If it stays below: truncation is taken
    for termination (with one-step targets the fixed point is then 1 / (1 - 0.9 gamma), as one step in ten is cut).
    """

    continuous: bool = static(False)
    episode_length: int = static(10)

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec((1,), action_spec(self.continuous, num_actions=1), self.episode_length)

    def reset(self, key: Key) -> tuple[Int[Array, ""], Float[Array, "1"]]:
        return jnp.int32(0), jnp.zeros(1)

    def step(self, state, action, key: Key) -> tuple[Int[Array, ""], TimeStep]:
        time = state + 1
        return time, following(jnp.zeros(1), 1.0, terminated=False, truncated=time >= self.episode_length)


@record
class MemoryState:
    cue: Float[Array, ""]
    time: Int[Array, ""]


@record
class Memory:
    """Observation [-1] or [1] (the cue) at first, then [0] for `delay` steps; the action at the last is judged by the cue.

    All other rewards are 0; the episode terminates after `delay` + 1 steps.

    Right: the last action is 0 after [-1] and 1 after [1], the return is 1 and the first value gamma^delay; continuous:
    -0.5 and 0.5, 0, and 0. No policy without memory has an expected return above 0; continuous: above -0.25.
    If not: the recurrent state is lost between steps, between acting and learning, or reset at the wrong time.
    """

    continuous: bool = static(False)
    delay: int = static(3)

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec((1,), action_spec(self.continuous), episode_length=self.delay + 1)

    def reset(self, key: Key) -> tuple[MemoryState, Float[Array, "1"]]:
        cue = draw_sign(key)
        return MemoryState(cue, jnp.int32(0)), cue[None]

    def step(self, state: MemoryState, action, key: Key) -> tuple[MemoryState, TimeStep]:
        last = state.time == self.delay
        reward = jnp.where(last, judge(action, state.cue, self.continuous), 0.0)
        return state.replace(time=state.time + 1), following(jnp.zeros(1), reward, terminated=last)


PROBES = (ConstantReward, ObservationReward, TwoStepCredit, ActionReward, ObservationActionReward, TimeLimit, Memory)
ENVIRONMENTS = {f"Probe-{probe.__name__}": probe for probe in PROBES}
