"""Probes: every observation, reward and end by hand, and what their docstrings call a right value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import rollout
from rljax.envs import probes
from rljax.types import Agent, Continuous, Discrete

both = pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])


def make(name, **options):
    return probes.ENVIRONMENTS[f"Probe-{name}"](**options)


def encode(action, continuous):
    """Discrete actions as they are; continuous ones in shape [1]."""
    return jnp.array([action], jnp.float32) if continuous else jnp.int32(action)


def play(env, key, actions):
    """First observation and (observation, reward, terminated, truncated) of each step, as numbers."""
    state, first = env.reset(key)
    steps = []
    for action in actions:
        state, following = env.step(state, encode(action, env.continuous), key)
        assert following.reward.dtype == jnp.float32 and following.reward.shape == ()
        assert following.terminated.dtype == following.truncated.dtype == jnp.bool_
        ends = bool(following.terminated), bool(following.truncated)
        steps.append((following.observation.item(), following.reward.item(), *ends))
    return first.item(), steps


def key_of(env, sign):
    """A key whose first observation is `sign`."""
    return next(key for key in jax.random.split(jax.random.key(0), 20) if env.reset(key)[1] == sign)


@both
def test_constant_reward(continuous):
    env = make("ConstantReward", continuous=continuous)
    assert play(env, jax.random.key(0), [0]) == (0.0, [(0.0, 1.0, True, False)])


@both
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_observation_reward(continuous, sign):
    env = make("ObservationReward", continuous=continuous)
    assert play(env, key_of(env, sign), [0]) == (sign, [(sign, sign, True, False)])


@both
def test_two_step_credit(continuous):
    env = make("TwoStepCredit", continuous=continuous)
    assert play(env, jax.random.key(0), [0, 0]) == (0.0, [(1.0, 0.0, False, False), (1.0, 1.0, True, False)])


@pytest.mark.parametrize(("action", "reward"), [(0, -1.0), (1, 1.0)])
def test_action_reward(action, reward):
    assert play(make("ActionReward"), jax.random.key(0), [action]) == (0.0, [(0.0, reward, True, False)])


@pytest.mark.parametrize(("action", "reward"), [(0.5, 0.0), (1.0, -0.25), (-1.0, -2.25), (0.0, -0.25), (2.5, -4.0)])
def test_action_reward_continuous(action, reward):
    assert play(make("ActionReward", continuous=True), jax.random.key(0), [action]) == (
        0.0,
        [(0.0, reward, True, False)],
    )


@pytest.mark.parametrize(("sign", "action", "reward"), [(-1.0, 0, 1.0), (-1.0, 1, -1.0), (1.0, 0, -1.0), (1.0, 1, 1.0)])
def test_observation_action_reward(sign, action, reward):
    env = make("ObservationActionReward")
    assert play(env, key_of(env, sign), [action]) == (sign, [(sign, reward, True, False)])


@pytest.mark.parametrize(
    ("sign", "action", "reward"), [(-1.0, -0.5, 0.0), (-1.0, 0.5, -1.0), (1.0, 0.5, 0.0), (1.0, 0.0, -0.25)]
)
def test_observation_action_reward_continuous(sign, action, reward):
    env = make("ObservationActionReward", continuous=True)
    assert play(env, key_of(env, sign), [action]) == (sign, [(sign, reward, True, False)])


@both
def test_time_limit(continuous):
    env = make("TimeLimit", continuous=continuous)
    first, steps = play(env, jax.random.key(0), [0] * 10)
    assert first == 0.0 and steps == [(0.0, 1.0, False, False)] * 9 + [(0.0, 1.0, False, True)]


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize(("correct", "reward"), [(True, 1.0), (False, -1.0)])
def test_memory(sign, correct, reward):
    """Only the last action counts, and nothing but the first observation tells which is right."""
    env = make("Memory", delay=2)
    right = int(sign > 0)
    last = right if correct else 1 - right
    first, steps = play(env, key_of(env, sign), [1 - last, 1 - last, last])
    assert first == sign
    assert steps == [(0.0, 0.0, False, False), (0.0, 0.0, False, False), (0.0, reward, True, False)]


@pytest.mark.parametrize(
    ("sign", "action", "reward"), [(1.0, 0.5, 0.0), (1.0, 0.0, -0.25), (-1.0, 0.5, -1.0), (-1.0, -0.5, 0.0)]
)
def test_memory_continuous(sign, action, reward):
    env = make("Memory", continuous=True)
    first, steps = play(env, key_of(env, sign), [0.9, 0.9, 0.9, action])
    assert first == sign and steps == [(0.0, 0.0, False, False)] * 3 + [(0.0, reward, True, False)]


@pytest.mark.parametrize("name", ["ObservationReward", "ObservationActionReward", "Memory"])
def test_signs_are_even(name):
    _, observation = jax.vmap(make(name).reset)(jax.random.split(jax.random.key(0), 1000))
    assert set(np.unique(observation)) == {-1.0, 1.0} and abs(observation.mean()) < 5 / 1000**0.5


@pytest.mark.parametrize("name", [name.removeprefix("Probe-") for name in probes.ENVIRONMENTS])
def test_rolls_out(name):
    """Under rollout.unroll every probe has the shapes its spec says, and an episode of its full length each time."""
    assert isinstance(make(name).spec.action, Discrete)
    env = make(name, continuous=True)
    spec = env.spec
    assert isinstance(spec.action, Continuous) and spec.action.shape == (1,)
    agent = Agent(init=None, act=None, update=None)
    state = rollout.start(env, agent, 4, jax.random.key(0))
    act = lambda observation, memory, key: (jnp.zeros((4, 1)), memory, {})
    _, rolled, _ = rollout.unroll(env, act, (), state, jax.random.key(1), 20)
    steps = rolled.steps
    assert steps.observation.shape == steps.next_observation.shape == (20, 4, *spec.observation_shape)
    time = np.arange(1, 21)
    np.testing.assert_array_equal(steps.done, np.repeat((time % spec.episode_length == 0)[:, None], 4, 1))

    if name == "TimeLimit":  # the one value of a TD(0) fixed point, V = 1 + gamma * P(bootstrap) * V, at gamma 0.9
        right = 1 / (1 - 0.9 * (1 - steps.terminated.mean()))
        wrong = 1 / (1 - 0.9 * (1 - steps.done.mean()))
        np.testing.assert_allclose([right, wrong], [10.0, 1 / (1 - 0.9 * 0.9)], rtol=1e-5)
