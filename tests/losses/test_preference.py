"""Likelihoods of judgements: against numbers of the CPL authors' functions, against definitions, and as distributions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.errors import UserError
from rljax.losses import preference as lib

BETTER = {0.0: [0, 1], 1.0: [1, 0], 0.5: [0, 0]}  # ranks of a pair by its label


@pytest.mark.parametrize("bias, expected", [(1.0, 28.28331), (0.75, 25.06603), (0.5, 21.85012)])
def test_pairs_are_the_authors_numbers(bias, expected):
    """github.com/jhejna/cpl, biased_bce_with_logits; 0.5 is a tie, and large scores are no matter."""
    first, second, label = [0.0, 1.0, -2.0, 50.0], [1.0, 0.0, 3.0, -60.0], [1.0, 0.0, 0.5, 1.0]
    scores, ranks = jnp.array([first, second]).T, jnp.array([BETTER[x] for x in label])
    np.testing.assert_allclose(lib.batch_loss("pairwise", scores, ranks, jnp.ones(4), bias), expected, rtol=1e-5)


@pytest.mark.parametrize("bias, expected", [(1.0, 0.243058), (0.5, 0.267149)])
def test_rankings_are_the_authors_numbers(bias, expected):
    """Their biased_bce_with_scores: all pairs of a ranking."""
    found = lib.decided(jnp.array([0.3, -1.0, 2.0, 0.5]), jnp.array([2, 3, 0, 1]), bias)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_pair_that_is_sure_still_counts():
    """Their ranking form leaves out pairs whose loss is exactly 0; the mean is then over fewer."""
    scores, ranks = jnp.array([200.0, 0.0, -1.0]), jnp.array([0, 1, 2])
    np.testing.assert_allclose(lib.decided(scores, ranks), np.log1p(np.exp(-1.0)) / 3, rtol=1e-5)


@pytest.mark.parametrize("loss, number", [(lib.davidson, 0.7), (lib.rao_kupper, 0.4)])
def test_better_worse_and_tie_sum_to_one(loss, number):
    for u, v in [(0.3, -1.1), (2.0, 2.0), (-8.0, 9.0)]:
        scores = jnp.array([u, v])
        shares = [float(jnp.exp(-loss(scores, jnp.array(ranks), number))) for ranks in BETTER.values()]
        assert sum(shares) == pytest.approx(1.0, abs=1e-5)
        if u == v:
            assert shares[0] == pytest.approx(shares[1])
    tie = lambda gap: float(loss(jnp.array([gap, 0.0]), jnp.array([0, 0]), number))
    assert tie(0.0) < tie(0.5) < tie(1.0)


def test_ties_by_their_definitions():
    u, v = 0.3, -1.1
    scores, tied = jnp.array([u, v]), jnp.array([0, 0])
    a, b = np.exp([u, v])
    expected = 0.7 * np.sqrt(a * b) / (a + b + 0.7 * np.sqrt(a * b))
    assert float(jnp.exp(-lib.davidson(scores, tied, 0.7))) == pytest.approx(expected, rel=1e-5)
    t = np.exp(0.4)
    expected = (t**2 - 1) * a * b / ((a + t * b) * (t * a + b))
    assert float(jnp.exp(-lib.rao_kupper(scores, tied, 0.4))) == pytest.approx(expected, rel=1e-5)
    assert float(jnp.exp(-lib.rao_kupper(scores, jnp.array([0, 1]), 0.4))) == pytest.approx(a / (a + t * b), rel=1e-5)


def test_hinges_are_content_with_a_margin():
    """Pairs in order: 0.3 ahead, 2 ahead and 1.7 ahead, of which the last two are enough; ties say nothing."""
    scores = jnp.array([2.0, 1.7, 0.0])
    np.testing.assert_allclose(lib.hinge(scores, jnp.array([0, 1, 2]), 1.0), 0.7 / 3, rtol=1e-5)
    np.testing.assert_allclose(lib.hinge(scores, jnp.array([2, 1, 0]), 1.0), (1.3 + 3.0 + 2.7) / 3, rtol=1e-5)
    np.testing.assert_allclose(lib.hinge(scores, jnp.array([1, 0, 0]), 0.5), (0.8 + 2.5) / 2, rtol=1e-5)
    assert lib.hinge(scores, jnp.zeros(3, jnp.int32), 1.0) == 0.0


def test_pairs_that_are_not_decided_cannot_overflow():
    """e^(worse - better) is infinite in the order that nobody judged."""
    loss = lambda scores: lib.over_decided(lambda u, v: jnp.exp(v - u), scores, jnp.array([1, 0, 1]))
    value, gradient = jax.value_and_grad(loss)(jnp.array([-200.0, 0.0, -1.0]))
    np.testing.assert_allclose(value, np.exp(-1.0) / 2, rtol=1e-5)
    np.testing.assert_allclose(gradient, [0.0, -np.exp(-1.0) / 2, np.exp(-1.0) / 2], rtol=1e-5)


def test_linear_is_a_share():
    found = jnp.exp(-lib.linear(jnp.array([3.0, 1.0]), jnp.array([0, 1]), 0.0))
    assert float(found) == pytest.approx(0.75)


def test_plackett_luce_is_a_distribution_over_orders_and_pairs_are_bradley_and_terrys():
    scores = jnp.array([0.4, -0.2, 1.3])
    total = sum(float(jnp.exp(-lib.plackett_luce(scores, jnp.array(p)))) for p in itertools.permutations(range(3)))
    assert total == pytest.approx(1.0, abs=1e-5)
    pair = scores[:2], jnp.array([1, 0])
    for bias in (1.0, 0.5):
        np.testing.assert_allclose(lib.plackett_luce(*pair, bias), lib.pairwise(*pair, bias), rtol=1e-6)


@pytest.mark.parametrize("name", lib.LIKELIHOODS)
def test_no_segment_is_better_by_its_place(name):
    scores, ranks = jnp.array([0.4, 0.2, 1.3]), jnp.array([1, 1, 0])
    order = jnp.array([2, 0, 1])
    loss = lib.LIKELIHOODS[name]
    np.testing.assert_allclose(loss(scores[order], ranks[order], 0.6), loss(scores, ranks, 0.6), rtol=1e-5)
    assert np.isfinite(jax.grad(loss)(scores, ranks, 0.6)).all()


def test_batches_are_weighted_and_agreement_leaves_ties_out():
    scores, ranks = jnp.array([[1.0, 0.0], [0.0, 1.0], [3.0, 5.0]]), jnp.array([[0, 1], [0, 1], [0, 0]])
    found = lib.batch_loss("pairwise", scores, ranks, jnp.array([2.0, 0.0, 0.0]), 1.0)
    np.testing.assert_allclose(found, 2.0 * np.log1p(np.exp(-1.0)) / 3, rtol=1e-5)
    assert float(lib.agreed(scores, ranks)["preference/agreement"]) == 0.5
    assert float(lib.agreed(scores[2:], ranks[2:])["preference/agreement"]) == 0.0


def test_signs():
    """At the reference a half; a good segment costs less the likelier it is, a bad one more; the reference is a constant."""
    loss = lambda ratio, good: float(lib.sign_loss(jnp.float32(ratio), jnp.float32(0.2), jnp.bool_(good), 3.0))
    assert loss(0.2, True) == loss(0.2, False) == pytest.approx(1.5)
    assert loss(1.2, True) == pytest.approx(3.0 / (1.0 + np.e), rel=1e-5) and loss(1.2, False) == pytest.approx(
        3.0 - loss(1.2, True), rel=1e-5
    )
    slope = jax.grad(lambda reference: lib.sign_loss(jnp.float32(1.0), reference, jnp.bool_(True)))(jnp.float32(0.2))
    assert slope == 0.0


def test_an_unknown_likelihood_is_one_sentence():
    with pytest.raises(UserError, match="There is no likelihood 'davison'; .*davidson"):
        lib.check("davison")
