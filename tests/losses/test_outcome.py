"""Advantages of groups: by numpy, and by the mean gradient over all groups that a small bandit can give."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rljax.errors import UserError
from rljax.losses import outcome as lib

RNG = np.random.default_rng(0)
REWARD = RNG.normal(size=(3, 4))
LENGTH = RNG.integers(1, 9, size=(3, 4)).astype(float)
METRIC = RNG.uniform(size=(3, 4))


def mine(name, reward=REWARD, **options):
    samples = lib.Samples(jnp.asarray(reward), jnp.asarray(LENGTH), jnp.asarray(METRIC))
    return np.asarray(lib.advantages(name, samples, lib.Options(**options)))


def by_hand(name, r, q, i):
    """Of one sample, with sums written out."""
    group, others, k = r[q], np.delete(r[q], i), r.shape[1]
    return {
        "reinforce": group[i],
        "batch_baseline": group[i] - r.sum() / r.size,
        "dr_grpo": group[i] - sum(group) / k,
        "grpo": (group[i] - group.mean()) / (group.std(ddof=1) + 1e-6),
        "grpo_batch": (group[i] - group.mean()) / (r.std(ddof=1) + 1e-6),
        "rloo": group[i] - others.mean(),
        "opo": group[i] - (LENGTH[q] * group).sum() / LENGTH[q].sum(),
        "best_minus_second": max(group[i] - max(others), 0.0),
        "pass_at_k": np.mean([max(group[i] - x, 0.0) for x in others]),
        "max_rl": (group[i] - group.mean()) / (group.mean() + 1e-6),
        "best": k * float(group[i] == group.max()),
        "best_and_worst": k * float(group[i] == group.max()) - k * float(group[i] == group.min()),
        "gpg": (group[i] - group.mean()) * r.size / np.count_nonzero(r),
    }[name]


NAMES = "reinforce batch_baseline dr_grpo grpo grpo_batch rloo opo best_minus_second pass_at_k max_rl best best_and_worst gpg"


@pytest.mark.parametrize("name", NAMES.split())
def test_by_hand(name, float64):
    expected = [[by_hand(name, REWARD, q, i) for i in range(4)] for q in range(3)]
    np.testing.assert_allclose(mine(name), expected, rtol=1e-9, atol=1e-12)


def test_reinforce_plus_plus_whitens_tokens(float64):
    """Each sample stands as often as it has tokens."""
    for name, x in [
        ("reinforce_plus_plus", REWARD),
        ("reinforce_plus_plus_baseline", REWARD - REWARD.mean(1, keepdims=True)),
    ]:
        tokens = np.repeat(x.reshape(-1), LENGTH.reshape(-1).astype(int))
        expected = (x - tokens.mean()) / np.sqrt(tokens.var(ddof=1) + 1e-8)
        np.testing.assert_allclose(mine(name), expected, rtol=1e-9)


def test_gpg_counts_rewards_or_groups(float64):
    reward = np.array([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]])
    deviation = reward - reward.mean(1, keepdims=True)
    np.testing.assert_allclose(lib.gpg(jnp.asarray(reward)), deviation * 16 / 7)
    np.testing.assert_allclose(lib.gpg_mixed(jnp.asarray(reward)), deviation * 4 / 2)


@pytest.mark.parametrize("tilt", [1.0, 0.6])
def test_canon_by_halves(tilt, float64):
    share = 0.3
    expected = np.zeros_like(REWARD)
    for q in range(3):
        order = np.argsort(METRIC[q])
        low, high = order[:2], order[2:]
        means = REWARD[q, low].mean(), REWARD[q, high].mean()
        for i in high:
            expected[q, i] = share * (tilt * REWARD[q, i] - means[0]) + (1 - share) * (REWARD[q, i] - means[1])
        for i in low:
            expected[q, i] = share * (REWARD[q, i] - tilt * means[1]) + (1 - share) * (REWARD[q, i] - means[0])
    np.testing.assert_allclose(mine("canon", share=share, tilt=tilt), expected, rtol=1e-9)


def test_canon_by_half_is_the_mean_baseline(float64):
    np.testing.assert_allclose(mine("canon", share=0.5), mine("dr_grpo"), rtol=1e-9)


def test_bnpo_is_a_ratio_to_a_beta_density(float64):
    reward = (RNG.uniform(size=(6, 8)) < np.linspace(0.1, 0.9, 6)[:, None]).astype(float)
    p = reward.mean(1)
    nu = p.mean() * (1 - p.mean()) / p.var(ddof=1) - 1
    alpha, beta = max(1, 1 + p.mean() * nu / 3), max(1, 1 + (1 - p.mean()) * nu / 3)
    assert min(alpha, beta) > 1.0
    np.testing.assert_allclose(lib.beta_parameters(jnp.asarray(reward)), (alpha, beta), rtol=1e-9)
    with np.errstate(divide="ignore"):
        scale = np.minimum(1 / stats.beta(alpha, beta).pdf(p), 1e6)
    expected = np.where(reward == p[:, None], 0.0, (reward - p[:, None]) * scale[:, None])
    np.testing.assert_allclose(lib.bnpo(jnp.asarray(reward)), expected, rtol=1e-8)


def test_beta_laws_that_are_other_estimators(float64):
    reward = jnp.array([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]])
    flat = lib.beta_normalised(reward, 1.0, 1.0)
    np.testing.assert_allclose(flat, lib.mean_baseline(reward), rtol=1e-12)
    grpo = lib.grpo(reward, ddof=0, eps=0.0)
    np.testing.assert_allclose(lib.beta_normalised(reward, 1.5, 1.5), grpo * np.pi / 8, rtol=1e-9)


@pytest.mark.parametrize("shares", [[0.5] * 4, [0.0] * 4, [1.0] * 4, [0.0, 1.0, 0.0, 1.0]])
def test_bnpo_of_prompts_that_are_all_alike_is_finite(shares):
    reward = (np.arange(4) < 4 * np.array(shares)[:, None]).astype(np.float32)
    found = np.asarray(lib.bnpo(jnp.asarray(reward)))
    assert np.isfinite(found).all()
    assert (found[(reward == reward[:, :1]).all(1)] == 0.0).all()


def test_ensembles(float64):
    rewards = RNG.normal(size=(5, 2, 3))
    np.testing.assert_allclose(lib.worst_case(jnp.asarray(rewards)), rewards.min(0))
    for ddof in 0, 1:
        found = lib.uncertainty_weighted(jnp.asarray(rewards), 0.5, ddof)
        np.testing.assert_allclose(found, rewards.mean(0) - 0.5 * np.var(rewards, axis=0, ddof=ddof), rtol=1e-9)


def test_d3s_keeps_what_varies_most(float64):
    """Against all choices of so many samples of the batch; the number is traced."""
    advantage = RNG.normal(size=(2, 4)) + 0.3
    kept = jax.jit(lib.most_varied)
    for count in 2, 3, 5, 8:
        found = np.asarray(kept(jnp.asarray(advantage), count))
        assert found.sum() == count
        largest = max(np.var(x) for x in itertools.combinations(advantage.reshape(-1), count))
        assert np.var(advantage[found]) == pytest.approx(largest, rel=1e-9)
    found = mine("d3s", kept=5 / REWARD.size)
    np.testing.assert_allclose(found, np.where(lib.most_varied(jnp.asarray(mine("grpo")), 5), mine("grpo"), 0.0))


def test_pass_at_k_is_that_of_all_subsets():
    correct = RNG.uniform(size=(6, 5)) < np.array([0.0, 0.2, 0.5, 0.5, 0.8, 1.0])[:, None]
    for k in 1, 2, 4, 5:
        expected = [np.mean([any(x) for x in itertools.combinations(row, k)]) for row in correct]
        np.testing.assert_allclose(lib.pass_at_k(jnp.asarray(correct), k), expected, atol=1e-6)
    assert lib.pass_at_k(jnp.asarray(correct), 2).shape == (6,)


def test_the_best_of_some_is_that_of_all_subsets(float64):
    for k in 1, 2, 3, 4:
        expected = [np.mean([max(x) for x in itertools.combinations(row, k)]) for row in REWARD]
        np.testing.assert_allclose(lib.best_of(jnp.asarray(REWARD), k), expected, rtol=1e-12)
    correct = RNG.uniform(size=(6, 5)) < 0.4
    for k in 1, 3:
        found = lib.best_of(jnp.asarray(correct, float), k)
        np.testing.assert_allclose(found, lib.pass_at_k(jnp.asarray(correct), k), atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_best_of_some_is_unbiased_for_the_best_of_new_ones(k, float64):
    """By all outcomes of five samples: of rewards 0 and 1 it is 1 - (1 - q)^k in the mean, of three rewards what their law says."""
    q, law = 0.3, np.array([0.5, 0.2, 0.3])
    paid = np.array([0.0, 0.4, 1.0])
    for chance, worth, expected in [
        (np.array([1 - q, q]), np.array([0.0, 1.0]), 1 - (1 - q) ** k),
        (law, paid, paid @ np.diff(np.cumsum(law) ** k, prepend=0.0)),
    ]:
        all_of = np.array(list(itertools.product(range(len(chance)), repeat=5)))
        found = np.asarray(lib.best_of(jnp.asarray(worth[all_of]), k))
        assert chance[all_of].prod(1) @ found == pytest.approx(expected, rel=1e-9)


# --- Exact means over all groups.


def mean_gradient(estimator, theta, paid, num_samples):
    """E[1/K sum_i A_i grad log pi(y_i)] over all groups of K arms."""
    pi = np.exp(theta) / np.exp(theta).sum()
    groups = np.array(list(itertools.product(range(len(pi)), repeat=num_samples)))
    advantage = np.asarray(estimator(jnp.asarray(paid[groups])))
    score = np.eye(len(pi))[groups] - pi  # [groups, K, arms]
    return (pi[groups].prod(1)[:, None] * (advantage[..., None] * score).mean(1)).sum(0)


def gradient_of(value, theta, step=1e-6):
    directions = step * np.eye(len(theta))
    softmax = lambda x: np.exp(x) / np.exp(x).sum()
    return np.array([(value(softmax(theta + d)) - value(softmax(theta - d))) / (2 * step) for d in directions])


THETA, PAID, K = np.array([0.3, -0.7, 0.9]), np.array([1.0, 2.5, -0.4]), 4


def best_of(k):
    """E[max of k] of arms drawn by pi."""
    arms = np.array(list(itertools.product(range(3), repeat=k)))
    return lambda pi: (pi[arms].prod(1) * PAID[arms].max(1)).sum()


@pytest.mark.parametrize("estimator, share", [(lambda r: r, 1.0), (lib.rloo, 1.0), (lib.mean_baseline, (K - 1) / K)])
def test_gradients_of_the_mean(estimator, share, float64):
    expected = share * gradient_of(lambda pi: pi @ PAID, THETA)
    np.testing.assert_allclose(mean_gradient(estimator, THETA, PAID, K), expected, atol=1e-8)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_gradients_of_the_best_of_k(k, float64):
    found = mean_gradient(lambda r: lib.pass_at_k_gain(r, k), THETA, PAID, K)
    np.testing.assert_allclose(found, gradient_of(best_of(k), THETA) / k, atol=1e-8)


def test_canon_has_the_gradient_of_the_mean_where_metrics_say_nothing(float64):
    """Metrics that are the position in the group: comparing with independent samples is unbiased; own halves lose 1 of K / 2."""
    metric = lambda r: jnp.broadcast_to(jnp.arange(K, dtype=r.dtype), r.shape)
    expected = gradient_of(lambda pi: pi @ PAID, THETA)
    for share, scale in [(1.0, 1.0), (0.0, 0.5), (0.5, 0.75)]:
        found = mean_gradient(lambda r, share=share: lib.canon(r, metric(r), share), THETA, PAID, K)
        np.testing.assert_allclose(found, scale * expected, atol=1e-8)


def weight(estimator, p, n):
    """E[1/N sum_i A_i (r_i - p)] / (p (1 - p)): how many times the gradient of p, by the number of successes."""
    successes = np.arange(n + 1)
    advantage = np.asarray(estimator(jnp.asarray((np.arange(n) < successes[:, None]).astype(float))))
    chance = np.array([math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in successes])
    score = (np.arange(n) < successes[:, None]) - p
    return (chance * (advantage * score).mean(1)).sum() / (p * (1 - p))


def maclaurin(p, order):
    """d/dp of sum_k pass@k / k."""
    return sum((1 - p) ** (k - 1) for k in range(1, order + 1))


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9])
def test_the_order_of_max_rl(p, float64):
    """Released: one less than the samples. Its mean of the successes' scores, and the baseline of all groups, are of full order."""
    n = 8
    successes_mean = lambda r: n * r / jnp.maximum(r.sum(1, keepdims=True), 1.0)
    assert weight(lambda r: lib.max_rl(r, 1e-12), p, n) == pytest.approx(maclaurin(p, n - 1), rel=1e-9)
    assert weight(lib.max_rl_full, p, n) == pytest.approx(maclaurin(p, n), rel=1e-9)
    assert weight(successes_mean, p, n) == pytest.approx(maclaurin(p, n), rel=1e-9)


def test_weights_of_a_hard_prompt(float64):
    assert weight(lambda r: lib.max_rl(r), 0.01, 8) == pytest.approx(6.7935, abs=1e-4)
    assert weight(lib.max_rl_full, 0.01, 8) == pytest.approx(7.7255, abs=1e-4)
    assert weight(lib.rloo, 0.01, 8) == pytest.approx(1.0, rel=1e-9)
    assert weight(lib.grpo, 0.01, 8) == pytest.approx(2.44, abs=5e-3)
    assert weight(lambda r: lib.grpo(r, 0), 0.5, 400) == pytest.approx(
        2.0, rel=1e-2
    )  # many samples: 1 / sqrt(p (1 - p))


# --- Traps.

NOT_OF_THE_GROUP = {"reinforce", "max_rl_full", "best"}


@jax.jit
def every(reward, theta):
    """(advantages of every estimator that is to be silent, their gradients through rewards and policy)."""
    names = [name for name in lib.ADVANTAGES if name not in NOT_OF_THE_GROUP]
    position = jnp.arange(float(reward.size)).reshape(reward.shape)
    given = lambda r: lib.Samples(r, jnp.ones_like(r), position)
    found = lambda r: jnp.stack([lib.advantages(name, given(r), lib.Options(kept=0.5)) for name in names])
    return found(reward), jax.grad(lambda r, theta: (found(r) * theta).sum(), (0, 1))(reward, theta)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_equal_rewards_are_no_signal(value):
    """Exactly 0: 0.1 less the mean of six of them is not 0 in float32, and a standard deviation makes much of it."""
    found, gradients = every(jnp.full((2, 6), value), jnp.ones((2, 6)))
    assert len(found) == len(lib.ADVANTAGES) - 3
    for x in (found, *gradients):
        np.testing.assert_array_equal(x, 0.0)


def test_without_that_care_rounding_is_a_signal():
    """What the test above would find: GRPO as it is written down."""
    reward = jnp.full((1, 6), 0.1)
    plain = (reward - reward.mean(1, keepdims=True)) / (reward.std(1, ddof=1, keepdims=True) + 1e-6)
    assert np.abs(plain).max() > 1e-3


def test_deviations_have_finite_gradients_of_equal_rewards():
    gradient = jax.grad(lambda r: lib.grpo(r).sum())(jnp.ones((2, 4)))
    assert np.isfinite(np.asarray(gradient)).all()


def test_a_group_without_success_is_pushed_down_by_the_full_order_alone():
    reward = jnp.zeros((1, 4))
    assert (np.asarray(lib.max_rl(reward)) == 0.0).all()
    assert (np.asarray(lib.max_rl_full(reward)) == -1.0).all()


@pytest.mark.parametrize("name", ["rloo", "dr_grpo", "grpo", "max_rl", "canon", "gpg", "opo", "best_and_worst", "bnpo"])
def test_one_sample_is_no_group(name):
    with pytest.raises(UserError, match="2 samples"):
        lib.advantages(name, lib.Samples(jnp.ones((3, 1)), jnp.ones((3, 1)), jnp.ones((3, 1))))


def test_refusals():
    two = lib.Samples(jnp.ones((2, 4)))
    with pytest.raises(UserError, match="nearest: grpo"):
        lib.check("gpro")
    with pytest.raises(UserError, match="reads the length"):
        lib.advantages("opo", two)
    with pytest.raises(UserError, match="reads the metric"):
        lib.advantages("canon", two)
    with pytest.raises(UserError, match="even number"):
        lib.canon(jnp.ones((2, 3)), jnp.ones((2, 3)))
    with pytest.raises(UserError, match="between 2 and the 4"):
        lib.advantages("pass_at_k", two, lib.Options(k=5))
    with pytest.raises(UserError, match="two prompts"):
        lib.bnpo(jnp.ones((1, 4)))
    with pytest.raises(UserError, match="2 members"):
        lib.uncertainty_weighted(jnp.ones((1, 2, 3)), 0.5)
    with pytest.raises(UserError, match="between 1 and 3"):
        lib.pass_at_k(jnp.ones((2, 3), bool), 4)
    with pytest.raises(UserError, match="The best of 4 cannot be told from 3 samples"):
        lib.best_of(jnp.ones((2, 3)), 4)


def test_advantages_are_constants():
    """Through rewards that depend on the policy (a penalty in them) nothing flows back."""
    reward = jnp.asarray(RNG.uniform(size=(2, 6)), jnp.float32)
    found, (through_reward, through_policy) = every(reward, jnp.ones((2, 6)))
    assert (np.abs(found).max((1, 2)) > 0.0).all()
    np.testing.assert_array_equal(through_reward, 0.0)
    np.testing.assert_allclose(through_policy, found.sum(0), rtol=1e-4, atol=1e-4)


# --- Filters.


def test_filters_by_hand():
    """The best, the worst, and evenly any that is not the best; of equal ones some."""
    reward = jnp.float32([[0.1, 0.9, -0.3, 0.5], [2.0, 1.0, 4.0, 3.0], [1.0, 1.0, 1.0, 1.0]])
    keys = jax.random.split(jax.random.key(0), 3000)
    draw = lambda name: np.asarray(jax.jit(jax.vmap(lambda key: lib.filtered(name, reward, key)))(keys))
    assert (draw("best")[:, :2, 0] == [1, 2]).all()
    assert (draw("best_worst")[:, :2] == [[1, 2], [2, 1]]).all()
    both = draw("best_random")
    assert (both[..., 0] == draw("best")[..., 0]).all() and (both[..., 0] != both[..., 1]).all()
    share = (both[..., 1:] == np.arange(4)).mean(0)
    np.testing.assert_allclose(share[0], [1 / 3, 0, 1 / 3, 1 / 3], atol=0.04)
    np.testing.assert_allclose(share[1], [1 / 3, 1 / 3, 0, 1 / 3], atol=0.04)
