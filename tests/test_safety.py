"""Safety tests of policies: bounds against scipy, and how often what is not safe is returned, in 10,000 trials each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rljax import safety
from rljax.errors import UserError

TRIALS, DELTA, THRESHOLD = 10_000, 0.1, 0.5
NOISE = 3.0 * np.sqrt(DELTA * (1.0 - DELTA) / TRIALS)  # of a share of the trials
COST = jnp.array(
    [0.1, 0.3, 0.4, 0.51, 0.51, 0.52, 0.52, 0.55]
)  # expected: the last five are not safe, and are paid the most
REWARD = jnp.arange(8.0)


def test_bounds():
    costs = np.random.default_rng(0).exponential(size=12)
    bound = lambda width: float(jnp.float32(costs).mean() + width)
    one_sided = stats.t.interval(0.8, 11, costs.mean(), costs.std(ddof=1) / np.sqrt(12))[1]
    assert bound(safety.student_width(jnp.float32(costs), 0.1)) == pytest.approx(one_sided, rel=1e-5)
    test = stats.ttest_1samp(costs, 1.4, alternative="less").pvalue
    for delta in test + 0.01, test - 0.01:
        assert bool(safety.passes(jnp.float32(costs), 1.4, delta)) == (test <= delta)
    predicted = costs.mean() + 2.0 * stats.t.ppf(0.9, 29) * costs.std(ddof=1) / np.sqrt(30)
    assert float(safety.predicted_bound(jnp.float32(costs), 0.1, 30)) == pytest.approx(predicted, rel=1e-5)
    hoeffding = 4.0 * np.sqrt(np.log(10.0) / 60)
    assert float(safety.hoeffding_width(jnp.float32(costs), 0.1, 30, 4.0)) == pytest.approx(hoeffding, rel=1e-5)


def test_candidates():
    bound = jnp.array([0.7, 0.2, 0.5, 0.9])
    assert int(safety.candidate(jnp.array([9.0, 1.0, 2.0, 8.0]), bound, 0.5)) == 2
    assert int(safety.candidate(jnp.array([9.0, 1.0, 2.0, 8.0]), bound, 0.1)) == 1


@functools.partial(jax.jit, static_argnames=("trial", "size"))
def trials(trial, key, size, cost, scale=0.3):
    """`trial` of normal costs [M, size] of each half, many times."""

    def one(key):
        drawn = cost[:, None] + scale * jax.random.normal(key, (len(cost), 2 * size))
        return trial(drawn[:, :size], drawn[:, size:])

    return jax.vmap(one)(jax.random.split(key, TRIALS))


@pytest.mark.parametrize("size", [3, 20])
def test_what_is_barely_unsafe_passes_as_often_as_is_said(size):
    """Of as few as three costs, where a normal bound would let pass more."""
    test = lambda _, costs: safety.passes(costs[0], THRESHOLD, DELTA)
    assert float(trials(test, jax.random.key(0), size, jnp.array([THRESHOLD])).mean()) == pytest.approx(
        DELTA, abs=NOISE
    )


def unsafe(solution):
    return float((solution.found & (COST[solution.index] > THRESHOLD)).mean())


def test_what_is_not_safe_is_returned_seldom():
    """In a delta of the trials at most, and far more often if nothing is tested, or by costs that have been seen."""
    solve = lambda inflation: lambda first, held_out: safety.solve(REWARD, first, held_out, THRESHOLD, DELTA, inflation)
    run = lambda trial: trials(trial, jax.random.key(1), 20, COST)
    found = {inflation: run(solve(inflation)) for inflation in (0.0, 1.0, 2.0)}
    assert max(unsafe(solution) for solution in found.values()) <= DELTA + NOISE
    untested = run(
        lambda first, _: safety.Solution(safety.candidate(REWARD, first.mean(1), THRESHOLD), jnp.bool_(True))
    )
    seen = run(lambda first, _: safety.solve(REWARD, first, first, THRESHOLD, DELTA, 1.0))
    assert unsafe(untested) > 3 * DELTA and unsafe(seen) > 2 * DELTA
    shares = [float(solution.found.mean()) for solution in found.values()]
    assert (
        shares[0] + 0.1 < shares[1] and shares[1] + 0.1 < shares[2]
    )  # the larger the bound, the fewer that are chosen fail


def test_where_nothing_is_safe_there_is_no_solution():
    solve = lambda first, held_out: safety.solve(REWARD[:3], first, held_out, THRESHOLD, DELTA)
    solution = trials(solve, jax.random.key(2), 20, jnp.array([0.55, 0.6, 0.7]))
    assert float(solution.found.mean()) <= DELTA


def test_seldom_costs_need_the_bound_that_knows_no_law():
    """One completion in a hundred costs 1: most samples have none, and Student's bound is then 0."""

    @jax.jit
    def share(key):
        costs = jax.random.bernoulli(key, 0.01, (TRIALS, 50)).astype(jnp.float32)
        test = lambda width: jax.vmap(lambda x: safety.passes(x, 0.009, DELTA, width))(costs).mean()
        return test(safety.student_width), test(safety.hoeffding_width)

    student, hoeffding = share(jax.random.key(3))
    assert student > 0.5 and hoeffding <= DELTA


@pytest.mark.parametrize(
    "costs, delta, sentence",
    [(5, 0.0, "delta=0.0 must be a probability"), (1, 0.1, "Of 1 costs nothing tells how they vary")],
)
def test_what_cannot_be_is_refused(costs, delta, sentence):
    for width in safety.student_width, safety.hoeffding_width:
        with pytest.raises(UserError, match=sentence):
            width(jnp.zeros(costs), delta)
