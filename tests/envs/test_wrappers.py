"""Each wrapper by hand, on an environment that counts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import rollout
from rljax.envs import make, wrappers
from rljax.record import record, static
from rljax.types import Agent, Continuous, EnvSpec, TimeStep


@record
class Counter:
    """Observation [count, -count], reward count + action, terminates at `end`, truncates at `limit` (never with 0)."""

    end: jax.Array
    limit: int = static(0)
    low: float = static(-1.0)
    high: float = static(1.0)

    @property
    def spec(self):
        return EnvSpec((2,), Continuous((), self.low, self.high), self.limit or None)

    def reset(self, key):
        return jnp.int32(0), jnp.zeros(2)

    def step(self, state, action, key):
        count = state + 1
        value = count.astype(jnp.float32)
        truncated = (count >= self.limit) & bool(self.limit)
        return count, TimeStep(jnp.stack([value, -value]), value + action, count >= self.end, truncated)


def play(env, num_steps, action=0.0):
    """The first observation, and the steps [num_steps] from there, without a reset."""

    def step(state, key):
        return env.step(state, jnp.float32(action), key)

    state, first = env.reset(jax.random.key(0))
    return first, jax.jit(lambda: jax.lax.scan(step, state, jax.random.split(jax.random.key(1), num_steps))[1])()


def test_time_limit_truncates_and_never_terminates():
    env = wrappers.TimeLimit(Counter(end=9), 3)
    _, steps = play(env, 4)
    assert steps.truncated.tolist() == [False, False, True, True]
    assert steps.terminated.tolist() == [False] * 4
    assert env.spec.episode_length == 3


def test_time_limit_yields_to_a_termination_on_the_same_step():
    _, steps = play(wrappers.TimeLimit(Counter(end=3), 3), 3)
    assert steps.terminated.tolist() == [False, False, True]
    assert steps.truncated.tolist() == [False, False, False]


@pytest.mark.parametrize("inner, outer", [(2, 5), (5, 2)])
def test_the_sooner_of_two_time_limits_counts(inner, outer):
    env = wrappers.TimeLimit(Counter(end=9, limit=inner), outer)
    _, steps = play(env, 2)
    assert steps.truncated.tolist() == [False, True]
    assert env.spec.episode_length == 2


def test_action_repeat_sums_rewards_and_stops_at_the_end():
    _, steps = play(wrappers.ActionRepeat(Counter(end=5), 3), 2, action=0.5)
    np.testing.assert_allclose(steps.reward, [1 + 2 + 3 + 1.5, 4 + 5 + 1.0])  # the second repeat ends after two steps
    np.testing.assert_allclose(steps.observation, [[3, -3], [5, -5]])
    assert steps.terminated.tolist() == [False, True]


def test_action_repeat_stops_at_a_truncation_and_counts_its_own_steps():
    env = wrappers.ActionRepeat(Counter(end=9, limit=4), 3)
    _, steps = play(env, 2)
    np.testing.assert_allclose(steps.reward, [6, 4])
    assert steps.truncated.tolist() == [False, True]
    assert steps.terminated.tolist() == [False, False]
    assert env.spec.episode_length == 2


def test_frame_stack_repeats_the_first_frame_and_puts_the_newest_last():
    env = wrappers.FrameStack(Counter(end=9), 3)
    first, steps = play(env, 3)
    assert env.spec.observation_shape == first.shape == (6,)
    np.testing.assert_allclose(first, np.zeros(6))
    np.testing.assert_allclose(steps.observation, [[0, 0, 0, 0, 1, -1], [0, 0, 1, -1, 2, -2], [1, -1, 2, -2, 3, -3]])


def test_frame_stack_keeps_the_last_frames_of_an_episode_and_forgets_them_after():
    env = wrappers.FrameStack(Counter(end=2), 2)
    steps = unroll(env, 3)
    np.testing.assert_allclose(steps.next_observation[1, 0], [1, -1, 2, -2])
    np.testing.assert_allclose(steps.observation[2, 0], [0, 0, 0, 0])
    np.testing.assert_allclose(steps.next_observation[2, 0], [0, 0, 1, -1])


def test_mask_observation_keeps_what_it_is_told():
    env = wrappers.MaskObservation(Counter(end=9), (1,))
    first, steps = play(env, 2)
    assert env.spec.observation_shape == first.shape == (1,)
    np.testing.assert_allclose(steps.observation, [[-1], [-2]])


@pytest.mark.parametrize("keep", [(), (2,), (-1,)])
def test_mask_observation_refuses_entries_that_are_not_there(keep):
    with pytest.raises(ValueError, match="entries 0 to 1"):
        _ = wrappers.MaskObservation(Counter(end=9), keep).spec


@pytest.mark.parametrize("action, inner", [(-1.0, 2.0), (0.0, 4.0), (0.5, 5.0), (3.0, 6.0)])
def test_scale_action_maps_to_the_bounds(action, inner):
    env = wrappers.ScaleAction(Counter(end=9, low=2.0, high=6.0))
    _, steps = play(env, 1, action)
    np.testing.assert_allclose(steps.reward, [1.0 + inner])
    assert (env.spec.action.low, env.spec.action.high) == (-1.0, 1.0)


@pytest.mark.parametrize("action, inner", [(0.0, 2.0), (3.0, 3.0), (9.0, 6.0)])
def test_clip_action_keeps_within_the_bounds(action, inner):
    _, steps = play(wrappers.ClipAction(Counter(end=9, low=2.0, high=6.0)), 1, action)
    np.testing.assert_allclose(steps.reward, [1.0 + inner])


def test_episode_statistics_count_from_the_start_of_the_episode():
    _, steps = play(wrappers.EpisodeStatistics(Counter(end=3)), 3, action=0.5)
    np.testing.assert_allclose(steps.info["episode/return"], [1.5, 4.0, 7.5])
    np.testing.assert_allclose(steps.info["episode/length"], [1, 2, 3])


def test_wrappers_nest_and_their_parameters_are_vmapped():
    env = wrappers.EpisodeStatistics(wrappers.TimeLimit(wrappers.FrameStack(Counter(end=jnp.array([2, 9])), 2), 3))
    axes = jax.tree.map(lambda _: 0, env)
    _, steps = jax.vmap(lambda env: play(env, 3), in_axes=(axes,))(env)
    assert steps.terminated.tolist() == [[False, True, True], [False, False, False]]
    assert steps.truncated.tolist() == [[False, False, False], [False, False, True]]
    assert env.spec == dataclasses.replace(Counter(end=1).spec, observation_shape=(4,), episode_length=3)


def unroll(env, length):
    agent = Agent(init=lambda key: (), act=None, update=None)
    act = lambda observation, memory, key: (jnp.zeros(len(observation)), memory, {})
    state = rollout.start(env, agent, 1, jax.random.key(0))
    return rollout.unroll(env, act, (), state, jax.random.key(1), length)[1].steps


def test_a_learned_reward_remembers_its_episode_alone():
    """Paid is how much was seen and done so far, from each episode's start on."""

    def reward(state, steps, total):
        total = total + state * (steps.next_observation[:, 0] + steps.action)
        return total, total

    env = wrappers.Rewarded(Counter(end=3), jnp.float32(10.0), reward, jnp.float32(0.0))
    steps = unroll(env, 7)
    np.testing.assert_allclose(steps.reward[:, 0], [10, 30, 60, 10, 30, 60, 10])
    assert steps.terminated[:, 0].tolist() == [False, False, True, False, False, True, False]


def test_learned_rewards_are_of_actions_as_they_were_done():
    env = wrappers.Rewarded(make("gymnax/Pendulum-v1"), (), lambda state, steps: steps.action[:, 0])
    state, _ = env.reset(jax.random.key(0))
    paid = [
        float(env.step(state, jnp.array([action]), jax.random.key(1))[1].reward) for action in (0.5, 1.0, 5.0, -3.0)
    ]
    assert paid == [0.5, 1.0, 1.0, -1.0]
