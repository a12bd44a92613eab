"""Laws of returns: projections, losses, distances and preferences against independent numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rljax.losses import distributional as losses
from rljax.networks import heads

RNG = np.random.default_rng(0)


def law(size, rng=RNG):
    """Random atoms and probabilities."""
    return jnp.array(rng.normal(size=size), jnp.float32), jnp.array(rng.dirichlet(np.ones(size)), jnp.float32)


def test_projection_by_hand():
    support = jnp.array([-1.0, 0.0, 1.0, 2.0])
    # 0.25 goes to 0 and 1 as 3 to 1; -3 and 7 to the ends; 2 is on the support
    probs = losses.project(jnp.array([0.25, -3.0, 7.0, 2.0]), jnp.array([0.4, 0.1, 0.2, 0.3]), support)
    np.testing.assert_allclose(probs, [0.1, 0.3, 0.1, 0.5], rtol=1e-6)


def test_projection_keeps_mass_and_mean():
    atoms, probs = law(7)
    support = jnp.linspace(-5.0, 5.0, 23)
    projected = losses.project(atoms, probs, support)
    np.testing.assert_allclose(projected.sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(projected @ support, atoms @ probs, atol=1e-6)


def test_bellman_stops_after_a_termination_and_passes_no_gradient():
    one, half, atoms = jnp.float32(1.0), jnp.float32(0.5), jnp.array([2.0, 4.0])
    np.testing.assert_allclose(losses.bellman(one, half, atoms), [2.0, 3.0])
    np.testing.assert_allclose(losses.bellman(one, jnp.float32(0.0), atoms), [1.0, 1.0])
    assert jax.grad(lambda x: losses.bellman(one, half, x).sum())(atoms).sum() == 0.0


def test_categorical_loss_is_the_divergence():
    logits, (_, target) = jnp.array(RNG.normal(size=5), jnp.float32), law(5)
    target = target.at[2].set(0.0) / (1.0 - target[2])
    expected = scipy.stats.entropy(np.asarray(target), scipy.special.softmax(np.asarray(logits)))
    np.testing.assert_allclose(losses.categorical_loss(logits, target), expected, rtol=1e-5)
    slope = jax.grad(losses.categorical_loss)(logits, target)  # that of the cross-entropy
    np.testing.assert_allclose(slope, jax.nn.softmax(logits) - target, atol=1e-6)


def test_dominance_by_hand():
    """On three atoms: below the first is better by 0.1 at one atom than the second, and nowhere worse."""
    probs = jnp.array([[0.2, 0.3, 0.5], [0.3, 0.2, 0.5], [0.1, 0.5, 0.4]])
    below = np.cumsum(probs, axis=1)
    np.testing.assert_allclose(losses.dominance(probs[:2], jnp.int32(0)), 0.0, atol=1e-7)
    np.testing.assert_allclose(losses.dominance(probs[:2], jnp.int32(1)), 0.1 / 2, rtol=1e-5)
    expected = np.maximum(below[0] - below, 0.0).sum() / 3  # 0.1 at the first atom, of the third law alone
    np.testing.assert_allclose([expected, losses.dominance(probs, jnp.int32(0))], 0.1 / 3, rtol=1e-5)


@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0])
def test_quantile_loss_by_loops(kappa):
    quantiles, levels = np.array([-0.5, 0.1, 2.0]), np.array([0.1, 0.5, 0.8])
    atoms, probs = law(4)
    expected = 0.0
    for quantile, level in zip(quantiles, levels):
        for atom, prob in zip(np.asarray(atoms), np.asarray(probs)):
            u = atom - quantile
            huber = (
                abs(u) if kappa == 0 else (0.5 * u**2 if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)) / kappa
            )
            expected += prob * abs(level - (u < 0)) * huber
    got = losses.quantile_loss(jnp.float32(quantiles), jnp.float32(levels), atoms, probs, kappa)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_quantile_and_expectile_losses_are_least_at_the_law_s_own():
    samples = jnp.array(np.sort(RNG.gamma(2.0, size=999)), jnp.float32)
    even, level = jnp.full(999, 1 / 999), jnp.array([0.3])
    slope = jax.grad(losses.quantile_loss)
    quantile = jnp.quantile(samples, 0.3)
    assert (
        slope(quantile[None] - 0.02, level, samples, even, 0.0)
        < 0
        < slope(quantile[None] + 0.02, level, samples, even, 0.0)
    )
    slope = jax.grad(losses.expectile_loss)
    expectile = jnp.float32(scipy.stats.expectile(np.asarray(samples), 0.3))
    np.testing.assert_allclose(slope(expectile[None], level, samples, even), 0.0, atol=1e-5)


def test_fraction_loss_descends_the_wasserstein_distance():
    """Of an exponential law, whose quantile function is -log(1 - u), cut off at 0.999."""
    quantile = lambda u: -jnp.log1p(-0.999 * u)
    between = lambda x: jnp.concatenate([jnp.zeros(1), x, jnp.ones(1)])

    def distance(levels):
        edges = np.asarray(between(levels), np.float64)
        total = 0.0
        for low, high in zip(edges[:-1], edges[1:]):
            u = np.linspace(low, high, 20_001)
            total += np.trapezoid(np.abs(-np.log1p(-0.999 * u) + np.log1p(-0.999 * (low + high) / 2)), u)
        return total

    levels = np.array([0.2, 0.5, 0.9])
    edges = between(jnp.array(levels))
    middle = (edges[1:] + edges[:-1]) / 2
    got = jax.grad(losses.fraction_loss)(jnp.float32(levels), quantile(jnp.float32(levels)), quantile(middle))
    numeric = [(distance(levels + 1e-4 * step) - distance(levels - 1e-4 * step)) / 2e-4 for step in np.eye(3)]
    np.testing.assert_allclose(got, numeric, rtol=1e-3)


def test_mmd_by_loops():
    x, y, probs = RNG.normal(size=(3, 2)), RNG.normal(size=(4, 2)), RNG.dirichlet(np.ones(4))
    widths = [0.5, 2.0]
    kernel = lambda a, b: sum(np.exp(-np.square(a - b).sum() / h) for h in widths)
    expected = sum(kernel(a, b) for a in x for b in x) / 9
    expected -= 2 * sum(kernel(a, b) * p for a in x for b, p in zip(y, probs)) / 3
    expected += sum(kernel(a, b) * p * q for a, p in zip(y, probs) for b, q in zip(y, probs))
    as_given = [jnp.array(z, jnp.float32) for z in (x, y, probs, widths)]
    np.testing.assert_allclose(losses.mmd(*as_given), expected, rtol=1e-5)
    same = jnp.array(x, jnp.float32)
    np.testing.assert_allclose(losses.mmd(same, same, jnp.full(3, 1 / 3), jnp.ones(1)), 0.0, atol=1e-6)


def test_wasserstein_distance():
    first, second = law(5), law(8)
    expected = scipy.stats.wasserstein_distance(first[0], second[0], first[1], second[1])
    np.testing.assert_allclose(losses.wasserstein(*first, *second), expected, rtol=1e-5)


def test_preferences():
    atoms, probs = jnp.array([3.0, -1.0, 0.0, 10.0]), jnp.array([0.4, 0.1, 0.2, 0.3])
    # the worst 0.5: -1 with 0.1, 0 with 0.2, 3 with 0.2
    np.testing.assert_allclose(losses.cvar(atoms, probs, 0.5), (-0.1 + 0.6) / 0.5, rtol=1e-6)
    np.testing.assert_allclose(losses.cvar(atoms, probs, 0.05), -1.0, rtol=1e-6)
    for same in (
        losses.cvar(atoms, probs, 1.0),
        losses.wang(atoms, probs, 0.0),
        losses.mean_variance(atoms, probs, 0.0),
    ):
        np.testing.assert_allclose(same, 4.1, rtol=1e-5)
    # variance: .4 9 + .1 1 + .3 100 - 4.1^2
    np.testing.assert_allclose(losses.mean_variance(atoms, probs, 0.5), 4.1 - 0.5 * (33.7 - 16.81), rtol=1e-5)


@pytest.mark.parametrize("eta", [-0.75, 0.5])
def test_wang_s_measure_of_a_normal_law(eta):
    """Shifts it by eta standard deviations."""
    levels = (np.arange(4_000) + 0.5) / 4_000
    atoms = jnp.array(2.0 + 3.0 * scipy.stats.norm.ppf(levels), jnp.float32)
    np.testing.assert_allclose(losses.wang(atoms, jnp.full(4_000, 1 / 4_000), eta), 2.0 + 3.0 * eta, atol=0.02)


def test_laws_contract():
    """Bellman targets bring two laws nearer by gamma in the Wasserstein distance, and projected ones by its root in the Cramer
    distance (Rowland et al., 2018, arXiv:1802.08163, proposition 2)."""
    first, second, gamma = law(6), law(9), 0.7
    moved = [(losses.bellman(jnp.float32(0.3), jnp.float32(gamma), atoms), probs) for atoms, probs in (first, second)]
    before, after = losses.wasserstein(*first, *second), losses.wasserstein(*moved[0], *moved[1])
    np.testing.assert_allclose(after, gamma * before, rtol=1e-5)
    support = jnp.linspace(-3.0, 3.0, 31)
    project = lambda atoms, probs: losses.project(atoms, probs, support)
    cramer = lambda p, q: jnp.sqrt((jnp.square(jnp.cumsum(p - q)) * 0.2).sum())
    ratios = []
    for seed in range(20):
        p, q = (project(*law(5, np.random.default_rng((seed, i)))) for i in range(2))
        on = lambda p: project(losses.bellman(jnp.float32(0.1), jnp.float32(gamma), support), p)
        ratios.append(cramer(on(p), on(q)) / cramer(p, q))
    assert 0.3 < max(ratios) <= np.sqrt(gamma) + 1e-5


def test_a_wrong_head_or_preference_gives_one_sentence():
    with pytest.raises(ValueError, match="There is no preference 'cvr'; nearest: cvar"):
        heads.preferred(heads.Law(jnp.ones(2), jnp.ones(2)), "cvr")


SYMEXP = np.sign(np.linspace(-10, 10, 65)) * np.expm1(np.abs(np.linspace(-10, 10, 65)))


def test_symexp_support():
    np.testing.assert_allclose(losses.symexp(jnp.linspace(-10.0, 10.0, 65)), SYMEXP, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("support", [SYMEXP, np.array([-1.0, 0.0, 2.0, 2.5])], ids=["symexp", "uneven"])
def test_two_hot_keeps_mass_and_mean_in_two_neighbours(support):
    support = jnp.float32(support)
    numbers = np.concatenate([np.random.default_rng(0).uniform(support[0], support[-1], 200), support]).astype(
        np.float32
    )
    probs = np.float64(jax.vmap(losses.two_hot, (0, None))(numbers, support))
    np.testing.assert_allclose(probs.sum(1), 1.0, rtol=1e-6)
    assert (probs >= 0.0).all() and ((probs > 0.0).sum(1) <= 2).all()
    np.testing.assert_allclose(probs @ np.float64(support), numbers, rtol=1e-5, atol=1e-6)
    below = (
        np.searchsorted(np.asarray(support), numbers, side="right") - 1
    )  # its neighbours are those on either side of it
    inside = below < len(support) - 1
    rows = np.flatnonzero(inside)
    np.testing.assert_allclose(probs[rows, below[rows]] + probs[rows, below[rows] + 1], 1.0, rtol=1e-6)
    np.testing.assert_array_equal(probs[200:], np.eye(len(support)))  # numbers of the support are themselves


def test_two_hot_of_what_lies_outside_is_the_end():
    support = jnp.array([-2.0, 1.0, 5.0])
    np.testing.assert_array_equal(losses.two_hot(jnp.float32(7.0), support), [0.0, 0.0, 1.0])
    np.testing.assert_array_equal(losses.two_hot(jnp.float32(-9.0), support), [1.0, 0.0, 0.0])


def test_two_hot_on_an_even_support_is_the_projection():
    support, number = jnp.linspace(-2.0, 2.0, 9), jnp.float32(0.63)
    projected = losses.project(number[None], jnp.ones(1), support)
    np.testing.assert_allclose(losses.two_hot(number, support), projected, atol=1e-6)


def test_the_best_logits_for_a_two_hot_have_its_number_as_their_mean():
    support, number = jnp.float32(SYMEXP), jnp.float32(37.5)
    target = losses.two_hot(number, support)
    best = jnp.log(jnp.maximum(target, 1e-30))
    assert losses.categorical_loss(best, target) < 1e-6
    assert jnp.abs(jax.grad(losses.categorical_loss)(best, target)).max() < 1e-6
    np.testing.assert_allclose(jax.nn.softmax(best) @ support, number, rtol=1e-5)
