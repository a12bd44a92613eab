"""Effective horizons against all greedy policies written out, and SQIRL where it must find the optimum and where it cannot."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.errors import UserError
from rljax.tabular import effective_horizon as lib
from rljax.tabular import solvers


def lock():
    """Safe: 0.5 whatever is done. A lock: 1 for one of three actions. The way is missed one time in ten. Acting at random, safety
    pays 0.5 and the lock 1/3, so that who looks one step ahead of it goes wrong, and who looks two ahead does not."""
    transition, reward = np.zeros((4, 3, 4)), np.zeros((4, 3))
    transition[0, 0, 1:3] = 0.9, 0.1
    transition[0, 1:, 1:3] = 0.1, 0.9
    transition[1:, :, 3] = 1.0
    reward[1], reward[2, 0] = 0.5, 1.0
    return jnp.float32(transition), jnp.float32(reward), jnp.eye(4)[0]


def random_mdp(seed):
    """Three states, two actions; rewards of 0, 1/2 and 1, so that actions are often worth the same."""
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet([0.4] * 3, (3, 2)) * (rng.uniform(size=(3, 2, 3)) < 0.6)
    transition[..., 0] += 1.0 - transition.sum(-1)
    start = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])[seed % 2]
    return jnp.float32(transition), jnp.float32(rng.integers(0, 3, (3, 2)) / 6), jnp.float32(start)


T = 3


def backward(transition, reward, policy):
    """Q of a policy [T, S, A] by loops in float64, [T, S, A]."""
    q, value = np.zeros(policy.shape), np.zeros(len(reward))
    for t in reversed(range(len(policy))):
        for s, a in np.ndindex(*reward.shape):
            q[t, s, a] = reward[s, a] + sum(p * v for p, v in zip(transition[s, a], value))
        value = (policy[t] * q[t]).sum(1)
    return q


def expected(transition, reward, start, q):
    """Whether all that are greedy by q [T, S, A] are optimal: each of them followed along all paths, where it can be led."""
    optimum = np.full(T + 1, None)
    value = np.zeros(len(reward))
    for t in reversed(range(T)):
        optimum[t] = reward + transition @ value
        value = optimum[t].max(1)
    here, gap, good = {s for s in range(len(start)) if start[s] > 0}, np.inf, True
    for t in range(T):
        for s in here:
            best = [a for a in range(2) if q[t, s, a] > q[t, s].max() - 1e-5]
            good &= all(optimum[t][s, a] > optimum[t][s].max() - 1e-5 for a in best)
            gap = min([gap, *(q[t, s].max() - q[t, s, a] for a in range(2) if a not in best)])
        here = {n for s, a, n in itertools.product(here, range(2), range(3)) if transition[s, a, n] > 0}
    return good, gap


@pytest.fixture(scope="module")
def found():
    """By seed: the MDP, and what is said of it."""
    mdps = [random_mdp(seed) for seed in range(40)]
    say = jax.jit(jax.vmap(functools.partial(lib.effective_horizon, horizon=T)))
    said = say(*map(jnp.stack, zip(*mdps)))
    return [jax.tree.map(np.float64, mdp) for mdp in mdps], said


def test_against_loops(found):
    mdps, said = found
    solvable = np.asarray(said.solvable)
    assert 0 < solvable[:, 0].sum() < solvable[:, 1].sum() < solvable[:, 2].sum() == len(mdps)
    for i, (transition, reward, start) in enumerate(mdps):
        q = backward(transition, reward, np.full((T, 3, 2), 0.5))
        for k in range(1, T + 1):
            good, gap = expected(transition, reward, start, q)
            assert solvable[i, k - 1] == good
            np.testing.assert_allclose(said.gap[i, k - 1], gap, rtol=1e-4, atol=1e-6)
            level = k if np.isinf(gap) else k - 2 * np.log2(gap)
            np.testing.assert_allclose(said.horizon[i, k - 1], level if good else np.inf, rtol=1e-3)
            after = np.concatenate([q.max(-1)[1:], np.zeros((1, 3))])
            q = np.stack([reward + transition @ value for value in after])


def test_as_many_steps_as_the_horizon_are_the_optimum(found):
    transition, reward, _ = random_mdp(3)
    np.testing.assert_allclose(
        lib.shallow_q(transition, reward, T, T), solvers.optimal_q_until(transition, reward, T), rtol=1e-5
    )
    np.testing.assert_allclose(
        lib.shallow_q(transition, reward, T, 1),
        backward(np.float64(transition), np.float64(reward), np.full((T, 3, 2), 0.5)),
        rtol=1e-5,
    )


def test_the_lock_by_hand():
    said = lib.effective_horizon(*lock(), 4)
    np.testing.assert_array_equal(said.solvable, [False, True, True, True])
    np.testing.assert_allclose(said.gap[1], 0.95 - 0.55, rtol=1e-5)
    np.testing.assert_allclose(said.horizon[:2], [np.inf, 2 + np.log(1 / 0.16) / np.log(3)], rtol=1e-5)
    assert said.horizon.argmin() == 1


@functools.partial(jax.jit, static_argnums=(0, 1))
def earned(steps, episodes, keys):
    """What the policies that SQIRL learns in the lock are worth, by key."""
    transition, reward, start = lock()

    def of(key):
        policy = lib.sqirl(transition, reward, start, 4, steps, episodes, key)
        here = solvers.occupancy_until(transition, policy, start)
        return (here[..., None] * policy * reward).sum()

    return jax.vmap(of)(keys)


def test_sqirl_finds_the_optimum_as_far_ahead_as_the_effective_horizon_and_no_nearer():
    """By as many episodes a step as it says, A^H; no number helps who looks less far ahead: 0.9 of safety, and the lock for the
    rest."""
    episodes = int(np.ceil(3 ** float(lib.effective_horizon(*lock(), 4).horizon.min())))
    assert episodes == 57
    keys = jax.random.split(jax.random.key(0), 50)
    np.testing.assert_allclose(earned(2, episodes, keys), 0.95, rtol=1e-5)
    np.testing.assert_allclose(earned(1, 4_000, keys[:20]), 0.9 * 0.5 + 0.1 * 1.0, rtol=1e-5)
    assert 0.0 < (earned(2, 4, keys) < 0.94).mean() < 1.0  # and too few do not suffice


def test_steps_must_lie_within_the_horizon():
    for steps in (0, 4):
        with pytest.raises(UserError, match=f"steps={steps} must be from 1 to the horizon, 3"):
            lib.shallow_q(*random_mdp(0)[:2], T, steps)
