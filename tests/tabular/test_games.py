"""Regularised preference games: equilibria against scipy's, gaps by search, rates and resting points of each step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from rljax.errors import UserError
from rljax.tabular import games as lib

pytestmark = pytest.mark.usefixtures("float64")

REFERENCE = np.array([0.1, 0.2, 0.1, 0.3, 0.3])
PAYOFF = np.full((5, 5), 0.5)  # three arms in a circle, and two that these beat
for i, j in ((0, 1), (1, 2), (2, 0)):
    PAYOFF[i, j], PAYOFF[j, i] = 0.9, 0.1
PAYOFF[:3, 3:], PAYOFF[3:, :3] = 0.8, 0.2
PAYOFF[3, 4], PAYOFF[4, 3] = 0.6, 0.4


def solved(tau):
    """The game, and its equilibrium as the root of its fixed-point equation, by scipy."""
    law = lambda z: np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    residual = lambda z: z - np.log(REFERENCE) - PAYOFF @ law(z) / tau
    root = optimize.root(residual, np.log(REFERENCE), tol=1e-14)
    assert np.abs(residual(root.x)).max() < 1e-10
    return lib.game(PAYOFF, REFERENCE, tau), jnp.asarray(law(root.x))


def distances(step, of, nash, rate, count):
    """KL(equilibrium || policy) after each step from the reference."""
    policies = jax.jit(lib.iterate, static_argnums=(0, 4))(step, of, of.reference, rate, count)
    return np.asarray(jax.vmap(lib.kl, (None, 0))(nash, policies))


def test_values_by_hand_and_best_responses_by_search():
    of = lib.game(np.array([[0.5, 0.9], [0.1, 0.5]]), np.array([0.25, 0.75]), 0.2)
    p, q = np.array([0.6, 0.4]), np.array([0.3, 0.7])
    kl = lambda x: x[0] * np.log(x[0] / 0.25) + x[1] * np.log(x[1] / 0.75)
    expected = 0.5 * (0.6 * 0.3 + 0.4 * 0.7) + 0.9 * 0.6 * 0.7 + 0.1 * 0.4 * 0.3 - 0.2 * (kl(p) - kl(q))
    assert float(lib.value(of, jnp.array(p), jnp.array(q))) == pytest.approx(expected)
    assert float(lib.value(of, jnp.array(p), jnp.array(p))) == pytest.approx(0.5)

    of, _ = solved(0.1)
    policy = jnp.array([0.3, 0.1, 0.2, 0.3, 0.1])
    best = lib.value(of, lib.best_response(of, policy), policy)
    worst = -optimize.minimize(
        lambda z: -lib.value(of, jax.nn.softmax(z), policy), np.zeros(5), jac=None, tol=1e-10
    ).fun
    assert float(best) == pytest.approx(worst, abs=1e-8)
    lowest = optimize.minimize(lambda z: lib.value(of, policy, jax.nn.softmax(z)), np.zeros(5), tol=1e-10).fun
    assert float(lib.duality_gap(of, policy)) == pytest.approx(float(best) - lowest, abs=1e-7)


def test_a_proximal_step_is_its_maximum():
    of, _ = solved(0.1)
    policy, opponent = jnp.array([0.3, 0.1, 0.2, 0.3, 0.1]), jnp.array([0.1, 0.5, 0.2, 0.1, 0.1])

    def gain(logits):
        pi = jax.nn.softmax(logits)
        return pi @ of.payoff @ opponent - 0.1 * lib.kl(pi, of.reference) - lib.kl(pi, policy) / 0.7

    found = lib.proximal(of, policy, opponent, 0.7)
    assert np.abs(jax.grad(gain)(jnp.log(found))).max() < 1e-12
    same = lib.proximal(of, policy, policy, 0.7 / (1.0 - 0.07))
    np.testing.assert_allclose(lib.self_play(of, policy, 0.7), same, atol=1e-12)


@pytest.mark.parametrize("tau", [0.1, 0.02])
def test_mirror_prox_converges_to_the_equilibrium_at_a_linear_rate(tau):
    """No slower than (1 + 2 tau)^(-N/2) for N preferences asked for, two a step, as its authors state, until rounding ends it."""
    of, nash = solved(tau)
    found = distances(lib.nash_mp, of, nash, 1.0, 300)
    steps = np.arange(1, 301)
    kept = found > 1e-13
    assert kept.sum() > 50
    assert (found[kept] <= (1.0 + 2.0 * tau) ** -steps[kept] / tau).all()
    assert np.polyfit(steps[kept][20:], np.log(found[kept][20:]), 1)[0] < -np.log1p(2.0 * tau)
    np.testing.assert_allclose(lib.equilibrium(of), nash, atol=1e-7)
    assert float(lib.duality_gap(of, lib.equilibrium(of))) < 1e-10


def test_nash_md_rests_beside_the_equilibrium_and_self_play_on_it():
    """At a constant rate, and the farther the higher it is; a tenth of the rate leaves a hundredth of the distance."""
    of, nash = solved(0.1)
    beside = {rate: distances(lib.nash_md, of, nash, rate, 2000)[[-2, -1]] for rate in (0.1, 0.5, 1.0)}
    for before, last in beside.values():
        assert before == pytest.approx(last, rel=1e-6)  # at rest
    beside = {rate: last for rate, (_, last) in beside.items()}
    assert 1e-6 < beside[0.1] < 1e-5 < beside[0.5] < 2e-4 < beside[1.0] < 1e-3
    assert beside[0.1] / beside[1.0] == pytest.approx(0.01, rel=0.3)
    assert distances(lib.self_play, of, nash, 1.0, 300)[-1] < 1e-13


def test_nash_md_with_falling_rates_converges_as_one_over_the_steps():
    """Rates 2 / (tau (t + 2)), as its authors have them."""
    of, nash = solved(0.1)

    def advance(policy, t):
        policy = lib.nash_md(of, policy, 2.0 / (of.tau * (t + 2.0)))
        return policy, lib.kl(nash, policy)

    found = np.asarray(jax.lax.scan(advance, of.reference, jnp.arange(4000.0))[1])
    assert (found <= 8.0 / (0.1**2 * (np.arange(4000) + 2.0))).all()
    assert found[3999] < 1e-4 and found[3999] < 0.2 * found[399]


def test_where_regularisation_is_weak_self_play_circles_and_mirror_prox_does_not():
    of, nash = solved(0.02)
    assert distances(lib.self_play, of, nash, 2.0, 400)[200:].min() > 0.1
    assert distances(lib.nash_mp, of, nash, 2.0, 400)[-1] < 1e-13


def test_no_reward_tells_a_circle():
    """The regularised optimum of the best Bradley & Terry reward loses more, to its worst opponent, than the equilibrium does."""
    of, nash = solved(0.1)
    fit = lambda r: sum(
        REFERENCE[i] * REFERENCE[j] * PAYOFF[i, j] * np.logaddexp(0.0, r[j] - r[i]) for i in range(5) for j in range(5)
    )
    reward = optimize.minimize(fit, np.zeros(5), tol=1e-12).x
    rewarded = jax.nn.softmax(jnp.log(of.reference) + reward / 0.1)
    assert float(lib.duality_gap(of, nash)) < 1e-12 < 0.05 < float(lib.duality_gap(of, rewarded))


def test_games_that_are_none_are_refused():
    with pytest.raises(UserError, match=r"must be \[A, A\]"):
        lib.game(np.ones((2, 3)), REFERENCE, 0.1)
    with pytest.raises(UserError, match="probability that i is better than j"):
        lib.game(np.full((2, 2), 0.6), np.ones(2) / 2, 0.1)
    with pytest.raises(UserError, match="above 0 of each of 5 arms"):
        lib.game(PAYOFF, np.array([0.5, 0.5, 0.0, 0.0, 0.0]), 0.1)
    with pytest.raises(UserError, match="tau must be above 0, not 0.0"):
        lib.game(PAYOFF, REFERENCE, 0.0)
