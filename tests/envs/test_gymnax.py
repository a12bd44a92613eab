"""The gymnax adapter: against Gymnasium step by step, its two ways to end, and its parameters."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import rollout
from rljax.envs import make
from rljax.types import Agent


def play(env, policy, num_steps, seed=0):
    """States, observations and actions [num_steps] and what followed each, without a reset."""

    def step(carry, key):
        state, observation = carry
        action_key, key = jax.random.split(key)
        action = policy(observation, action_key)
        after, following = env.step(state, action, key)
        return (after, following.observation), (state, observation, action, following)

    keys = jax.random.split(jax.random.key(seed), num_steps)
    return jax.jit(lambda start: jax.lax.scan(step, start, keys)[1])(env.reset(jax.random.key(seed)))


def balance(observation, key):
    return (observation @ jnp.array([0.1, 0.2, 2.0, 0.6]) > 0).astype(jnp.int32)


def random_binary(observation, key):
    return jax.random.randint(key, (), 0, 2)


def random_continuous(observation, key):
    return jax.random.uniform(key, (1,), minval=-1.5, maxval=1.5)  # also beyond the bounds


def test_cartpole_steps_as_gymnasium_does():
    _, observations, actions, following = play(make("gymnax/CartPole-v1"), random_binary, 100)
    end = int(np.argmax(following.terminated)) + 1
    assert 5 < end < 100
    theirs = gymnasium.make("CartPole-v1").unwrapped
    for t in range(end):
        theirs.reset()
        theirs.state = np.asarray(observations[t], np.float64)
        observation, reward, terminated, _, _ = theirs.step(int(actions[t]))
        np.testing.assert_allclose(following.observation[t], observation, atol=1e-5)
        assert (following.reward[t], following.terminated[t]) == (reward, terminated)
    assert not following.truncated.any()


def test_pendulum_steps_as_gymnasium_does():
    states, _, actions, following = play(make("gymnax/Pendulum-v1"), random_continuous, 60)
    theirs = gymnasium.make("Pendulum-v1").unwrapped
    theirs.reset()
    for t in range(60):
        theirs.state = np.array([states.theta[t], states.theta_dot[t]], np.float64)
        observation, reward, _, _, _ = theirs.step(2.0 * np.clip(np.asarray(actions[t]), -1.0, 1.0))
        np.testing.assert_allclose(following.observation[t], observation, atol=2e-5)
        np.testing.assert_allclose(following.reward[t], reward, atol=1e-4)


def test_cartpole_balanced_to_the_limit_is_truncated_and_not_terminated():
    _, _, _, following = play(make("gymnax/CartPole-v1"), balance, 500)
    assert following.truncated.tolist() == [False] * 499 + [True]
    assert not following.terminated.any()


def test_cartpole_that_falls_is_terminated_and_not_truncated_even_on_the_last_step():
    always_left = lambda observation, key: jnp.int32(0)
    _, _, _, following = play(make("gymnax/CartPole-v1"), always_left, 30)
    end = int(np.argmax(following.terminated)) + 1
    assert 5 < end < 15
    _, _, _, following = play(make(f"gymnax/CartPole-v1?max_steps_in_episode={end}"), always_left, end)
    assert following.terminated[-1] and not following.truncated.any()


@pytest.mark.parametrize(
    "name",
    ["MountainCar-v0", "Breakout-MinAtar", "Catch-bsuite", "DiscountingChain-bsuite", "FourRooms-misc"],
)
def test_a_time_limit_is_never_a_termination(name):
    env = make(f"gymnax/{name}?max_steps_in_episode=3")
    policy = lambda observation, key: jax.random.randint(key, (), 0, env.spec.action.num_actions)
    _, _, _, following = play(env, policy, 3)
    assert following.truncated.tolist() == [False, False, True]
    assert not following.terminated.any()


@pytest.mark.parametrize("name, length", [("DeepSea-bsuite", 8), ("Catch-bsuite", 9), ("SimpleBandit-bsuite", 1)])
def test_a_task_that_is_over_terminates(name, length):
    _, _, _, following = play(make(f"gymnax/{name}"), random_binary, length)
    assert following.terminated.tolist() == [False] * (length - 1) + [True]
    assert not following.truncated.any()


def test_a_discrete_observation_is_one_hot():
    env = make("gymnax/FrozenLake-misc")
    np.testing.assert_array_equal(env.reset(jax.random.key(0))[1], np.eye(16)[0])
    assert env.spec.observation_shape == (16,)


@pytest.mark.parametrize("name", ["Asterix-MinAtar", "MetaMaze-misc", "BernoulliBandit-misc", "Swimmer-misc"])
def test_a_step_keeps_every_type_and_fits_the_spec(name):
    env = make(f"gymnax/{name}")
    types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)
    state, observation = jax.eval_shape(env.reset, jax.random.key(0))
    action = jnp.zeros(env.spec.action.shape, jnp.float32 if hasattr(env.spec.action, "low") else jnp.int32)
    after, following = jax.eval_shape(env.step, state, action, jax.random.key(0))
    assert types(after) == types(state)
    for x in (observation, following.observation):
        assert (x.shape, x.dtype) == (env.spec.observation_shape, jnp.float32)
    assert (following.reward.shape, following.reward.dtype) == ((), jnp.float32)
    assert following.terminated.dtype == following.truncated.dtype == bool


@pytest.mark.parametrize("name", ["gravity", "length"])
def test_dynamics_are_vmapped_over_a_parameter(name):
    env = make("gymnax/CartPole-v1")

    def last_angle(value):
        changed = env.replace(params={**env.params, name: value})
        return play(changed, lambda observation, key: jnp.int32(0), 5)[3].observation[-1, 2]

    default = env.params[name]
    same, changed = jax.vmap(last_angle)(jnp.array([default, 3 * default]))
    np.testing.assert_allclose(same, last_angle(default), rtol=1e-6)
    assert abs(same - changed) > 1e-3


def test_the_last_observation_of_an_episode_survives_a_rollout():
    env = make("gymnax/CartPole-v1?max_steps_in_episode=4")
    agent = Agent(init=lambda key: (), act=None, update=None)
    act = lambda observation, memory, key: (jnp.zeros(len(observation), jnp.int32), memory, {})
    start = rollout.start(env, agent, 2, jax.random.key(0))
    _, collected, finished = rollout.unroll(env, act, (), start, jax.random.key(1), 12)
    steps = collected.steps
    ends = np.array([3, 7, 11])
    np.testing.assert_array_equal(np.flatnonzero(steps.done[:, 0]), ends)
    assert not steps.terminated.any()
    going_on = np.setdiff1d(np.arange(11), ends)
    np.testing.assert_array_equal(steps.next_observation[going_on], steps.observation[going_on + 1])
    # an angle of four pushes to one side, and not one of a fresh start, which lies within 0.05
    assert (np.abs(steps.next_observation[ends][..., 1]) > 0.6).all()
    starts = np.concatenate([steps.observation[:1], steps.observation[ends[:2] + 1]]).reshape(-1, 4)
    assert (np.abs(starts) <= 0.05).all()
    assert len(np.unique(starts, axis=0)) == 6
    np.testing.assert_allclose(finished["episode/length"].total / finished["episode/length"].count, 4.0)
