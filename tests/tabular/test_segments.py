"""Segments of an MDP of two states by hand; advantages found from judgements, and what they do as a reward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rljax.data import labellers
from rljax.experiments.studies import optimal_advantage as study
from rljax.losses import preference
from rljax.tabular import comparisons, solvers
from rljax.tabular import segments as lib

pytestmark = pytest.mark.usefixtures("float64")

GAMMA = 0.5
# action 0 stays, action 1 goes to the other state; staying in state 1 pays 1, leaving it costs 1
TRANSITION = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
REWARD = np.array([[0.0, 0.0], [1.0, -1.0]])
VALUE = np.array([1.0, 2.0])  # of state 1: 1 + 1/2 + ..., of state 0: half of it
ADVANTAGE = np.array([[-0.5, 0.0], [0.0, -2.5]])  # Q = [[0.5, 1], [2, -0.5]]
STATES, ACTIONS = np.array([[0, 0, 1, 1], [0, 1, 0, 0]]), np.array([[0, 1, 0], [1, 1, 0]])
SEGMENTS = lib.Segments(jnp.array(STATES), jnp.array(ACTIONS))


def test_advantages_by_hand():
    q = solvers.optimal_q(jnp.array(TRANSITION), jnp.array(REWARD), GAMMA, tolerance=1e-10)
    np.testing.assert_allclose(q.max(-1), VALUE, atol=1e-8)
    np.testing.assert_allclose(lib.advantage(q), ADVANTAGE, atol=1e-8)


def test_returns_and_regrets_by_hand():
    """stay, go, stay pays 0, 0, 1; go, back, stay pays 0, -1, 0. Their regrets are sums of discounted advantages."""
    np.testing.assert_allclose(lib.partial_return(SEGMENTS, jnp.array(REWARD), GAMMA), [0.25, -0.5])
    np.testing.assert_allclose(lib.partial_return(SEGMENTS, jnp.array(REWARD)), [1.0, -1.0])
    regret = lib.negated_regret(SEGMENTS, jnp.array(REWARD), jnp.array(VALUE), GAMMA)
    np.testing.assert_allclose(regret, [-0.5, 0.5 * -2.5 + 0.25 * -0.5])
    np.testing.assert_allclose(regret, lib.partial_return(SEGMENTS, jnp.array(ADVANTAGE), GAMMA))


def test_labels_differ_where_return_and_regret_do():
    """Staying in state 0 is paid nothing; staying in state 1 and then leaving it is paid more, and is the greater mistake."""
    stays, leaves = np.array([[0, 0, 0]]), np.array([[1, 1, 0]])  # leaves: paid 1, then -1
    pair = lib.Segments(jnp.array(np.stack([stays, leaves], 1)), jnp.array([[[0, 0], [0, 1]]]))
    judged = lambda utility: np.asarray(lib.judge(labellers.Teacher(), utility, jax.random.key(0)))[0].tolist()
    assert judged(lib.partial_return(pair, jnp.array(REWARD), GAMMA)) == [1, 0]  # 0 against 1 - 0.5
    assert judged(lib.negated_regret(pair, jnp.array(REWARD), jnp.array(VALUE), GAMMA)) == [0, 1]  # -0.75 against -1.25


def test_draws_follow_policy_start_and_transitions():
    policy, start = jnp.array([[0.25, 0.75], [1.0, 0.0]]), jnp.array([1.0, 0.0])
    drawn = lib.draw(jax.random.key(0), jnp.array(TRANSITION), policy, start, (2000, 2), 3)
    state, action = np.asarray(drawn.state), np.asarray(drawn.action)
    assert state.shape == (2000, 2, 4) and (state[..., 0] == 0).all()
    assert (np.where(action == 1, 1 - state[..., :-1], state[..., :-1]) == state[..., 1:]).all()
    assert abs(action[..., 0].mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 4000)
    assert (action[state[..., :-1] == 1] == 0).all()


def plenty(temperature):
    """Many judgements by regret of segments of two steps, in the two states."""
    half = jnp.full((2, 2), 0.5)
    drawn = lib.draw(jax.random.key(1), jnp.array(TRANSITION), half, half[0], (8000, 2), 2)
    utility = lib.negated_regret(drawn, jnp.array(REWARD), jnp.array(VALUE), GAMMA)
    ranks = lib.judge(labellers.Teacher(temperature=temperature), utility, jax.random.key(2))
    return lib.visits(drawn, 2, 2, GAMMA), ranks


def far_off(found, visits, ranks):
    """Of a reward whose partial returns should be regrets: its squared error in units of what chance gives, chi square of 3 degrees
    of freedom, the constant left out that nobody tells."""
    flat = visits.reshape(*visits.shape[:2], -1)
    _, information = comparisons.derivatives(preference.pairwise, jnp.array(ADVANTAGE).ravel(), flat, ranks)
    error = (found - ADVANTAGE).ravel()
    error = error - error.mean()
    return float(len(ranks) * error @ information @ error)


def test_partial_returns_learned_from_regret_are_the_advantage_up_to_a_constant():
    """As near as 8,000 judgements allow, at a level of 1e-4, and to 0.2."""
    visits, ranks = plenty(1.0)
    found = jax.jit(lib.fit_partial_return)(visits, ranks, 20.0)
    assert far_off(found, visits, ranks) < stats.chi2.isf(1e-4, 3)
    np.testing.assert_allclose(found - found[0, 1], ADVANTAGE, atol=0.2)
    np.testing.assert_array_equal(found.argmax(-1), [1, 0])
    assert far_off(jnp.array(REWARD), visits, ranks) > stats.chi2.isf(1e-4, 3)  # the same test turns the reward down


def test_a_reward_found_by_regret_has_the_advantage():
    visits, ranks = plenty(1.0)
    fit = jax.jit(lambda *data: lib.fit_regret(*data, GAMMA, weight_decay=0.0, num_steps=300))
    found = fit(visits, ranks, jnp.array(TRANSITION))
    q = solvers.optimal_q(jnp.array(TRANSITION), found, GAMMA, tolerance=1e-8)
    assert far_off(lib.advantage(q), visits, ranks) < 1.1 * stats.chi2.isf(
        1e-4, 3
    )  # Adam comes near the best, not to it
    np.testing.assert_allclose(lib.advantage(q), ADVANTAGE, atol=0.2)


def test_scaled_returns():
    start = jnp.array([0.5, 0.5])
    scaled = lambda policy: lib.scaled_return(jnp.array(TRANSITION), jnp.array(REWARD), GAMMA, start, jnp.array(policy))
    assert scaled([[0.0, 1.0], [1.0, 0.0]]) == pytest.approx(1.0)
    assert scaled([[0.5, 0.5], [0.5, 0.5]]) == pytest.approx(0.0)
    assert scaled([[1.0, 0.0], [0.0, 1.0]]) < 0.0


def test_the_advantage_is_a_reward_as_good_and_one_above_0_never_arrives():
    """On ten gridworlds: every start arrives by A* itself, none by 1 more; by A* one sweep is enough."""
    worlds = study.random_worlds(10)
    returns, arrived = study.shifted_advantages(worlds, jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(returns[:, 0], 1.0, atol=1e-6)
    np.testing.assert_allclose(arrived[:, 0], 1.0, atol=1e-9)
    assert (returns[:, 1] < study.NEAR).all() and (arrived[:, 1] == 0.0).all()
    by_reward, by_advantage = study.sweeps_needed(worlds).T
    assert (by_advantage == 1).all() and (by_reward > 1).all()
