"""Importance sampling against sums written out in numpy, and against what must not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rljax import estimators

GAMMA = 0.9
LENGTHS = np.array([3, 1, 5, 2])
ESTIMATORS = (estimators.weighted_importance_sampling, estimators.weighted_per_decision)


def data(seed=0, width=5):
    """Reward, log ratio and mask [4, width]; NaN where there is no step."""
    rng = np.random.default_rng(seed)
    mask = np.arange(width) < LENGTHS[:, None]
    fill = lambda x: np.where(mask, x, np.nan).astype(np.float32)
    reward, log_ratio = rng.normal(size=(4, 5)), 0.5 * rng.normal(size=(4, 5))
    wide = lambda x: np.pad(x, ((0, 0), (0, width - 5)))
    return fill(wide(reward)), fill(wide(log_ratio)), mask


def by_episode(reward, log_ratio, mask):
    """Weighted importance sampling, written out."""
    above = below = 0.0
    for r, log, length in zip(np.float64(reward), np.float64(log_ratio), LENGTHS):
        weight = np.exp(log[:length]).prod()
        above += weight * sum(GAMMA**t * r[t] for t in range(length))
        below += weight
    return above / below


def per_decision(reward, log_ratio, mask):
    """Weights of each step apart, written out; an episode that ended keeps its weight."""
    total = 0.0
    for t in range(LENGTHS.max()):
        above = below = 0.0
        for r, log, length in zip(np.float64(reward), np.float64(log_ratio), LENGTHS):
            weight = np.exp(log[: min(t + 1, length)]).prod()
            above += weight * (r[t] if t < length else 0.0)
            below += weight
        total += GAMMA**t * above / below
    return total


@pytest.mark.parametrize("estimator, expected", zip(ESTIMATORS, (by_episode, per_decision)))
@pytest.mark.parametrize("seed", range(3))
def test_numbers(estimator, expected, seed):
    assert float(estimator(*data(seed), GAMMA)) == pytest.approx(expected(*data(seed)), rel=1e-5)
    assert by_episode(*data(seed)) != pytest.approx(per_decision(*data(seed)), rel=1e-2)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_equal_policies_give_the_mean_return_of_the_data(estimator):
    reward, log_ratio, mask = data()
    mean = np.mean([sum(GAMMA**t * r[t] for t in range(length)) for r, length in zip(reward, LENGTHS)])
    assert float(estimator(reward, 0.0 * log_ratio, mask, GAMMA)) == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_does_not_matter(estimator):
    reward, log_ratio, mask = data()
    value = float(estimator(reward, log_ratio, mask, GAMMA))
    same = lambda *arguments: float(estimator(*arguments, GAMMA)) == pytest.approx(value, rel=1e-5)
    assert same(*data(width=9))  # padding
    assert same(*(x[::-1] for x in (reward, log_ratio, mask)))  # the order of episodes
    assert same(*(np.concatenate([x, x]) for x in (reward, log_ratio, mask)))  # all of them twice
    assert same(
        reward, log_ratio + 120.0 * np.float32(np.arange(5) == 0), mask
    )  # a factor of all weights, beyond float32
    assert not same(reward, -log_ratio, mask)


def test_per_decision_does_not_weigh_a_reward_by_what_came_after():
    reward, log_ratio, mask = data()
    first = np.where(np.arange(5) == 0, reward, 0.0 * reward)
    later = log_ratio + np.float32(np.arange(5) > 0) * np.array([[1.0], [0.0], [-2.0], [3.0]], np.float32)
    changed = [float(f(first, later, mask, GAMMA) - f(first, log_ratio, mask, GAMMA)) for f in ESTIMATORS]
    assert abs(changed[0]) > 1e-2 and changed[1] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_converges_to_the_value_of_the_other_policy(estimator):
    """Two steps, actions of +1 with probability 0.5 in the data and 0.8 for the policy; the second pays the product of both."""
    rng = np.random.default_rng(0)
    action = rng.choice([-1, 1], (200_000, 2))
    reward = np.float32(np.stack([action[:, 0], action.prod(1)], 1))
    log_ratio = np.float32(np.log(np.where(action == 1, 0.8, 0.2) / 0.5))
    value = estimator(reward, log_ratio, np.ones_like(action, bool), GAMMA)
    assert float(value) == pytest.approx(0.6 + GAMMA * 0.36, abs=0.02)


def test_effective_sample_size():
    _, log_ratio, mask = data()
    assert float(estimators.effective_sample_size(0.0 * log_ratio, mask)) == pytest.approx(4.0)
    alone = log_ratio + np.array([[0.0], [0.0], [0.0], [50.0]], np.float32)
    assert float(estimators.effective_sample_size(alone, mask)) == pytest.approx(1.0)
    two = np.where(np.arange(4)[:, None] < 2, 0.0, -np.inf) * mask[:, :1] + np.zeros((4, 5))
    assert float(estimators.effective_sample_size(np.float32(two), mask)) == pytest.approx(2.0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_actions_that_the_policy_never_takes(estimator):
    """An episode with one of them does not count; with one in each episode, there is nothing to say."""
    reward, log_ratio, mask = data()
    never = np.where(np.arange(4)[:, None] == 2, log_ratio, -np.inf).astype(np.float32)
    alone = sum(GAMMA**t * reward[2, t] for t in range(5))
    assert float(estimator(reward, never, mask, GAMMA)) == pytest.approx(alone, rel=1e-5)
    assert np.isnan(estimator(reward, np.full_like(reward, -np.inf), mask, GAMMA))


def test_many_at_once():
    """Pure: vmapped over policies and jitted, with a traced discount."""
    reward, log_ratio, mask = data()
    run = jax.jit(jax.vmap(estimators.weighted_per_decision, (None, 0, None, None)))
    values = run(reward, jnp.stack([log_ratio, -log_ratio]), mask, GAMMA)
    expected = [per_decision(reward, x, mask) for x in (log_ratio, -log_ratio)]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_rank_correlation_with_and_without_ties(seed):
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(0, 4, 9).astype(np.float32), rng.normal(size=9).astype(np.float32))
    expected = scipy.stats.spearmanr(x, y).statistic
    assert float(estimators.rank_correlation(x, y)) == pytest.approx(expected, abs=1e-6)
    assert float(estimators.rank_correlation(y, np.exp(y))) == pytest.approx(1.0)
    assert float(estimators.rank_correlation(y, -y)) == pytest.approx(-1.0)
    assert np.isnan(estimators.rank_correlation(jnp.zeros(3), jnp.arange(3.0)))


def test_regret():
    truth = jnp.array([1.0, 5.0, 3.0])
    assert float(estimators.regret(jnp.array([0.0, 1.0, 2.0]), truth)) == 2.0
    assert float(estimators.regret(jnp.array([0.0, 7.0, 2.0]), truth)) == 0.0
