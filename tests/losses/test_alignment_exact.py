"""Where direct preference losses come to rest, on bandits of a few arms: against closed forms, in float64 and without sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from rljax.losses import alignment, completion_scores, listwise, self_play
from rljax.tabular import games

pytestmark = pytest.mark.usefixtures("float64")

RNG = np.random.default_rng(3)
ARMS = 6
REFERENCE = RNG.dirichlet(2.0 * np.ones(ARMS))
REWARD = 1.5 * RNG.normal(size=ARMS)
BETA = 0.5
WINS = 1.0 / (1.0 + np.exp(REWARD - REWARD[:, None]))  # Bradley & Terry's, of the row's arm
BETTER_FIRST = jnp.array([0, 1])


def law(logits):
    p = np.exp(logits - logits.max())
    return p / p.sum()


def kl(p, q):
    return float((p * np.log(p / q)).sum())


def entropy(p):
    return -float((p * np.log(p)).sum())


OPTIMUM = law(np.log(REFERENCE) + REWARD / BETA)


def population(pair_loss, wins, sampled=REFERENCE):
    """logits -> the mean of pair_loss(log pi [2], log reference [2], arms [2]) over two arms drawn apart and who wins."""
    arms = jnp.array([(i, j) for i in range(ARMS) for j in range(ARMS) if i != j])
    chance = jnp.asarray(sampled[arms[:, 0]] * sampled[arms[:, 1]] * 2.0 * wins[arms[:, 0], arms[:, 1]])
    reference = jnp.log(REFERENCE)

    def loss(logits):
        log_pi = jax.nn.log_softmax(logits)
        losses = jax.vmap(lambda pair: pair_loss(log_pi[pair], reference[pair], pair))(arms)
        return (chance * losses).sum()

    return loss


def minimise(loss):
    """The policy at the minimum, by a quasi-Newton method from the reference and steps of Newton's (logits may move together)."""
    gradient, hessian = jax.jit(jax.grad(loss)), jax.jit(jax.hessian(loss))
    logits = optimize.minimize(jax.jit(loss), np.log(REFERENCE), jac=gradient, method="BFGS", options=dict(gtol=1e-7)).x
    for _ in range(4):
        logits = logits - np.linalg.pinv(hessian(logits), rcond=1e-9) @ np.asarray(gradient(logits))
    assert np.abs(gradient(logits)).max() < 1e-10
    return law(logits)


def method(name, **numbers):
    length = jnp.ones(2)
    return lambda log_pi, reference, _: alignment.direct_loss(name, log_pi, reference, length, BETTER_FIRST, **numbers)


def test_dpo_is_the_optimal_regularised_policy():
    assert kl(minimise(population(method("dpo", beta=BETA), WINS)), OPTIMUM) < 1e-10


def test_with_flipped_labels_dpo_is_off_and_rdpo_is_not():
    """A fifth of the labels are wrong; smoothing them, as if fewer were right, takes DPO still farther away."""
    flipped = 0.8 * WINS + 0.2 * WINS.T
    off = {name: kl(minimise(population(method(name, beta=BETA), flipped)), OPTIMUM) for name in ("dpo", "cdpo")}
    assert 0.1 < off["dpo"] < off["cdpo"]
    robust = population(method("rdpo", beta=BETA, flip=0.2), flipped)
    assert kl(minimise(robust), OPTIMUM) < 1e-10
    clean = population(method("dpo", beta=BETA), WINS)
    for logits in (np.log(OPTIMUM), RNG.normal(size=ARMS)):
        assert float(robust(logits)) == pytest.approx(float(clean(logits)), rel=1e-12)


def test_ipo_follows_win_rates_and_not_rewards():
    """Its minimiser is in proportion to reference e^(P(better than a draw) / tau), and is finite where someone always wins."""
    certain = (REWARD[:, None] > REWARD) + 0.5 * (REWARD[:, None] == REWARD)
    for wins in (WINS, certain):
        expected = law(np.log(REFERENCE) + wins @ REFERENCE / BETA)
        found = minimise(population(method("ipo", target=0.5 / BETA), wins))
        assert kl(found, expected) < 1e-10
    assert kl(expected, OPTIMUM) > 0.1


def test_h_dpo_sets_the_entropy():
    entropies = []
    for alpha in (0.7, 1.0, 1.3):
        expected = law(np.log(REFERENCE) / alpha + REWARD / (alpha * BETA))
        found = minimise(population(method("h_dpo", beta=BETA, alpha=alpha), WINS))
        assert kl(found, expected) < 1e-10
        entropies.append(entropy(found))
    assert entropies == sorted(entropies)


INVERSES = {  # of f', at which the optimum of E r - beta f-divergence is reference * inverse((r - constant) / beta)
    "f_dpo_forward_kl": ({}, lambda y: 1.0 / (1.0 - y), 1.0),
    "f_dpo_jensen_shannon": ({}, lambda y: np.exp(y) / (2.0 - np.exp(y)), np.log(2.0)),
    "f_dpo_alpha": ({"alpha": 0.4}, lambda y: (1.0 - 0.4 * y) ** -2.5, 1.0 / 0.4),
}


@pytest.mark.parametrize("name", INVERSES)
def test_f_dpo_is_the_optimum_under_its_divergence(name):
    """The multiplier is found by bisection, and r / beta - f'(pi / reference) is then one constant."""
    numbers, inverse, largest = INVERSES[name]
    ratio = lambda constant: inverse((REWARD - constant) / BETA)
    low = REWARD.max() - BETA * largest + 1e-9  # f' is below `largest`
    constant = optimize.brentq(lambda c: REFERENCE @ ratio(c) - 1.0, low, low + 20.0, xtol=1e-14)
    expected = REFERENCE * ratio(constant)
    found = minimise(population(method(name, beta=BETA, **numbers), WINS))
    assert kl(found, expected) < 1e-10
    assert kl(expected, OPTIMUM) > 1e-3
    score = alignment.METHODS[name]["score"]
    slopes = completion_scores.SCORES[score](jnp.log(found), jnp.log(REFERENCE), jnp.ones(ARMS), beta=1.0, **numbers)
    assert np.ptp(REWARD / BETA - np.asarray(slopes)) < 1e-6


CYCLE = np.full((ARMS, ARMS), 0.5)  # three arms in a circle, and three that these beat
for i, j in ((0, 1), (1, 2), (2, 0)):
    CYCLE[i, j], CYCLE[j, i] = 0.9, 0.1
CYCLE[:3, 3:], CYCLE[3:, :3] = 0.8, 0.2
LAST = RNG.dirichlet(2.0 * np.ones(ARMS))


def test_inpo_is_a_step_of_mirror_descent():
    tau, eta = 0.1, 0.8
    of = games.game(CYCLE, REFERENCE, tau)
    last = jnp.log(LAST)
    loss = lambda log_pi, reference, pair: self_play.inpo(log_pi, reference, last[pair], BETTER_FIRST, eta, tau)
    found = minimise(population(loss, CYCLE, LAST))
    assert kl(found, np.asarray(games.self_play(of, LAST, 1.0 / eta))) < 1e-10


def test_dno_and_sppo_are_steps_against_the_last_iterate():
    """Regressions of win rates, without a reference other than the last iterate. SPPO's optimum among all functions has 1/2 where
    a law would have its normaliser."""
    eta, last, rates = 0.3, jnp.log(LAST), jnp.asarray(CYCLE @ LAST)
    loss = lambda log_pi, reference, pair: self_play.dno(log_pi, last[pair], rates[pair], eta)
    found = minimise(population(loss, CYCLE, LAST))
    assert kl(found, law(np.log(LAST) + np.asarray(rates) / eta)) < 1e-10

    free = lambda log_pi: (LAST * jax.vmap(self_play.sppo, (0, 0, 0, None))(log_pi, last, rates, 1.0 / eta)).sum()
    unnormalised = np.log(LAST) + (np.asarray(rates) - 0.5) / eta
    np.testing.assert_allclose(jax.grad(free)(unnormalised), np.zeros(ARMS), atol=1e-12)


def test_brain_rests_at_the_posterior_and_descends_to_it():
    """Each arm is a sample once: the estimate is then exact. Elsewhere its gradient is that of KL(posterior || pi)."""
    prior, good = jnp.log(REFERENCE), jnp.asarray(REWARD / BETA)
    uniform = jnp.full(ARMS, -np.log(ARMS))
    loss = lambda logits: listwise.posterior_matching(jax.nn.log_softmax(logits), prior, good, uniform)
    np.testing.assert_allclose(jax.grad(loss)(np.log(OPTIMUM)), np.zeros(ARMS), atol=1e-12)
    logits = RNG.normal(size=ARMS)
    exact = lambda logits: -(OPTIMUM * jax.nn.log_softmax(logits)).sum()
    np.testing.assert_allclose(jax.grad(loss)(logits), jax.grad(exact)(logits), atol=1e-12)


def test_a_bias_of_value_is_the_value():
    """The reward that a policy is optimal for, with mean 0 over calibration, has the optimal value -beta E log (pi / reference)."""
    calibration = RNG.dirichlet(np.ones(ARMS))
    reward = REWARD - calibration @ REWARD
    policy = law(np.log(REFERENCE) + reward / BETA)
    value = policy @ reward - BETA * kl(policy, REFERENCE)
    for kind, sign in (("optimistic", -1.0), ("pessimistic", 1.0)):
        bias = jax.vmap(self_play.value_bias, (0, 0, None, None, None))
        found = calibration @ bias(jnp.log(policy), jnp.log(REFERENCE), kind, 0.7, BETA)
        assert float(found) == pytest.approx(sign * 0.7 * value, rel=1e-12)


@pytest.mark.parametrize("kind", ["optimistic", "pessimistic"])
def test_vpo_moves_away_from_calibration_or_towards_it(kind):
    bias = lambda log_pi: self_play.value_bias(log_pi[0], jnp.array(0.0), kind, 0.01, BETA)
    dpo = population(method("dpo", beta=BETA), WINS)
    calibration = jnp.asarray(REFERENCE)

    def loss(logits):
        log_pi = jax.nn.log_softmax(logits)
        return dpo(logits) + calibration @ jax.vmap(bias)(log_pi[:, None])

    found = minimise(loss)
    likelihood = lambda policy: float(REFERENCE @ np.log(policy))
    assert (likelihood(found) < likelihood(OPTIMUM)) == (kind == "optimistic")


def test_nash_mds_gradient_is_that_of_the_game():
    """Of all completions of two tokens from three, enumerated: exact with log ratios to go, and not with each token's own."""
    tau = 0.3
    keys = jax.random.split(jax.random.key(0), 3)
    logits, reference = (
        dict(first=jax.random.normal(k, (3,)), then=jax.random.normal(k, (3, 3)) + 1.0) for k in keys[:2]
    )
    wins = jax.random.uniform(keys[2], (3, 3))  # P(completion better than the opponent), a number for each
    tokens = jnp.array([(i, j) for i in range(3) for j in range(3)])

    def log_probs(logits):
        first, then = jax.nn.log_softmax(logits["first"]), jax.nn.log_softmax(logits["then"])
        return jnp.stack([first[tokens[:, 0]], then[tokens[:, 0], tokens[:, 1]]], axis=1)

    references, wins = log_probs(reference), wins[tokens[:, 0], tokens[:, 1]]

    def objective(logits):
        log_pi = log_probs(logits).sum(-1)
        return -(jnp.exp(log_pi) * (wins - tau * (log_pi - references.sum(-1)))).sum()

    def expected(logits, credit):
        found = log_probs(logits)
        drawn = jax.lax.stop_gradient(jnp.exp(found.sum(-1)))
        losses = jax.vmap(self_play.nash_md, (0, 0, None, 0, None, None))
        return (drawn * losses(found, references, jnp.ones(2), wins, tau, credit)).sum()

    exact = jax.grad(objective)(logits)
    found = jax.grad(expected)(logits, "to_go")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), found, exact)
    token = jax.grad(expected)(logits, "token")
    assert np.abs(token["first"] - exact["first"]).max() > 0.01
    np.testing.assert_allclose(
        token["then"], exact["then"], atol=1e-12
    )  # the last token's own ratio is all that is to go


def test_vpos_optimism_must_be_weaker_than_the_judgements():
    """The arm that wins least often has only so much to keep it: beyond, the loss falls for ever as the arm vanishes."""
    dpo = population(method("dpo", beta=BETA), WINS)
    worst = int(np.argmin(REWARD))
    keeps = (
        BETA * 2.0 * REFERENCE[worst] * (WINS[worst] @ REFERENCE - 0.5 * REFERENCE[worst])
    )  # its slope once it always loses

    def slope(weight):
        loss = lambda logit: (
            dpo(jnp.log(REFERENCE).at[worst].set(logit))
            + weight * jnp.asarray(REFERENCE) @ jax.nn.log_softmax(jnp.log(REFERENCE).at[worst].set(logit))
        )
        return float(jax.grad(loss)(-80.0))  # as the arm's logit rises

    edge = keeps / REFERENCE[worst]
    assert slope(0.9 * edge) < 0.0 < slope(1.1 * edge)
