"""The treasure tasks: episodes by hand, where they begin, and what is seen of what is hidden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.check import check_env
from rljax.envs import make
from rljax.envs.treasure import TreasureState
from rljax.errors import UserError


def walk(env, start, actions):
    """Rewards and observations of an episode from `start`; the state is as a reset there would give it."""
    box = np.asarray(env.key)
    fetched = bool((box[0] <= start).all() and (start <= box[1]).all())
    state = TreasureState(jnp.array(start, jnp.float32), jnp.bool_(fetched), jnp.int32(0))
    steps = []
    for action in actions:
        state, step = env.step(state, jnp.array(action, jnp.float32), jax.random.key(0))
        steps.append(step)
    return jax.tree.map(lambda *x: np.stack(x), *steps)


def test_a_timer_by_hand():
    """Poisoned for three steps, then worth something; a step pays for where one stood before it. Leaving, one is paid no more."""
    env = make("rljax/TimerTreasure?wait=3&episode_length=6")
    check_env(env)
    still, up = (0.0, 0.0), (0.0, 1.0)
    steps = walk(env, np.array([0.5, 0.75]), [still, still, still, still, (0.0, 9.0), up])
    assert steps.reward.tolist() == [-1, -1, -1, 1, 1, 1]
    np.testing.assert_allclose(steps.observation[3:], [[0.5, 0.75], [0.5, 0.85], [0.5, 0.95]], atol=1e-6)
    assert steps.truncated.tolist() == [False] * 5 + [True] and not steps.terminated.any()
    late = walk(env, np.array([0.5, 0.65]), [up, up, up, up, up])  # enters after one step, leaves after three
    assert late.reward.tolist() == [0, -1, -1, 0, 0]


def test_a_key_by_hand():
    """Nothing is paid before the key was fetched, however long one stands at the treasure; the key is kept."""
    env = make("rljax/KeyTreasure")
    check_env(env)
    assert env.spec.episode_length == 100
    down, up = (0.0, -1.0), (0.0, 1.0)
    steps = walk(env, np.array([0.55, 0.75]), [(0.0, 0.0)] + [down] * 5 + [up] * 6 + [(1.0, 0.0)] * 3)
    x, y = [0.55] * 13, [0.75, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85]
    np.testing.assert_allclose(steps.observation[:12], np.stack([x, y], 1)[1:], atol=1e-6)
    assert steps.reward.tolist() == [0] * 11 + [1, 1, 0, 0]


def test_walls_and_starts():
    env = make("rljax/KeyTreasure?speed=0.5")
    steps = walk(env, np.array([0.15, 0.5]), [(-1.0, 0.2), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0)])
    np.testing.assert_allclose(steps.observation, [[0, 0.6], [0.5, 1], [1, 1], [1, 1]], atol=1e-6)
    _, first = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 2000))
    x, y = np.asarray(first).T
    left = x < 0.5
    assert 0.45 < left.mean() < 0.55
    assert (x[left] >= 0.1).all() and (x[left] <= 0.2).all() and (x[~left] >= 0.8).all() and (x[~left] <= 0.9).all()
    assert y.min() >= 0.4 and y.max() <= 0.6 and abs(y.mean() - 0.5) < 0.01


@pytest.mark.parametrize("name", ["TimerTreasure?wait=2&reveal=true", "KeyTreasure?reveal=true"])
def test_what_is_hidden_can_be_shown(name):
    """With it the reward is a function of what is seen."""
    env = make(f"rljax/{name}")
    check_env(env)
    start = np.array([0.5, 0.75] if "Timer" in name else [0.5, 0.35])
    actions = [(0.0, 0.0)] * 4 if "Timer" in name else [(0.0, -1.0)] + [(0.0, 1.0)] * 5
    steps = walk(env, start, actions)
    seen = steps.observation
    at_treasure = (seen[:-1, 1] >= 0.7) & (seen[:-1, 1] <= 0.9)
    worth = seen[:-1, 2] if "Key" in name else 2 * seen[:-1, 2] - 1
    np.testing.assert_array_equal(steps.reward[1:], at_treasure * worth)
    assert seen[:, 2].tolist() == ([0, 1, 1, 1] if "Timer" in name else [1] * 6)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="wait=0, speed=0.1 and episode_length=100 must be above 0"):
        make("rljax/TimerTreasure?wait=0")
