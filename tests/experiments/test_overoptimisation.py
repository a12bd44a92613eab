"""What the study of learned rewards measures: exact policies, by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.errors import UserError
from rljax.experiments.studies import overoptimisation as study

REWARD = jnp.array([0.3, -1.0, 2.0, 0.9, 0.1])
GOLD = jnp.array([1.0, 0.0, -2.0, 3.0, 0.5])


def test_best_of_n_by_enumeration():
    found = study.best_of(REWARD, GOLD, jnp.array([1.0, 2.0, 4.0, 200.0]))
    for i, n in enumerate((1, 2, 4)):
        best = [max(drawn, key=lambda y: float(REWARD[y])) for drawn in itertools.product(range(5), repeat=n)]
        prob = np.bincount(best, minlength=5) / 5**n
        np.testing.assert_allclose(found.gold[i], prob @ np.asarray(GOLD), rtol=1e-5)
        there = prob[prob > 0.0]
        np.testing.assert_allclose(found.kl[i], there @ np.log(5.0 * there), atol=1e-5)
    np.testing.assert_allclose([found.kl[3], found.gold[3]], [np.log(5.0), -2.0], rtol=1e-5)


def test_of_many_completions_the_divergence_is_that_of_the_formula():
    """log n - (n - 1) / n, where no two completions of a draw are one."""
    reward = jax.random.normal(jax.random.key(0), (20_000,))
    n = np.array([1.0, 2.0, 8.0, 32.0])
    found = study.best_of(reward, reward, jnp.asarray(n, jnp.float32))
    np.testing.assert_allclose(found.kl, np.log(n) - (n - 1.0) / n, atol=5e-3)
    assert (np.diff(found.gold) > 0.0).all()


def test_the_tilted_policy_by_hand():
    found = study.tilted(REWARD, GOLD, jnp.array([0.0, 1.5, 1e3]))
    weight = np.exp(1.5 * np.asarray(REWARD) / np.asarray(REWARD).std())
    prob = weight / weight.sum()
    np.testing.assert_allclose(found.gold, [2.5 / 5.0, prob @ np.asarray(GOLD), -2.0], rtol=1e-4)
    np.testing.assert_allclose(found.kl, [0.0, prob @ np.log(5.0 * prob), np.log(5.0)], rtol=1e-4, atol=1e-6)


def test_the_true_reward_is_of_neighbours():
    """Mean 0 and deviation 1; what the last token adds is told by the one before it."""
    gold = study.true_reward(jax.random.key(0), jnp.asarray(study.EVERY))
    assert abs(float(gold.mean())) < 1e-5 and abs(float(gold.std()) - 1.0) < 1e-4
    gold = np.asarray(gold).reshape(-1, study.SYMBOLS, study.SYMBOLS)
    added = gold - gold[:, :, :1]
    np.testing.assert_allclose(added, np.broadcast_to(added[:1], added.shape), atol=1e-5)
    assert np.abs(added[0, 0] - added[0, 1]).max() > 0.1


def test_what_is_learned_tells_the_true_reward_the_better_the_more_was_judged_right():
    """By networks that know all pairs it is climbed as by the truth itself; with half of the pairs turned round it is not."""
    every = jnp.asarray(study.EVERY)[:256]
    run = jax.jit(lambda flip: study.measured(jax.random.key(3), every, 1000, 3, flip, 0.5, jnp.array([0.0, 2.0])))
    right, turned = run(0.0), run(0.5)
    assert right["correlation"]["mean"] > 0.6 > 0.4 > abs(turned["correlation"]["mean"])
    assert right["correlation"]["mean"] > right["correlation"]["single"]
    for how in ("tilted", "best of n"):
        at_first, further = right[how]["mean"]
        assert abs(at_first - study.true_reward(jax.random.split(jax.random.key(3), 3)[0], every).mean()) < 0.05
        assert further > at_first + 0.5 and further > turned[how]["mean"][1]


@pytest.mark.parametrize("pairs, kls, sentence", [(310, [1.0], "multiple of 50"), (300, [1.0, 9.0], "from 0 to 8.32")])
def test_what_the_study_cannot_have_is_said(pairs, kls, sentence):
    with pytest.raises(UserError, match=sentence):
        study.check(pairs, kls)
