"""Constrained MDPs against linear programs, and what their demonstrators identify against finite differences of their visits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from rljax.experiments.studies.constrained import (
    errors_by_samples,
    flow,
    linear_program,
    losses_by_transfer,
    random_mdp,
    recover,
    solve,
)
from rljax.tabular import constrained, identifiability

pytestmark = pytest.mark.usefixtures("float64")


def test_towards_no_temperature_it_is_the_linear_program():
    """Return, visits where the program has one solution, and prices. Budgets are kept throughout."""
    dear = 0
    for seed in range(3):
        mdp, reward = random_mdp(seed, share=0.3)
        best, price = linear_program(mdp, reward)
        found = solve(mdp.replace(temperature=0.01), reward)
        np.testing.assert_allclose((found.visits * reward).sum(), (best * reward).sum(), atol=0.05)
        np.testing.assert_allclose(found.price, price, atol=0.1)
        used = jnp.einsum("sa,sak->k", found.visits, mdp.costs)
        assert (used <= mdp.budget + 1e-4).all()
        dear += (price > 0.1).sum()
    assert dear


def test_the_solution_is_best_of_all_visits_within_the_budgets():
    """By scipy's SLSQP on visits, which knows nothing of prices: the objective, the visits, the prices' complementarity."""
    mdp, reward = random_mdp(0)
    costs = np.asarray(mdp.costs).reshape(-1, 2)
    found = solve(mdp, reward)
    assert found.error < 1e-5

    def loss(flat):
        mu = np.maximum(flat.reshape(reward.shape), 1e-12)
        policy = mu / mu.sum(1, keepdims=True)
        return -(mu * (reward - np.log(policy))).sum()

    best = scipy.optimize.minimize(
        loss,
        np.asarray(constrained.visits_of(mdp, jnp.full((4, 3), 1.0 / 3.0))).ravel(),
        method="SLSQP",
        bounds=[(0.0, None)] * 12,
        constraints=[
            {"type": "eq", "fun": lambda flat: flow(mdp) @ flat - mdp.start},
            {"type": "ineq", "fun": lambda flat: mdp.budget - flat @ costs},
        ],
        options={"ftol": 1e-12, "maxiter": 500},
    )
    np.testing.assert_allclose(constrained.objective(mdp, reward, found.policy), -best.fun, atol=1e-5)
    np.testing.assert_allclose(found.visits.ravel(), best.x, atol=1e-3)
    left = mdp.budget - found.visits.ravel() @ costs
    assert (left > -1e-5).all() and (found.price >= 0.0).all() and (found.price > 0.01).any()
    np.testing.assert_allclose(found.price * left, 0.0, atol=1e-4)


def sensitivity(mdp, reward):
    """d visits / d reward [SA, SA] by central differences of the whole solution."""
    size, step = reward.size, 1e-4
    moves = step * jnp.eye(size).reshape(size, *reward.shape)
    visits = jax.jit(jax.vmap(lambda move: constrained.solve(mdp, reward + move, 1e-9, 5000).visits))
    return np.asarray((visits(moves) - visits(-moves)).reshape(size, size) / (2 * step)).T


@pytest.mark.parametrize("share,num_active", [(2.0, 0), (0.8, 1)])
def test_what_is_left_open_is_the_null_space_of_visits_by_rewards(share, num_active):
    """Without a budget that is used up S numbers, the shapings; with one, that cost as well. Both spaces are the same."""
    mdp, reward = random_mdp(4, num_costs=1, share=share)
    found = solve(mdp, reward)
    assert int(constrained.active(mdp, found.visits).sum()) == num_active
    directions = np.asarray(constrained.left_open(mdp, found.visits))
    slope = sensitivity(mdp, reward)
    singular = np.linalg.svd(slope, compute_uv=False)
    nullity = (singular < 1e-5).sum()
    assert nullity == 4 + num_active == constrained.dimension(directions)
    np.testing.assert_allclose(slope @ directions, 0.0, atol=1e-6)
    shapings = identifiability.shaping(mdp.transition, mdp.discount)
    np.testing.assert_allclose(slope @ shapings, 0.0, atol=1e-6)


def test_costs_may_be_added_to_the_reward_but_not_taken_away():
    """The cone has a side: with a budget used up, what costs may pay any more; to pay less, by more than its price, is seen."""
    mdp, reward = random_mdp(4, num_costs=1)
    found = solve(mdp, reward)
    cost = mdp.costs[..., 0]
    np.testing.assert_allclose(solve(mdp, reward + 3.0 * cost).visits, found.visits, atol=1e-4)
    assert jnp.abs(solve(mdp, reward - (found.price[0] + 1.0) * cost).visits - found.visits).max() > 0.01


def test_never_visited_steps_are_left_open_without_entropy():
    """A linear program's demonstrator: its rewards are those, whatever else is paid less there."""
    mdp, reward = random_mdp(1, num_costs=1)
    best, price = linear_program(mdp, reward)
    directions = np.asarray(constrained.left_open(mdp, jnp.asarray(best)))
    zeros = int((best < 1e-9).sum())
    assert zeros >= 12 - 4 - 1 and constrained.dimension(directions) == 12  # all of it: 4 + 1 + 7
    rng = np.random.default_rng(0)
    for _ in range(10):  # any element of the cone
        amounts = np.concatenate([rng.normal(size=4), rng.exponential(size=1 + 12)])
        moved = reward + (directions @ amounts).reshape(reward.shape)
        np.testing.assert_allclose(linear_program(mdp, moved)[0], best, atol=1e-7)


def test_rewards_are_recovered_in_a_class_that_leaves_nothing_open():
    """Of fewer features than numbers are told; without costs known to it, who looks for a reward finds another one."""
    mdp, _ = random_mdp(3, num_costs=1)
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(4, 3, 4)))
    weights = jnp.asarray(rng.normal(size=4))
    wide = mdp.replace(budget=jnp.array([1e3]))
    wanted = jnp.einsum("sa,sak->k", solve(wide, features @ weights).visits, mdp.costs)
    mdp = mdp.replace(budget=0.9 * wanted)
    shown = solve(mdp, features @ weights)
    assert shown.price[0] > 0.1
    open_ = constrained.left_open(mdp, shown.visits)
    both = jnp.concatenate([open_, features.reshape(-1, 4)], axis=1)
    assert constrained.dimension(both) == constrained.dimension(open_) + 4  # no weights are among what is left open
    found, solution = recover(mdp, shown.visits, features)
    np.testing.assert_allclose(found, weights, atol=1e-3)
    np.testing.assert_allclose(solution.price, shown.price, atol=1e-3)
    blind, _ = recover(wide, shown.visits, features)
    assert jnp.abs(blind - weights).max() > 0.05
    near, _ = recover(mdp, shown.visits, features, 0.5 * float(jnp.linalg.norm(weights)))
    np.testing.assert_allclose(jnp.linalg.norm(near), 0.5 * jnp.linalg.norm(weights), rtol=1e-4)


def test_only_rewards_that_are_known_up_to_a_constant_transfer():
    found, apart = map(np.array, zip(*map(losses_by_transfer, range(5)), strict=True))
    np.testing.assert_allclose(apart, 0.0, atol=1e-4)
    np.testing.assert_allclose(found[:, 0], 0.0, atol=1e-6)
    assert (found[:, 1:].mean(0) > 0.05).all() and (found > -1e-6).all()


def test_the_error_falls_with_the_root_of_the_samples():
    counts = (1_000, 30_000)
    errors = errors_by_samples(counts)
    slope = np.polyfit(np.log(counts), np.log(errors).mean(1), 1)[0]
    np.testing.assert_allclose(slope, -0.5, atol=0.1)
