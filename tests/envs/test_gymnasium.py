"""Our environments in Gymnasium's API, and policies in Gymnasium's environments."""

import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rljax.envs import make
from rljax.envs.gymnasium import ToGymnasium, evaluate_in_gymnasium
from rljax.types import Discrete, EnvSpec


@pytest.mark.parametrize("name", ["gymnax/CartPole-v1", "gymnax/Pendulum-v1", "gymnax/Catch-bsuite"])
def test_gymnasium_accepts_our_environments(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unbounded observations and no render modes
        check_env(ToGymnasium(make(name)), skip_render_check=True)


def test_an_episode_ends_and_begins_in_gymnasiums_way():
    env = ToGymnasium(make("gymnax/CartPole-v1?max_steps_in_episode=3"), seed=1)
    first, _ = env.reset()
    ends = [env.step(0)[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    second, _ = env.reset()
    assert np.abs(second).max() <= 0.05 and (first != second).any()
    assert (ToGymnasium(make("gymnax/CartPole-v1"), seed=1).reset()[0] == first).all()
    assert (ToGymnasium(make("gymnax/CartPole-v1"), seed=2).reset()[0] != first).any()


def balance(observation, memory, key):
    return (observation @ jnp.array([0.1, 0.2, 2.0, 0.6]) > 0).astype(jnp.int32), memory


def test_a_policy_is_evaluated():
    episodes = evaluate_in_gymnasium(balance, "CartPole-v1", 2, seed=0)
    np.testing.assert_array_equal(episodes.returns, [500.0, 500.0])
    np.testing.assert_array_equal(episodes.lengths, [500, 500])
    always_left = lambda observation, memory, key: (np.zeros(1, np.int32), memory)
    returns = evaluate_in_gymnasium(always_left, "CartPole-v1", 5, seed=0).returns
    assert returns.shape == (5,) and (returns >= 8).all() and (returns <= 11).all() and len(set(returns)) > 1


def test_actions_are_rescaled_and_memory_begins_anew():
    def swing(observation, memory, key):
        return np.full((1, 1), 0.5 if memory % 2 else 7.0, np.float32), memory + 1  # 7 is clipped

    returns = evaluate_in_gymnasium(swing, "Pendulum-v1", 2, seed=3, memory=0).returns
    env = gymnasium.make("Pendulum-v1")
    for episode in range(2):
        env.reset(seed=3 if episode == 0 else None)
        rewards = [env.step(np.array([1.0 if t % 2 else 2.0], np.float32))[1] for t in range(200)]
        np.testing.assert_allclose(returns[episode], sum(rewards), rtol=1e-6)


def test_wrong_shapes_are_named():
    spec = make("gymnax/Pendulum-v1").spec
    with pytest.raises(ValueError, match=r"CartPole-v1 has observations of shape \(4,\), the policy's \(3,\)"):
        evaluate_in_gymnasium(balance, "CartPole-v1", 1, seed=0, spec=spec)
    with pytest.raises(ValueError, match=r"Acrobot-v1 has actions of shape one of 3, the policy's one of 2"):
        evaluate_in_gymnasium(balance, "Acrobot-v1", 1, seed=0, spec=EnvSpec((6,), Discrete(2)))
    two_actions = lambda observation, memory, key: (jnp.zeros((1, 2)), memory)
    with pytest.raises(ValueError, match=r"Pendulum-v1 has actions of shape \(1, 1\), the policy gave \(1, 2\)"):
        evaluate_in_gymnasium(two_actions, "Pendulum-v1", 1, seed=0)


def test_a_policy_for_brax_fits_the_same_robot_in_mujoco():
    pytest.importorskip("imageio", reason="Gymnasium's MuJoCo environments import it: gymnasium[mujoco]")
    act = jax.jit(lambda observation, memory, key: (jnp.zeros((1, 3)) + 0.0 * observation.sum(), memory))
    returns = evaluate_in_gymnasium(act, "Hopper-v5", 1, seed=0, spec=make("brax/hopper").spec).returns
    assert 10.0 < returns[0] < 1000.0
