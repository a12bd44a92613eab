"""The feasible set against backward induction, all corners of its polytope, and the rate at which samples find it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import HalfspaceIntersection

from rljax.errors import UserError
from rljax.experiments.studies.feasible import bounds_of, measure, random_problem, slopes
from rljax.tabular import feasible


def optimal_values(problem, reward):
    value = np.zeros(reward.shape[1])
    for p, r in zip(problem.transition[::-1], reward[::-1], strict=True):
        value = (r + p @ value).max(1)
    return value


def values(problem, reward):
    value = np.zeros(reward.shape[1])
    for p, policy, r in zip(problem.transition[::-1], problem.policy[::-1], reward[::-1], strict=True):
        value = (policy * (r + p @ value)).sum(1)
    return value


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_explicit_form_is_the_set_of_rewards_for_which_who_demonstrates_is_optimal(deterministic):
    problem = random_problem(0, 3, 4, 3, deterministic)
    rng = np.random.default_rng(1)
    for _ in range(20):
        value, advantage = rng.normal(size=(3, 4)), rng.exponential(size=(3, 4, 3))
        reward = feasible.reward_of(problem, value, advantage)
        np.testing.assert_allclose(values(problem, reward), value[0], atol=1e-12)
        np.testing.assert_allclose(optimal_values(problem, reward), value[0], atol=1e-12)
        reward = reward / np.abs(reward).max()
        assert feasible.is_feasible(problem, reward)
        assert not feasible.is_feasible(problem, 1.01 * reward)  # beyond 1
        taken = np.argwhere(problem.policy == 0.0)[rng.integers((problem.policy == 0.0).sum())]
        better = reward.copy()
        better[tuple(taken)] += 1e-3 - feasible.evaluate(problem, reward)[0][tuple(taken)]
        assert not feasible.is_feasible(problem, 0.1 * better)
        # and back: any feasible reward has the form, with its own values and advantages
        own = -feasible.evaluate(problem, reward)[0]
        at = np.zeros((3, 4))
        for h in range(3):
            rest = feasible.Problem(problem.transition[h:], problem.policy[h:])
            at[h] = values(rest, reward[h:])
        np.testing.assert_allclose(feasible.reward_of(problem, at, np.maximum(own, 0.0)), reward, atol=1e-12)
    with pytest.raises(UserError, match="nowhere be below 0"):
        feasible.reward_of(problem, value, -advantage)


def test_the_nearest_feasible_reward_and_its_slope():
    """Nothing feasible is nearer, of many; finite differences of the distance."""
    problem, rng = random_problem(2, 2, 3, 2), np.random.default_rng(3)
    reward = rng.uniform(-1.0, 1.0, (2, 3, 2))
    found = feasible.nearest(problem, reward)
    assert feasible.is_feasible(problem, found.reward)
    np.testing.assert_allclose(np.abs(found.reward - reward).max(), found.distance, atol=1e-9)
    for _ in range(500):
        step = found.reward + rng.normal(scale=10.0 ** rng.uniform(-4, 0), size=reward.shape)
        if feasible.is_feasible(problem, step, 0.0):
            assert np.abs(step - reward).max() >= found.distance - 1e-9
    direction = rng.normal(size=reward.shape)
    shifted = feasible.nearest(problem, reward + 1e-6 * direction).distance
    np.testing.assert_allclose((shifted - found.distance) / 1e-6, (found.slope * direction).sum(), atol=1e-4)


def corners(problem):
    """Of the polytope, by qhull, from half-spaces that backward induction gives for a deterministic demonstrator."""
    size = problem.policy.size
    rows = np.stack(
        [feasible.evaluate(problem, x.reshape(problem.policy.shape))[0].ravel() for x in np.eye(size)], axis=1
    )
    rows = rows[problem.policy.ravel() == 0.0]
    half_spaces = np.block(
        [[rows, np.zeros((len(rows), 1))], [np.eye(size), -np.ones((size, 1))], [-np.eye(size), -np.ones((size, 1))]]
    )
    inside = feasible.reward_of(problem, np.zeros(problem.policy.shape[:2]), np.ones(problem.policy.shape))
    inside = 0.5 * inside + 0.01 * np.where(problem.policy == 0.0, 0.0, 1.0)
    return HalfspaceIntersection(half_spaces, inside.ravel()).intersections.reshape(-1, *problem.policy.shape)


@pytest.mark.parametrize("same_policy", [True, False])
def test_the_distance_is_that_of_all_corners(same_policy):
    """In problems with 8 rewards, whose corners can all be listed."""
    first, second = random_problem(0), random_problem(10)
    second = second._replace(policy=first.policy) if same_policy else second
    ways = [
        max(feasible.nearest(there, corner).distance for corner in np.unique(corners(here).round(9), axis=0))
        for here, there in itertools.permutations((first, second))
    ]
    found = feasible.distance(first, second, 32)
    np.testing.assert_allclose(found, max(ways), atol=1e-6)
    assert found <= feasible.distance_bound(first, second) + 1e-6
    assert feasible.distance(first, first, 2) < 1e-6


def test_the_distance_falls_with_the_root_of_the_samples():
    counts = (100, 1000, 10000)
    distances, bounds = measure(8, counts, num_starts=2)
    assert (distances <= bounds).all()
    found = slopes(counts, distances)
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean() + 0.5) < 2.0 * error < 0.12


def test_what_the_samples_of_a_triple_must_be_grows_with_states_and_the_square_of_the_horizon():
    """The H^3 S A (S + log) of the paper is H S A triples with H^2 S samples each."""
    base = bounds_of(4, 8, 2).mean()
    np.testing.assert_allclose(
        bounds_of(13, 8, 2).mean() / base, 12 / 3, rtol=0.15
    )  # (H - 1), and a maximum over more times
    np.testing.assert_allclose(bounds_of(4, 24, 2).mean() / base, np.sqrt(3.0), rtol=0.2)


def test_frequencies():
    chances = jnp.array([[0.2, 0.0, 0.5, 0.3], [0.0, 1.0, 0.0, 0.0], [0.3, 0.7, 0.0, 0.0]])
    found = feasible.frequencies(jax.random.key(0), chances, 40_000)
    assert not found[chances == 0.0].any()
    np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(found, chances, atol=4.0 * 0.5 / 200.0)


def test_a_rare_action_of_the_demonstrator_must_be_seen():
    """Until it is, the set of who never takes it is another: the distance does not shrink with the error of the dynamics."""
    problem = random_problem(5)
    often = np.array(problem.policy)
    often[0, 0] = [0.999, 0.001]
    seen = often.copy()
    seen[0, 0] = [1.0, 0.0]
    assert feasible.distance(problem._replace(policy=often), problem._replace(policy=seen)) > 0.5
