"""Lifelong inverse RL: its codes, basis and Hessians by other ways, and what tasks gain by each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from rljax.agents.inverse import finite, lifelong
from rljax.envs import tabular
from rljax.errors import UserError
from rljax.tabular import solvers

HORIZON, NUM_FEATURES, TRUE_BASIS, SCALE = 12, 12, 2, 0.25
ENV = tabular.gridworld(5, 5, discount=1.0, start=None, episode_length=HORIZON)


def world(key, num_tasks):
    """Features of cells, standard normal, that all tasks share, and weights [N, K] of rank `TRUE_BASIS`."""
    feature_key, basis_key, code_key = jax.random.split(key, 3)
    features = jax.random.normal(feature_key, (25, 1, NUM_FEATURES)) * jnp.ones((1, 4, 1))
    basis = SCALE * jax.random.normal(basis_key, (NUM_FEATURES, TRUE_BASIS))
    return features, jax.random.normal(code_key, (num_tasks, TRUE_BASIS)) @ basis.T


def policy_of(features, weights):
    reward = jnp.where(ENV.terminal[:, None], 0.0, features @ weights)
    value_of = lambda q: jnp.where(ENV.terminal, 0.0, solvers.soft_value(q))
    return solvers.soft_policy(solvers.optimal_q_until(ENV.transition, reward, HORIZON, 1.0, value_of))


def demonstrations(key, policy, num_episodes):
    """Counts of sampled episodes, by time."""

    def episode(key):
        def step(state, key_and_policy):
            key, policy = key_and_policy
            act_key, move_key = jax.random.split(key)
            action = jax.random.categorical(act_key, jnp.log(policy[state]))
            later = jax.random.categorical(move_key, jnp.log(ENV.transition[state, action]))
            acted = ~ENV.terminal[state]
            visits = jnp.zeros((25, 4)).at[state, action].set(acted)
            return later, (visits, jnp.zeros(25).at[later].set(acted))

        start_key, key = jax.random.split(key)
        state = jax.random.categorical(start_key, jnp.log(ENV.start))
        return jax.lax.scan(step, state, (jax.random.split(key, HORIZON), policy))[1]

    visits, arrivals = jax.vmap(episode)(jax.random.split(key, num_episodes))
    one = jnp.float32(1.0)
    return finite.Demonstrations(visits.sum(0), arrivals.sum(0), ENV.transition, one, ENV.start, ENV.terminal)


def worth(features, weights, policy):
    """What a policy earns in an episode by the true reward, in which nothing is gathered for entropy."""
    visits = solvers.occupancy_until(ENV.transition, policy, ENV.start)[..., None] * policy
    return (jnp.where(ENV.terminal[:, None], 0.0, visits) * (features @ weights)).sum()


@functools.partial(jax.jit, static_argnums=(1, 2))
def lifelong_run(key, num_tasks, num_episodes, config):
    """Features, true weights, and the states of the agent after each of the tasks."""
    world_key, key = jax.random.split(key)
    features, weights = world(world_key, num_tasks)
    agent = lifelong.make(ENV.spec, config, features)
    keys = jax.random.split(key, num_tasks)
    shown = jax.vmap(lambda key, w: demonstrations(key, policy_of(features, w), num_episodes))(keys, weights)
    tasks = lifelong.Task(jnp.arange(num_tasks), shown)
    step = lambda state, task: (agent.update(state, task, key)[0],) * 2
    return features, weights, jax.lax.scan(step, agent.init(key), tasks)[1]


def best_policy(features, weights):
    reward = jnp.where(ENV.terminal[:, None], 0.0, features @ weights)
    return solvers.greedy_policy(solvers.optimal_q_until(ENV.transition, reward, HORIZON))


def errors(features, weights, found):
    """Means over tasks: |weights found - true| / |true|; and what who is best by those found loses by the true ones, in parts of
    what the best earns above the uniform policy."""
    uniform = jnp.full((HORIZON, 25, 4), 0.25)
    earned = jax.vmap(lambda w, v: worth(features, w, best_policy(features, v)))
    base = jax.vmap(lambda w: worth(features, w, uniform))(weights)
    best = earned(weights, weights)
    wrong = jnp.linalg.norm(weights - found, axis=1) / jnp.linalg.norm(weights, axis=1)
    return jnp.array([wrong.mean(), (best - earned(weights, found)).sum() / (best - base).sum()])


def measure(num_episodes, num_seeds=8, num_tasks=20, num_basis=TRUE_BASIS, **settings):
    """`errors` [seeds, ways, 2] of tasks fitted alone, as they are met, by codes after all tasks, and after all rounds."""
    config = lifelong.Config(num_tasks=num_tasks, num_basis=num_basis, **settings)

    def run(key):
        features, weights, states = lifelong_run(key, num_tasks, num_episodes, config)
        last = jax.tree.map(lambda x: x[-1], states)
        at = jax.vmap(lambda code, basis: basis @ code)(jnp.diagonal(states.code, axis1=0, axis2=1).T, states.basis)
        ways = (last.fit, at, lifelong.weights_of(lifelong.recoded(config, last)))
        ways += (lifelong.weights_of(lifelong.recoded(config, last, 30)),)
        return jnp.stack([errors(features, weights, way) for way in ways])

    return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), num_seeds)))


CONFIG = lifelong.Config(num_tasks=6, num_basis=3, sparsity=0.3, basis_decay=0.05)


def some_state():
    """Of six tasks, five of which were met."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 4, 4))
    hessian, met = root @ root.transpose(0, 2, 1), np.arange(6) < 5
    arrays = (rng.normal(size=(4, 3)), rng.normal(size=(6, 3)) * met[:, None], rng.normal(size=(6, 4)))
    return lifelong.State(*map(jnp.asarray, (*arrays, hessian * met[:, None, None], met)), policy=None)


def test_codes_are_the_lassos():
    """By scipy, of parts above and below 0."""
    state = some_state()
    basis, fit, hessian = np.asarray(state.basis), np.asarray(state.fit[0]), np.asarray(state.hessian[0])

    def loss(parts):
        left = fit - basis @ (parts[:3] - parts[3:])
        return left @ hessian @ left + 0.3 * parts.sum()

    best = scipy.optimize.minimize(loss, np.ones(6), bounds=[(0.0, None)] * 6, options={"ftol": 1e-15, "gtol": 1e-9})
    found = lifelong.encoded(CONFIG, state.basis, state.fit[0], state.hessian[0])
    np.testing.assert_allclose(found, best.x[:3] - best.x[3:], atol=1e-3)
    sparse = lifelong.encoded(CONFIG.replace(sparsity=1e4), state.basis, state.fit[0], state.hessian[0])
    np.testing.assert_array_equal(sparse, 0.0)


def test_the_basis_is_the_papers_linear_system():
    """Kronecker products written out, over the tasks that were met; and codes and bases in turn never raise the loss."""
    state = some_state()
    _, code, fit, hessian, met, _ = (None if x is None else np.asarray(x) for x in state)
    matrix = sum(np.kron(np.outer(s, s), h) for s, h in zip(code[met], hessian[met], strict=True)) / 5
    target = sum(np.kron(s, h @ a) for s, h, a in zip(code[met], hessian[met], fit[met], strict=True)) / 5
    expected = np.linalg.solve(matrix + 0.05 * np.eye(12), target).reshape(3, 4).T
    np.testing.assert_allclose(lifelong.shared_basis(CONFIG, state), expected, atol=1e-3)

    def loss(state):
        left = state.fit - lifelong.weights_of(state)
        each = jnp.einsum("nk,nkl,nl->n", left, state.hessian, left) + 0.3 * jnp.abs(state.code).sum(1)
        return float(each.sum() / 5 + 0.05 * jnp.square(state.basis).sum())

    losses = [loss(lifelong.recoded(CONFIG, state, num)) for num in range(5)]
    assert (np.diff(losses) < 1e-4).all() and losses[4] < losses[0]
    assert not lifelong.recoded(CONFIG, state, 1).code[5].any()


def test_hessians_are_half_the_covariances_of_what_paths_collect():
    """Where nothing is random, at weights 0: of random episodes from where the one shown began."""
    features, _ = world(jax.random.key(0), 1)
    config = lifelong.Config(num_steps=0, weight_decay=0.0)
    agent = lifelong.make(ENV.spec, config, features)
    policy = policy_of(features, jnp.zeros(NUM_FEATURES))  # who likes to go on is not uniform near the end
    shown = demonstrations(jax.random.key(1), policy, 1)
    state, _ = jax.jit(agent.update)(agent.init(None), lifelong.Task(jnp.int32(3), shown), None)
    rng, successor = np.random.default_rng(0), np.asarray(ENV.transition).argmax(-1)
    cell = np.full(20_000, int(shown.visits[0].sum(-1).argmax()))
    collected = np.zeros((20_000, NUM_FEATURES))
    for chances in np.asarray(policy):
        collected += np.asarray(features)[cell, 0] * ~np.asarray(ENV.terminal)[cell][:, None]
        action = (rng.random((cell.size, 1)) > chances.cumsum(1)[cell]).sum(1)
        cell = successor[cell, np.minimum(action, 3)]
    expected = 0.5 * np.cov(collected.T) / float(shown.visits.sum())
    assert np.abs(state.hessian[3] - expected).max() < 0.04 * np.abs(expected).max()
    np.testing.assert_array_equal(state.met, np.arange(10) == 3)


def test_tasks_gain_by_each_other():
    """With two episodes for each of twenty tasks: nearer the true weights than tasks fitted alone, for each of the seeds, and
    nearer still after later tasks than when they were met."""
    found = measure(2, 6, 20, weight_decay=0.1, num_steps=15)[..., 0]
    alone, met, _, rounds = found.T
    assert (rounds < alone).all() and rounds.mean() < 0.8 * alone.mean()
    assert rounds.mean() < met.mean() < alone.mean()


def test_more_parts_than_features_are_refused():
    with pytest.raises(UserError, match="num_basis=40 must be at most the number of features, 25"):
        lifelong.make(ENV.spec, lifelong.Config(num_basis=40))
