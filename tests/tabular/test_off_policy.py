"""Marginalized operators against Retrace's: the same operator, and variances against all paths written out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.errors import UserError
from rljax.losses import multistep
from rljax.tabular import off_policy as lib
from rljax.tabular import solvers

GAMMA = 0.7


def problem(seed, states=3, actions=2):
    """P, R, the policy and the behaviour, in float64."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    return (
        draw(states, actions, states),
        rng.normal(size=(states, actions)),
        draw(states, actions),
        draw(states, actions),
    )


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("kind", ["retrace", "tree_backup"])
def test_both_operators_are_one_and_contract_as_one(kind):
    transition, reward, policy, behaviour = map(jnp.asarray, problem(0))
    trace = lib.traces(policy, behaviour, kind, 0.9)
    weights = lib.weights(transition, behaviour, GAMMA, trace)
    one = lambda q: lib.operator(transition, reward, GAMMA, policy, behaviour, trace, q)
    other = lambda q: lib.marginalized(transition, reward, GAMMA, policy, behaviour, weights, q)
    q = jnp.asarray(np.random.default_rng(1).normal(size=reward.shape))
    np.testing.assert_allclose(other(q), one(q), rtol=1e-12)
    truth = reward + GAMMA * transition @ solvers.value(transition, reward, GAMMA, policy)
    np.testing.assert_allclose(other(truth), truth, rtol=1e-12)
    rate = lib.contraction(transition, GAMMA, policy, behaviour, trace)
    for operator in (one, other):  # both are linear: their rates by differentiation
        found = np.abs(np.asarray(jax.jacobian(operator)(q))).sum((2, 3)).max()
        np.testing.assert_allclose(found, rate, rtol=1e-10)
    assert rate < GAMMA  # better than one step


def test_weights_of_importance_are_density_ratios_and_those_of_one_are_one():
    transition, _, policy, behaviour = map(jnp.asarray, problem(2))
    ratio = lib.traces(policy, behaviour, "importance")
    found = lib.weights(transition, behaviour, GAMMA, ratio)
    np.testing.assert_allclose(
        found, lib.visits(transition, policy, GAMMA) / lib.visits(transition, behaviour, GAMMA), rtol=1e-9
    )
    np.testing.assert_allclose(lib.weights(transition, behaviour, GAMMA, jnp.ones((3, 2))), 1.0, rtol=1e-12)
    by_time = lib.weights_by_time(transition, behaviour, ratio, 3)
    np.testing.assert_allclose(by_time[0, 1, 0], [[0, 0], [1, 0], [0, 0]], atol=0)
    np.testing.assert_allclose(by_time[1], jnp.broadcast_to(ratio, by_time[1].shape), rtol=1e-12)  # one step, one trace


def written_out(transition, behaviour, trace, error, horizon, start):
    """Of all paths: probability, C_t [T], error_t [T], pairs [T]."""
    states, actions = behaviour.shape
    for rest in itertools.product(range(states * actions), repeat=horizon - 1):
        pairs = [start, *(divmod(pair, actions) for pair in rest)]
        for last in range(states):
            after = [s for s, _ in pairs[1:]] + [last]
            chance = np.prod([transition[s, a, n] for (s, a), n in zip(pairs, after)])
            chance *= np.prod([behaviour[pair] for pair in pairs[1:]])
            products = np.cumprod([1.0, *(trace[pair] for pair in pairs[1:])])
            yield chance, products, np.array([error[s, a, n] for (s, a), n in zip(pairs, after)]), pairs


def test_variances_against_all_paths():
    horizon, start = 3, (1, 0)
    transition, reward, policy, behaviour = problem(3)
    trace = np.asarray(lib.traces(policy, behaviour, "retrace", 0.9))
    error = np.asarray(lib.errors(reward, GAMMA, policy, np.random.default_rng(4).normal(size=reward.shape)))
    paths = list(written_out(transition, behaviour, trace, error, horizon, start))
    chance = np.array([path[0] for path in paths])
    np.testing.assert_allclose(chance.sum(), 1.0)
    over, under = np.zeros((2, horizon, *reward.shape))
    for p, products, _, pairs in paths:
        for t, pair in enumerate(pairs):
            over[t][pair], under[t][pair] = over[t][pair] + p * products[t], under[t][pair] + p
    weight = np.where(under > 0, over / np.where(under > 0, under, 1.0), 0.0)
    by_time = lib.weights_by_time(transition, behaviour, trace, horizon)
    np.testing.assert_allclose(by_time[:, 1, 0], weight, rtol=1e-12)

    discounts = np.full(horizon, GAMMA)
    total = lambda errors, weights: np.sum(GAMMA ** np.arange(horizon) * weights * errors)
    plain = np.array([total(errors, products) for _, products, errors, _ in paths])
    merged = np.array([total(errors, [weight[t][x] for t, x in enumerate(pairs)]) for _, _, errors, pairs in paths])
    variance = lambda x: (chance * x**2).sum() - (chance * x).sum() ** 2
    for found, by_hand in (
        (lib.path_variance(transition, behaviour, GAMMA, error, np.ones((horizon, 3, 2)), trace), plain),
        (lib.marginalized_path_variance(transition, behaviour, GAMMA, error, by_time), merged),
    ):
        np.testing.assert_allclose([x[1, 0] for x in found], [(chance * by_hand).sum(), variance(by_hand)], rtol=1e-10)
    _, products, errors, pairs = paths[17]
    taken = jnp.asarray([trace[pair] for pair in pairs])
    summed = multistep.correction(jnp.asarray(errors), jnp.asarray(discounts), multistep.trace_products(taken))
    np.testing.assert_allclose(summed, plain[17], rtol=1e-12)


def test_a_corrections_sum_stops_where_an_episode_ended():
    found = multistep.correction(jnp.array([1.0, 2.0, 4.0]), jnp.array([0.5, 0.0, 0.5]), jnp.array([1.0, 3.0, 5.0]))
    np.testing.assert_allclose(found, 1.0 + 0.5 * 3.0 * 2.0)


def test_variance_is_lower_wherever_it_is_proven_to_be():
    """Of one drawn time always; of whole paths at the fixed point, where errors of different times are uncorrelated."""
    horizon = 80  # 0.7^80 is nothing

    @jax.jit
    def variances(transition, reward, policy, behaviour):
        trace = lib.traces(policy, behaviour, "retrace", 1.0)
        truth = reward + GAMMA * transition @ solvers.value(transition, reward, GAMMA, policy)
        drawn = [
            [lib.draw_variance(transition, behaviour, GAMMA, error, trace, marginal) for marginal in (False, True)]
            for error in (lib.errors(reward, GAMMA, policy, q) for q in (truth, jnp.zeros_like(truth)))
        ]
        error = lib.errors(reward, GAMMA, policy, truth)
        by_time = lib.weights_by_time(transition, behaviour, trace, horizon)
        plain = lib.path_variance(transition, behaviour, GAMMA, error, jnp.ones((horizon, 3, 2)), trace)
        return drawn, plain, lib.marginalized_path_variance(transition, behaviour, GAMMA, error, by_time)

    for seed in range(5):
        drawn, (mean, plain), (same, merged) = variances(*problem(10 + seed))
        for alone, marginal in drawn:
            assert (marginal < 0.999 * alone).all() and (marginal > 0.0).all()
        np.testing.assert_allclose([mean, same], 0.0, atol=1e-9)
        assert (merged < 0.999 * plain).all()


def test_a_draws_variance_by_simulation():
    transition, reward, policy, behaviour = problem(5)
    trace = np.asarray(lib.traces(policy, behaviour, "retrace", 1.0))
    error = np.asarray(lib.errors(reward, GAMMA, policy, np.zeros_like(reward)))
    rng, n = np.random.default_rng(0), 200_000
    time = rng.geometric(1 - GAMMA, n) - 1
    pick = lambda law: (rng.random(len(law))[:, None] > law.cumsum(-1)).sum(-1)
    s, a, product = np.zeros(n, int), np.zeros(n, int), np.ones(n)
    found = np.zeros(n)
    for t in range(time.max() + 1):
        after = pick(transition[s, a])
        found = np.where(time == t, product * error[s, a, after] / (1 - GAMMA), found)
        s, a = after, pick(behaviour[after])
        product = product * trace[s, a]
    expected = lib.draw_variance(transition, behaviour, GAMMA, error, trace)[0, 0]
    np.testing.assert_allclose(found.var(), expected, rtol=0.03)


def test_a_kind_of_trace_that_is_not_there():
    with pytest.raises(UserError, match="retrace"):
        lib.traces(jnp.ones((1, 1)), jnp.ones((1, 1)), "retrac")
