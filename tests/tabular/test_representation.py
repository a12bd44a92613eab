"""Dynamics of features against closed forms, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.tabular import representation as lib

GAMMA, STATES, FEATURES = 0.9, 6, 2
follow = jax.jit(lib.follow, static_argnames=("times", "substeps"))


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def drawn(make, seed, tasks=1):
    chain_key, reward_key, feature_key = jax.random.split(jax.random.key(seed), 3)
    chain = make(chain_key, STATES)
    rewards = jax.random.normal(reward_key, (STATES, tasks))
    return chain, rewards, GAMMA, lib.stationary(chain), lib.orthonormal_features(feature_key, STATES, FEATURES)


def test_chains_are_what_they_are_called():
    key = jax.random.key(0)
    for make, balanced in ((lib.reversible_chain, True), (lib.irreversible_chain, False), (lib.symmetric_chain, True)):
        chain = make(key, STATES)
        weight = lib.stationary(chain)
        np.testing.assert_allclose(chain.sum(-1), 1.0)
        np.testing.assert_allclose(weight @ chain, weight)
        flux = np.asarray(weight[:, None] * chain)
        assert np.allclose(flux, flux.T) == balanced and (flux >= 0).all()
    assert np.allclose(weight, 1 / STATES)  # the symmetric one's


@pytest.mark.parametrize("make", [lib.reversible_chain, lib.irreversible_chain])
def test_weights_and_flow_by_numpy(make):
    chain, rewards, _, weight, features = map(np.asarray, drawn(make, 1, tasks=3))
    given = chain, rewards, GAMMA, weight, features
    w = lib.td_weights(*map(jnp.asarray, given))
    expected = np.zeros_like(features)
    for task in range(3):
        v = features @ w[:, task]
        errors = np.array([rewards[s, task] + GAMMA * chain[s] @ v - v[s] for s in range(STATES)])
        np.testing.assert_allclose(features.T @ (weight * errors), 0.0, atol=1e-12)  # TD rests
        expected += np.outer(weight * errors, w[:, task]) / 3
    moved = lib.flow(*map(jnp.asarray, given))
    np.testing.assert_allclose(moved, expected, rtol=1e-9)
    np.testing.assert_allclose(features.T @ moved, 0.0, atol=1e-12)  # so that Phi^T Phi stays


def change(given):
    """dE/dt along the flow, and what it is for reversible chains."""
    *problem, features = given
    moved = lib.flow(*problem, features)
    return jax.jvp(lambda x: lib.error(*problem, x), (features,), (moved,))[1], -jnp.square(moved).sum()


def test_the_error_of_reversible_chains_falls_by_the_squared_flow():
    change_of = jax.jit(change)
    for seed in range(5):
        found, expected = change_of(drawn(lib.reversible_chain, seed, tasks=1))
        np.testing.assert_allclose(found, expected, rtol=1e-8)
        assert expected < 0.0


def test_the_error_of_others_rises_at_times():
    """The formula of reversible chains is wrong for all, and where states go round it does rise for some."""
    change_of = jax.jit(change)
    round_and_round = lambda key, size: lib.cycle(size, 0.1)
    found, formula = map(np.array, zip(*(change_of(drawn(round_and_round, seed)) for seed in range(60))))
    assert (np.abs(found / formula - 1.0) > 1e-3).all()
    assert (found > 0.0).any() and (found < 0.0).any()


def test_paths_keep_their_orthonormality_and_fall_all_the_way():
    given = drawn(lib.reversible_chain, 3, tasks=2)
    *problem, features = given
    path = follow(*problem, features, times=40, step=0.2, substeps=40)
    np.testing.assert_array_equal(path[0], features)
    gram = jnp.einsum("tsk,tsl->tkl", path, path)
    np.testing.assert_allclose(gram, jnp.broadcast_to(jnp.eye(FEATURES), gram.shape), atol=1e-7)
    errors = np.asarray(jax.vmap(lambda x: lib.error(*problem, x))(path))
    assert (np.diff(errors) < 0.0).all() and errors[-1] < 0.7 * errors[0]


def test_one_feature_of_two_states_in_closed_form():
    """In the basis of eigenvectors a feature is an angle, whose tangent's square is a known function of time."""
    stay = 0.8
    chain = jnp.array([[stay, 1 - stay], [1 - stay, stay]])
    low, high = 1 - GAMMA, 1 - GAMMA * (2 * stay - 1)  # eigenvalues of I - gamma P, of (1, 1) and (1, -1)
    begin, step, times = 1.3, 0.05, 40
    basis = np.array([[1, 1], [1, -1]]) / np.sqrt(2)  # columns
    features = jnp.asarray(basis @ [np.cos(begin), np.sin(begin)])[:, None]
    path = follow(chain, jnp.eye(2), GAMMA, jnp.ones(2), features, times=times, step=step, substeps=20)[..., 0] @ basis
    v = np.asarray(path[:, 1] / path[:, 0]) ** 2
    primitive = 0.5 * (low**2 * np.log(v) + (high**2 - low**2) * np.log1p(v) + (high - low) ** 2 / (1 + v))
    elapsed = 2 * (primitive[0] - primitive) / (high - low)  # twice as long: a mean over two tasks
    np.testing.assert_allclose(elapsed, step * np.arange(times), atol=1e-6)
    assert v[0] > 10 > 0.1 > v[-1]


def test_many_random_rewards_turn_features_to_the_uppermost_eigenvectors():
    chain = lib.symmetric_chain(jax.random.key(5), STATES)
    top = lib.uppermost_eigenvectors(chain, FEATURES)
    values = np.linalg.eigvalsh(chain)[::-1]
    np.testing.assert_allclose(chain @ top, top * values[:FEATURES], atol=1e-12)
    features = lib.orthonormal_features(jax.random.key(6), STATES, FEATURES)
    uniform = jnp.ones(STATES)
    path = follow(chain, jnp.eye(STATES), GAMMA, uniform, features, times=400, step=1.0)
    assert lib.largest_angle(features, top) > 30.0 and lib.largest_angle(path[-1], top) < 1e-3
    one = follow(chain, jnp.ones((STATES, 1)) + jnp.eye(STATES)[:, :1], GAMMA, uniform, features, times=100, step=1.0)
    assert lib.largest_angle(one[-1], top) > 10.0
    # the flow by the identity is the mean over random rewards
    rewards = jax.random.normal(jax.random.key(7), (STATES, 400_000))
    mean = lib.flow(chain, rewards, GAMMA, uniform, features)
    expected = STATES * lib.flow(chain, jnp.eye(STATES), GAMMA, uniform, features)
    np.testing.assert_allclose(mean, expected, atol=0.02 * float(jnp.abs(expected).max()))


def test_angles_by_hand():
    lean = np.radians(25.0)
    plane = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    other = jnp.array([[2.0, 0.0], [0.0, np.cos(lean)], [0.0, np.sin(lean)]])
    np.testing.assert_allclose(lib.largest_angle(plane, other), 25.0)
    np.testing.assert_allclose(lib.largest_angle(plane[:, :1], plane[:, 1:]), 90.0)
