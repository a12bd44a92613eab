"""Divergences: every claim about a gradient, by enumerating all sequences of a small autoregressive policy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.errors import UserError
from rljax.losses import divergence as lib
from rljax.losses import dual, paths, surrogate

V, T = 3, 3
SEQUENCES = np.array(list(itertools.product(range(V), repeat=T)))  # all of them
STATE = np.stack([np.zeros(V**T, int), 1 + SEQUENCES[:, 0], 1 + V + V * SEQUENCES[:, 0] + SEQUENCES[:, 1]], axis=1)
RNG = np.random.default_rng(2)
THETA, REFERENCE, BEHAVIOUR = RNG.normal(size=(3, 1 + V + V * V, V))


def token_log_probs(theta):
    """[sequences, T]."""
    return jax.nn.log_softmax(theta)[STATE, SEQUENCES]


def log_probs(theta):
    return token_log_probs(theta).sum(1)


def gradient(f):
    with jax.enable_x64(True):
        return np.asarray(jax.grad(f)(jnp.asarray(THETA)))


def expected(f):
    """The gradient of E_pi[f(log_prob [N, T], reference [N, T])], with the law that is sampled from held fixed."""
    law = np.exp(np.asarray(log_probs(jnp.asarray(THETA))))
    return gradient(lambda theta: (law * f(token_log_probs(theta), token_log_probs(jnp.asarray(REFERENCE)))).sum())


def total(estimator):
    """A sequence as one sample."""
    return lambda p, q: estimator(p.sum(1), q.sum(1))


def exact(f):
    """The gradient of f(pi, ref), of log-probs of all sequences."""
    return gradient(lambda theta: f(log_probs(theta), log_probs(jnp.asarray(REFERENCE))))


def kl(p, q):
    return (jnp.exp(p) * (p - q)).sum()


REVERSE, FORWARD = (lambda p, q: kl(p, q)), (lambda p, q: kl(q, p))


@pytest.fixture(autouse=True)
def in_float64(float64):
    yield


def reinforce(reward):
    """-E[R grad log pi], the reward [N] a constant of (log_prob, reference) of sequences."""

    def loss(p, q):
        return -jax.lax.stop_gradient(reward(p.sum(1), q.sum(1))) * p.sum(1)

    return loss


def test_sequences_sum_to_one():
    assert float(jnp.exp(log_probs(jnp.asarray(THETA))).sum()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    "name, truth",
    [
        ("k1", lambda p, q: 0.0 * kl(p, q)),
        ("k2", REVERSE),
        ("k3", FORWARD),
        ("absolute", lambda p, q: jnp.abs(jnp.exp(p) - jnp.exp(q)).sum()),
    ],
)
def test_gradients_in_the_loss(name, truth):
    np.testing.assert_allclose(expected(total(lib.ESTIMATORS[name])), exact(truth), atol=1e-12)
    assert np.abs(exact(REVERSE) - exact(FORWARD)).max() > 0.1  # they are told apart


@pytest.mark.parametrize("name, truth", [("k1", REVERSE), ("k3", REVERSE), ("rapo", FORWARD)])
@pytest.mark.parametrize("off_policy", [False, True])
def test_gradients_times_the_ratio(name, truth, off_policy):
    """Values as well, and for samples of another policy."""
    mu = jnp.asarray(BEHAVIOUR if off_policy else THETA)
    reference = log_probs(jnp.asarray(REFERENCE))

    def loss(theta):
        return (jnp.exp(log_probs(mu)) * lib.weighted_loss(name, log_probs(theta), reference, log_probs(mu))).sum()

    np.testing.assert_allclose(gradient(loss), exact(truth), atol=1e-12)
    np.testing.assert_allclose(loss(jnp.asarray(THETA)), truth(log_probs(jnp.asarray(THETA)), reference), rtol=1e-12)


def test_gradients_in_the_reward():
    as_reward = lambda p, q: lib.penalised("k1", jnp.zeros_like(p), p, q, 1.0)
    np.testing.assert_allclose(expected(reinforce(as_reward)), exact(REVERSE), atol=1e-12)
    for name in "k2", "k3", "absolute", "rapo":  # which is why they are refused there
        wrong = expected(reinforce(lambda p, q, name=name: -lib.ESTIMATORS[name](p, q)))
        assert min(np.abs(wrong - exact(truth)).max() for truth in (REVERSE, FORWARD)) > 0.01


def test_by_tokens_only_returns_to_go_are_exact():
    """k2 by tokens is the sum of the states' divergences without what an action does to those that follow."""

    def by_tokens(p, q):
        return lib.loss("k2", p, q).sum(1)

    def states(theta):
        law = np.exp(np.asarray(log_probs(jnp.asarray(THETA))))
        each = jax.vmap(lib.exact)(jax.nn.log_softmax(theta), jax.nn.log_softmax(jnp.asarray(REFERENCE)))
        return (law * each[STATE].sum(1)).sum()

    np.testing.assert_allclose(expected(by_tokens), gradient(states), atol=1e-12)
    assert np.abs(gradient(states) - exact(REVERSE)).max() > 0.01

    def by_returns(p, q):
        reward = lib.penalised("k1", jnp.zeros_like(p), p, q, 1.0)
        to_go = jax.vmap(surrogate.returns_to_go, (0, None))(reward, jnp.ones(T, bool))
        return -(jax.lax.stop_gradient(to_go) * p).sum(1)

    np.testing.assert_allclose(expected(by_returns), exact(REVERSE), atol=1e-12)


def test_values_of_estimators():
    p, q = log_probs(jnp.asarray(THETA)), log_probs(jnp.asarray(REFERENCE))
    mean = lambda x: float((jnp.exp(p) * x).sum())
    assert mean(lib.k1(p, q)) == pytest.approx(float(kl(p, q)))
    assert mean(lib.k3(p, q)) == pytest.approx(float(kl(p, q)))
    assert mean(lib.rapo(p, q)) == pytest.approx(float(kl(q, p)))
    d = np.array([-1.3, 0.0, 0.4])
    for name, value in {
        "k1": d,
        "k2": d**2 / 2,
        "k3": np.exp(-d) + d - 1,
        "absolute": abs(d),
        "rapo": np.exp(-d) * -d - np.exp(-d) + 1,
    }.items():
        np.testing.assert_allclose(lib.ESTIMATORS[name](jnp.asarray(d), jnp.zeros(3)), value, atol=1e-12)


def test_references_and_rewards_are_constants():
    x, y = jnp.array([-1.0, -2.0]), jnp.array([-1.5, -0.7])
    no_gradient = [
        (lambda q: lib.loss("k2", x, q), y),
        (lambda q: lib.weighted_loss("k1", x, q, x), y),
        (lambda mu: lib.weighted_loss("k1", x, y, mu), x),
        (lambda p: lib.penalised("k1", jnp.zeros(2), p, y, 1.0), x),
        (lambda p: lib.pseudo_reward("kl", p, y), x),
        (lambda q: lib.on_reference_samples("kl", x, q), y),
    ]
    for f, at in no_gradient:
        np.testing.assert_array_equal(jax.grad(lambda z, f=f: f(z).sum())(at), 0.0)


def test_estimators_far_away_are_finite():
    for name in lib.ESTIMATORS:
        for d in -500.0, 500.0:
            value, slope = jax.value_and_grad(lib.ESTIMATORS[name])(jnp.asarray(d), jnp.zeros(()))
            assert np.isfinite(value) and np.isfinite(slope)


def test_places_that_are_refused():
    x = jnp.zeros(2)
    with pytest.raises(UserError, match="regularises nothing"):
        lib.loss("k1", x, x)
    with pytest.raises(UserError, match="right there: k1"):
        lib.penalised("k3", x, x, x, 0.1)
    with pytest.raises(UserError, match="right there: k1, k3, rapo"):
        lib.weighted_loss("k2", x, x, x)
    with pytest.raises(UserError, match="nearest"):
        lib.check("k4", "loss")
    with pytest.raises(UserError, match="not in 'advantage'"):
        lib.check("k1", "advantage")
    with pytest.raises(UserError, match="nearest: kl"):
        lib.f_divergence("kll")


# --- Over the vocabulary.


def test_exact_divergence_of_a_state():
    p, q = np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.3, 0.1])
    assert float(lib.exact(jnp.log(p), jnp.log(q))) == pytest.approx((p * np.log(p / q)).sum())
    certain = jnp.log(jnp.array([1.0, 0.0, 0.0]))
    value, slope = jax.value_and_grad(lib.exact)(certain, jnp.log(q))
    assert float(value) == pytest.approx(-np.log(0.6)) and np.isfinite(slope).all()
    cut = jnp.log(jnp.array([0.5, 0.5, 0.0]))  # top-k on both sides
    assert float(lib.exact(cut, cut)) == 0.0


def test_generalised_jensen_shannon():
    student, teacher = np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.3, 0.1])
    of = lambda beta: float(lib.generalised_jensen_shannon(jnp.log(student), jnp.log(teacher), beta))
    divergence = lambda p, q: (p * np.log(p / q)).sum()
    assert of(0.0) == pytest.approx(divergence(teacher, student))
    assert of(1.0) == pytest.approx(divergence(student, teacher))
    for beta in 0.1, 0.5, 0.9:
        middle = beta * teacher + (1 - beta) * student
        assert of(beta) == pytest.approx(beta * divergence(teacher, middle) + (1 - beta) * divergence(student, middle))
    assert of(1e-6) / 1e-6 == pytest.approx(divergence(teacher, student), rel=1e-4)
    for beta in 0.0, 0.4, 1.0:
        slope = jax.jit(jax.grad(lib.generalised_jensen_shannon))(jnp.log(student), jnp.log(teacher), beta)
        assert np.isfinite(slope).all()


def test_tempered_references():
    q = np.array([0.6, 0.3, 0.1])
    np.testing.assert_allclose(np.exp(lib.tempered(jnp.log(q), 0.5)), np.sqrt(q) / np.sqrt(q).sum(), rtol=1e-9)
    np.testing.assert_allclose(np.exp(lib.tempered(jnp.log(q), 0.0)), 1 / 3, rtol=1e-9)


# --- f-divergences.

NUMPY = {
    "kl": lambda p, q: (q * np.log(q / p)).sum(),
    "reverse_kl": lambda p, q: (p * np.log(p / q)).sum(),
    "jensen_shannon": lambda p, q: (p * np.log(2 * p / (p + q))).sum() + (q * np.log(2 * q / (p + q))).sum(),
    "alpha": lambda p, q: ((p**0.3 * q**0.7).sum() - 1) / (0.3 * -0.7),
    "total_variation": lambda p, q: 0.5 * np.abs(p - q).sum(),
    "chi_square": lambda p, q: ((p - q) ** 2 / p).sum(),
    "reverse_chi_square": lambda p, q: ((p - q) ** 2 / q).sum(),
}


@pytest.mark.parametrize("name", lib.FDIVERGENCES)
def test_f_divergences(name):
    of = lib.f_divergence(name, 0.3)
    p, q = np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.3, 0.1])
    assert float((q * of.f(jnp.log(p / q))).sum()) == pytest.approx(NUMPY[name](p, q))
    for u in 0.3, 0.9, 1.4, 3.0:
        slope = (of.f(jnp.log(u + 1e-6)) - of.f(jnp.log(u - 1e-6))) / 2e-6
        assert float(of.slope(jnp.log(u))) == pytest.approx(float(slope), rel=1e-6)
        if of.inverse is not None:
            assert float(jnp.exp(of.inverse(of.slope(jnp.log(u))))) == pytest.approx(u)
    assert float(of.f(jnp.zeros(()))) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", lib.FDIVERGENCES)
def test_pseudo_rewards_descend_their_divergence(name):
    """f-DPG: REINFORCE with them has the divergence's own gradient."""
    of = lib.f_divergence(name, 0.3)
    truth = exact(lambda p, q: (jnp.exp(q) * of.f(p - q)).sum())
    found = expected(reinforce(lambda p, q: lib.pseudo_reward(name, p, q, 0.3)))
    np.testing.assert_allclose(found, truth, atol=1e-11)


@pytest.mark.parametrize("name", lib.FDIVERGENCES)
def test_exact_descent_comes_to_the_target(name):
    """Of a softmax over five completions, one of them nearly out of the policy's sight."""
    target = jnp.log(jnp.array([0.05, 0.4, 0.25, 0.2, 0.1]))

    def loss(theta):
        log_prob = jax.nn.log_softmax(theta)
        reward = lib.pseudo_reward(name, log_prob, target, 0.3)
        return -(jax.lax.stop_gradient(jnp.exp(log_prob)) * reward * log_prob).sum()

    size = lambda i: 0.5 * 0.997**i
    step = lambda theta, i: (theta - size(i) * jax.grad(loss)(theta), None)
    begun = jnp.array([1.0, 0.5, 0.0, 0.0, -3.0])
    theta = jax.lax.scan(step, begun, jnp.arange(3000))[0]
    np.testing.assert_allclose(jax.nn.softmax(theta), jnp.exp(target), atol=2e-3)


def test_the_partition_function_from_samples():
    """Unbiased, whatever is sampled from: by all pairs of samples. Where nothing has a chance there is none of it."""
    target = 3.0 * np.exp(np.asarray(log_probs(jnp.asarray(REFERENCE)))) * (SEQUENCES[:, 0] > 0)  # not normalised
    policy = np.asarray(log_probs(jnp.asarray(THETA)))
    some = np.array(list(itertools.product(range(V**T), repeat=2)))
    with np.errstate(divide="ignore"):
        log_target = jnp.asarray(np.log(target))
    found = jax.vmap(lib.log_partition)(log_target[some], jnp.asarray(policy)[some])
    assert float((np.exp(policy[some].sum(1)) * jnp.exp(found)).sum()) == pytest.approx(target.sum(), rel=1e-12)
    assert found[0] == -jnp.inf
    assert float(lib.log_partition(log_target[-2:], log_target[-2:] - 0.3)) == pytest.approx(0.3)


@pytest.mark.parametrize("name", lib.FDIVERGENCES)
def test_what_the_target_would_not_write(name):
    """Costs f' at infinity, by a bound on log ratios; `UNBOUNDED` says where there is none."""
    found = float(-lib.pseudo_reward(name, jnp.array(-1.0), jnp.array(-jnp.inf), 0.3))
    limit = dict(kl=0.0, jensen_shannon=np.log(2.0), alpha=1 / 0.7, total_variation=0.5, chi_square=1.0)
    assert set(limit) | set(lib.UNBOUNDED) == set(lib.FDIVERGENCES)
    assert found == pytest.approx(limit[name], abs=1e-5) if name in limit else found > 20.0


@pytest.mark.parametrize("name", lib.FDIVERGENCES)
def test_samples_of_the_reference_alone(name):
    of = lib.f_divergence(name, 0.3)
    truth = exact(lambda p, q: (jnp.exp(q) * of.f(p - q)).sum())
    reference = log_probs(jnp.asarray(REFERENCE))
    each = lambda theta: lib.on_reference_samples(name, log_probs(theta), reference, 0.3)
    np.testing.assert_allclose(gradient(lambda theta: (jnp.exp(reference) * each(theta)).sum()), truth, atol=1e-11)
    assert float(each(jnp.asarray(THETA)).min()) >= -1e-12


def test_stored_samples_by_token_are_the_forward_kl_of_sequences():
    """DPH-RL's "kl" token by token: u - 1 - log u."""
    reference = token_log_probs(jnp.asarray(REFERENCE))
    law = jnp.exp(reference.sum(1))
    found = gradient(
        lambda theta: (law[:, None] * lib.on_reference_samples("kl", token_log_probs(theta), reference)).sum()
    )
    np.testing.assert_allclose(found, exact(FORWARD), atol=1e-12)
    u = np.array([0.4, 1.0, 2.0])
    np.testing.assert_allclose(lib.on_reference_samples("kl", jnp.log(u), jnp.zeros(3)), u - 1 - np.log(u), atol=1e-12)
    js = u * np.log(u) - (u + 1) * np.log((u + 1) / 2)
    np.testing.assert_allclose(lib.on_reference_samples("jensen_shannon", jnp.log(u), jnp.zeros(3)), js, atol=1e-12)
    a = 0.2  # theirs
    alpha = (u ** (1 - a) - (1 - a) * u - a) / (a * (a - 1))
    np.testing.assert_allclose(lib.on_reference_samples("alpha", jnp.log(u), jnp.zeros(3), 1 - a), alpha, atol=1e-12)


def test_the_same_divergences_as_elsewhere():
    """dual's weight is the inverse slope, paths' scores are f - u f', up to a constant."""
    y = jnp.array([-0.5, 0.0, 1.3])
    found = jnp.exp(lib.f_divergence("reverse_chi_square").inverse(y))
    np.testing.assert_allclose(found, dual.chi_square_weight(y, jnp.ones(3)), rtol=1e-9)
    t = jnp.linspace(-2.0, 2.0, 5)
    for here, there in [
        ("reverse_kl", paths.forward_kl),
        ("kl", paths.reverse_kl),
        ("jensen_shannon", paths.jensen_shannon),
    ]:
        of = lib.f_divergence(here)
        difference = of.f(t) - jnp.exp(t) * of.slope(t) - jax.vmap(there)(t)
        np.testing.assert_allclose(difference, difference[0], atol=1e-9)
