"""Returns taken apart: by hand, and exact values, advantages and luck of a stochastic MDP from anybody's actions."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.losses import advantage as lib
from rljax.tabular import solvers

GAMMA, STATES, ACTIONS, LENGTH = 0.9, 4, 2, 3  # the last state is terminal


def test_by_hand():
    call = lambda discount, mask: lib.decomposition_error(
        jnp.array([1.0, 2.0, 4.0]), jnp.array(discount), jnp.array(mask), jnp.array([0.5, 0.0, 1.0]),
        jnp.array([0.2, -1.0, 3.0]), 0.5, jnp.float32(7.0), jnp.float32(10.0),
    )  # fmt: skip
    three = [1.0 - 0.5 - 0.1, 0.5 * (2.0 + 0.5), 0.25 * (4.0 - 1.0 - 1.5)]
    np.testing.assert_allclose(call([0.5, 0.5, 0.5], [True] * 3), sum(three) + 0.125 * 10.0 - 7.0)
    np.testing.assert_allclose(call([0.5, 0.5, 0.5], [True, True, False]), sum(three[:2]) + 0.25 * 10.0 - 7.0)
    np.testing.assert_allclose(call([0.5, 0.0, 0.5], [True, True, False]), sum(three[:2]) - 7.0)  # terminated
    np.testing.assert_allclose(lib.centred(jnp.array([1.0, 3.0]), jnp.array([0.25, 0.75])), [-1.5, 0.5])


def least_squares(luck):
    """V [S], A [S, A] and B [S, A, S] where the mean squared error of segments of another policy's steps is least, and the exact
    ones."""
    rng = np.random.default_rng(0)
    transition = rng.dirichlet(np.ones(STATES), (STATES, ACTIONS))
    transition[-1] = np.eye(STATES)[-1]
    reward = rng.normal(size=(STATES, ACTIONS)) * (np.arange(STATES) < STATES - 1)[:, None]
    policy, behaviour = rng.dirichlet(np.ones(ACTIONS), (2, STATES))

    # all segments: up to the end, or three steps; by how likely they are, begun anywhere
    segments = []

    def go_on(steps, chance):
        state = steps[-1][2]
        if len(steps) == LENGTH or state == STATES - 1:
            over = [(state, 0, state, False)] * (LENGTH - len(steps))
            return segments.append((np.array(steps + over).T, chance))
        for action, after in np.ndindex(ACTIONS, STATES):
            go_on(
                [*steps, (state, action, after, True)],
                chance * behaviour[state, action] * transition[state, action, after],
            )

    for state, action, after in np.ndindex(STATES - 1, ACTIONS, STATES):
        go_on([(state, action, after, True)], behaviour[state, action] * transition[state, action, after])
    found, chance = zip(*segments)
    state, action, after, mask = np.stack(found, 1)
    last = after[:, -1]  # once in the terminal state, always there

    def residuals(params):
        v = params[:STATES].at[-1].set(0.0)
        a = params[STATES : STATES * (1 + ACTIONS)].reshape(STATES, ACTIONS)
        b = params[STATES * (1 + ACTIONS) :].reshape(STATES, ACTIONS, STATES) * luck
        a, b = (jax.vmap(lib.centred)(a, policy), jax.vmap(jax.vmap(lib.centred))(b, transition))
        terms = (
            reward[state, action],
            GAMMA * (after < STATES - 1),
            mask.astype(bool),
            a[state, action],
            b[state, action, after],
        )
        each = jax.vmap(lib.decomposition_error, (0, 0, 0, 0, 0, None, 0, 0))
        errors = each(*map(jnp.asarray, terms), GAMMA, v[state[:, 0]], v[last])
        return jnp.sqrt(jnp.asarray(chance)) * errors, (v, a, b)

    size = STATES * (1 + ACTIONS + ACTIONS * STATES)
    linear, _ = jax.jacobian(residuals, has_aux=True)(jnp.zeros(size))
    constant, _ = residuals(jnp.zeros(size))
    params = np.linalg.lstsq(np.asarray(linear), -np.asarray(constant), rcond=1e-12)[0]
    value = solvers.value(transition, jnp.asarray(reward), GAMMA, policy)
    expected = transition @ value
    exact = value, reward + GAMMA * expected - value[:, None], value - expected[..., None]
    return residuals(jnp.asarray(params))[1], exact


def test_exact_values_advantages_and_luck_from_anybodys_actions():
    with jax.enable_x64(True):
        found, exact = least_squares(luck=1.0)
        for one, other in zip(found, exact):
            np.testing.assert_allclose(one[:-1], other[:-1], atol=1e-9)
        without, _ = least_squares(luck=0.0)
        assert np.abs(without[0] - exact[0]).max() > 0.03  # chance is taken for what was done, which others did
