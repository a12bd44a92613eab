"""Transport plans against linear programs, closed forms, and Sinkhorn's own iterations in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from rljax import transport

solve = jax.jit(transport.sinkhorn, static_argnums=4)


def clouds(n=7, m=5, seed=0):
    """Two clouds in the plane and weights that differ."""
    rng = np.random.default_rng(seed)
    a, b = rng.dirichlet(np.full(n, 5.0)), rng.dirichlet(np.full(m, 5.0))
    return [np.float32(z) for z in (rng.normal(size=(n, 2)), rng.normal(size=(m, 2)), a, b)]


def least_cost(cost, a, b):
    """By a linear program over all plans."""
    n, m = cost.shape
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    sums = np.concatenate([np.float64(a) / np.float64(a).sum(), np.float64(b) / np.float64(b).sum()])
    found = scipy.optimize.linprog(np.float64(cost).ravel(), A_eq=np.vstack([rows, columns]), b_eq=sums)
    assert found.status == 0
    return found.fun


def test_costs_by_hand():
    x, y = jnp.array([[3.0, 4.0], [0.0, 0.0]]), jnp.array([[6.0, 8.0], [-4.0, 3.0], [-3.0, -4.0]])
    np.testing.assert_allclose(transport.cosine_cost(x, y), [[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]], atol=1e-6)
    np.testing.assert_allclose(
        transport.euclidean_cost(x, y), [[5.0, np.sqrt(50.0), 10.0], [10.0, 5.0, 5.0]], rtol=1e-6
    )


def test_uniform_weights():
    np.testing.assert_array_equal(
        transport.uniform(jnp.array([True, False, True, True, True])), [0.25, 0, 0.25, 0.25, 0.25]
    )
    np.testing.assert_array_equal(transport.uniform(jnp.zeros(3, bool)), [0.0, 0.0, 0.0])


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 10.0])
def test_two_points_in_closed_form(epsilon):
    """Costs 0 on the diagonal and 1 off it: P_11 = sigmoid(1 / epsilon) / 2."""
    half = jnp.full(2, 0.5)
    plan = solve(1.0 - jnp.eye(2), half, half, epsilon, 20)
    stay = 0.5 / (1.0 + np.exp(-1.0 / epsilon))
    np.testing.assert_allclose(plan, [[stay, 0.5 - stay], [0.5 - stay, stay]], rtol=1e-5)


def test_a_high_price_of_information_leaves_none():
    x, y, a, b = clouds()
    np.testing.assert_allclose(solve(transport.euclidean_cost(x, y), a, b, 1e5, 50), np.outer(a, b), rtol=1e-3)


def test_it_is_the_fixed_point_of_plain_iterations():
    """u = a / K v, v = b / K' u in float64, a thousand times, at an epsilon that these can bear."""
    x, y, a, b = clouds()
    cost, epsilon = np.float64(transport.euclidean_cost(x, y)), 0.2
    kernel, v = np.exp(-cost / epsilon), np.ones(5)
    for _ in range(1000):
        u = a / (kernel @ v)
        v = b / (kernel.T @ u)
    np.testing.assert_allclose(solve(cost, a, b, epsilon, 300), u[:, None] * kernel * v, atol=1e-5)


@pytest.mark.parametrize("kind", transport.COSTS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_as_epsilon_falls_the_cost_comes_to_the_least_there_is(seed, kind):
    """At most epsilon times the plan's information above it, which is at most log of the larger cloud, and never below."""
    x, y, a, b = clouds(seed=seed)
    cost = transport.COSTS[kind](x, y)
    least, gaps = least_cost(cost, a, b), []
    for epsilon in (0.3, 0.1, 0.03, 0.01, 1e-3):
        plan = np.float64(solve(cost, a, b, epsilon, 4000))
        np.testing.assert_allclose(plan.sum(1), a, rtol=1e-5)
        np.testing.assert_allclose(plan.sum(0), b, rtol=1e-3)
        gaps.append((plan * cost).sum() - least)
        assert -2e-4 < gaps[-1] < epsilon * np.log(7) + 2e-4
    assert gaps[0] > 0.05 and abs(gaps[-1]) < 2e-4


def test_on_a_line_points_keep_their_order():
    """Then the least cost is the mean distance of the sorted."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12)).astype(np.float32)
    cost, weight = transport.euclidean_cost(x[:, None], y[:, None]), jnp.full(12, 1 / 12)
    plan = solve(cost, weight, weight, 1e-3, 4000)
    np.testing.assert_allclose((plan * cost).sum(), np.abs(np.sort(x) - np.sort(y)).mean(), atol=1e-3)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-12, 1e-30])
def test_no_epsilon_is_too_small(epsilon):
    """Rows sum to their weights, where exp(-cost / epsilon) is 0 for every pair."""
    x, y, a, b = clouds()
    plan = np.float64(solve(transport.cosine_cost(x, y), a, b, epsilon, 100))
    assert (plan >= 0.0).all()
    np.testing.assert_allclose(plan.sum(1), a, rtol=1e-5)


def test_a_hundred_iterations_do_for_episodes():
    """Walks of 200 steps at the price of the authors' code: less than 1 % of the mass is not where it should be."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 200, 3)).astype(np.float32).cumsum(1)
    weight = jnp.full(200, 1 / 200)
    plan = np.float64(solve(transport.cosine_cost(x, y), weight, weight, 0.01, 100))
    np.testing.assert_allclose(plan.sum(1), weight, rtol=1e-5)
    assert 0.5 * np.abs(plan.sum(0) - weight).sum() < 0.01


def test_padding_takes_no_mass_and_changes_nothing():
    """Whatever stands there: the same, zeros, or numbers far away."""
    x, y, a, b = clouds()
    cost = transport.cosine_cost(x, y)
    alone = solve(cost, a, b, 0.01, 200)
    for far in (0.0, 1.0, 1e6):
        wide = jnp.full((9, 8), far).at[:7, :5].set(cost)
        plan = solve(wide, jnp.pad(a, (0, 2)), jnp.pad(b, (0, 3)), 0.01, 200)
        np.testing.assert_allclose(plan[:7, :5], alone, atol=1e-6)
        assert not plan[7:].any() and not plan[:, 5:].any()


def step_costs(x, x_mask, y, y_mask, epsilon=0.01):
    return transport.step_costs(x, x_mask, y, y_mask, transport.cosine_cost, epsilon, 200)


def test_costs_of_steps_are_those_of_the_plan():
    x, y, _, _ = clouds()
    x_mask, y_mask = np.arange(7) < 4, np.arange(5) != 2
    found = jax.jit(step_costs)(x, x_mask, y, y_mask)
    cost = np.float64(transport.cosine_cost(x, y))[:4][:, [0, 1, 3, 4]]
    plan = np.float64(solve(cost, jnp.full(4, 0.25), jnp.full(4, 0.25), 0.01, 200))
    np.testing.assert_allclose(found[:4], (plan * cost).sum(1), atol=1e-5)
    assert not found[4:].any()
    np.testing.assert_allclose(found.sum(), least_cost(cost, np.full(4, 0.25), np.full(4, 0.25)), atol=0.02)


def test_many_at_once_are_those_one_by_one():
    x, y, a, b = (np.stack(z) for z in zip(*(clouds(seed=seed) for seed in range(3))))
    cost = jax.vmap(transport.cosine_cost)(x, y)
    together = jax.jit(jax.vmap(lambda *z: transport.sinkhorn(*z, 0.05, 100)))(cost, a, b)
    for i in range(3):
        np.testing.assert_allclose(together[i], solve(cost[i], a[i], b[i], 0.05, 100), atol=1e-6)


@pytest.mark.parametrize("kind", transport.COSTS)
def test_gradients_are_finite_and_right(kind):
    """With padding, coinciding points and a zero vector. At a large epsilon they are those of small differences."""
    x, y, _, _ = clouds()
    x[1], x[2], x[5:] = y[1], 0.0, 0.0
    x_mask, y_mask = jnp.arange(7) < 5, jnp.arange(5) < 4

    @jax.jit
    def cost_and_gradient(x, epsilon):
        total = lambda x: transport.step_costs(x, x_mask, y, y_mask, transport.COSTS[kind], epsilon, 200).sum()
        return jax.value_and_grad(total)(x)

    for epsilon in (0.3, 1e-3):
        _, gradient = cost_and_gradient(x, epsilon)
        assert jnp.isfinite(gradient).all() and not gradient[5:].any() and gradient[:5].any()
    small = np.zeros_like(x)
    small[3, 0] = 1e-2
    above, below = (float(cost_and_gradient(z, 0.3)[0]) for z in (x + small, x - small))
    np.testing.assert_allclose(cost_and_gradient(x, 0.3)[1][3, 0], (above - below) / 2e-2, rtol=2e-2)
