"""Losses of tokens: by numpy, by finite differences, and against what they should be equal to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import metrics
from rljax.errors import UserError
from rljax.losses import outcome
from rljax.losses import surrogate as lib

RNG = np.random.default_rng(1)
T = 8
LOG_PROB = -RNG.uniform(0.1, 3.0, T)
RATIO = np.array([0.5, 0.85, 1.0, 1.1, 1.25, 1.6, 2.7, 9.0])
OLD = LOG_PROB - np.log(RATIO)
MASK = np.array([1, 1, 1, 0, 1, 1, 1, 1], bool)
GOOD, BAD = 0.7, -1.3
OPTIONS = lib.Options(clip_low=0.2, clip_high=0.3)


def mine(name, advantage, log_prob=LOG_PROB, options=OPTIONS, old=OLD, mask=MASK):
    return lib.surrogate(
        name, jnp.asarray(log_prob), jnp.asarray(old), jnp.asarray(advantage), jnp.asarray(mask), options
    )


@jax.jit
def each(log_prob, advantage):
    """The losses of the tokens, and their gradients in all log-probs, by name."""
    f = lambda p: {name: mine(name, advantage, p) for name in lib.SURROGATES}
    return f(log_prob), jax.jacrev(f)(log_prob)


@jax.jit
def every(log_prob, old, advantage, mask):
    """The losses of all surrogates, summed over the tokens, and what they give back to each argument."""
    f = lambda p, o, a: jnp.stack([lib.surrogate(name, p, o, a, mask, OPTIONS).sum() for name in lib.SURROGATES])
    return f(log_prob, old, advantage), jax.jacrev(f, (0, 1, 2))(log_prob, old, advantage)


def by_hand(name, a, log_prob):
    """Values with constants where the papers have them: at `log_prob`, of the loss whose constants are at LOG_PROB."""
    r, frozen = np.exp(log_prob - OLD), np.exp(LOG_PROB - OLD)
    clipped = np.clip(r, 0.8, 1.3)
    ppo = -np.minimum(r * a, clipped * a)
    mean = lambda x: x[MASK].mean()
    whole = np.exp(mean(log_prob - OLD))
    tau = 1.0 if a > 0 else 1.05
    low = np.clip(log_prob - OLD, -0.2, 0.3)
    kept = np.minimum(log_prob - OLD, low) if a > 0 else np.maximum(log_prob - OLD, low)
    x, y = (r - 1) * a, np.log(r) * a
    drift = np.maximum(0, x - 2 * np.tanh(x / 2)) if a >= 0 else np.maximum(0, y - 0.6 * np.tanh(y / 0.6))
    return {
        "policy_gradient": -a * log_prob,
        "importance": -a * r,
        "ppo": ppo,
        "dual_clip": ppo if a > 0 else np.minimum(ppo, -3.0 * a),
        "two_sided": -np.minimum(np.minimum(r, 4.0) * a, clipped * a),
        "cispo_absolute": -np.minimum(frozen, 5.0) * a * log_prob,
        "cispo_clip": -np.clip(frozen, 0.8, 1.3) * a * log_prob,
        "gspo": np.full(T, -min(whole * a, np.clip(whole, 0.8, 1.3) * a)),
        "gmpo": np.full(T, -a * np.exp(mean(kept))),
        "sapo": -4 / tau / (1 + np.exp(-tau * (r - 1))) * a,
        "discovered": -(r * a - drift),
        "mirror_descent": -(r * a - (r * np.log(r) - r + 1)),
    }[name]


NAMES = [name for name in lib.SURROGATES if name != "gspo_token"]


@pytest.mark.parametrize("advantage", [GOOD, BAD])
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_by_hand(name, advantage, float64):
    losses, slopes = each(LOG_PROB, np.full(T, advantage))
    np.testing.assert_allclose(losses[name], np.where(MASK, by_hand(name, advantage, LOG_PROB), 0.0), rtol=1e-9)
    step = 1e-6
    differences = [
        (by_hand(name, advantage, LOG_PROB + step * d) - by_hand(name, advantage, LOG_PROB - step * d)) / (2 * step)
        for d in np.eye(T)
    ]
    np.testing.assert_allclose(
        slopes[name], np.where(MASK[:, None], np.array(differences).T, 0.0), atol=1e-6, rtol=1e-6
    )


def test_on_policy_all_have_the_policy_gradient(float64):
    """At ratio 1, summed over tokens; those of whole completions, whose ratio is a mean, in the mean over tokens."""
    gradient = every(LOG_PROB, LOG_PROB, np.full(T, GOOD), MASK)[1][0]
    np.testing.assert_allclose(gradient, np.broadcast_to(np.where(MASK, -GOOD, 0.0), gradient.shape), rtol=1e-9)


@pytest.mark.parametrize("advantage", [GOOD, BAD])
@pytest.mark.parametrize("shift", [0.0, 0.1, -0.1])
def test_gspo_by_token_is_gspo_of_the_mean(advantage, shift, float64):
    """Same value, and with one advantage the same gradient, whether the ratio is clipped or not."""
    old = LOG_PROB - 0.1 * (RATIO - RATIO[MASK].mean()) - 2.0 * shift
    both = lambda name: jax.value_and_grad(
        lambda p: lib.masked_mean(mine(name, advantage, p, old=old), jnp.asarray(MASK))
    )(jnp.asarray(LOG_PROB))
    for a, b in zip(both("gspo"), both("gspo_token"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    tokens = jnp.linspace(-1.0, 2.0, T)
    gradient = jax.grad(lambda p: mine("gspo_token", tokens, p, old=LOG_PROB).sum())(jnp.asarray(LOG_PROB))
    np.testing.assert_allclose(gradient, np.where(MASK, -tokens, 0.0), rtol=1e-9)


def test_advantages_and_old_log_probs_are_constants(float64):
    for gradient in every(LOG_PROB, OLD, np.full(T, GOOD), MASK)[1][1:]:
        np.testing.assert_array_equal(gradient, 0.0)


def test_ppo_is_a_drift(float64):
    for log_ratio in np.linspace(-1.0, 1.0, 9):
        for a in GOOD, BAD:
            drift = lib.clip_drift(jnp.asarray(log_ratio), jnp.asarray(a), 0.2, 0.3)
            loss = lib.drifted(jnp.asarray(log_ratio), jnp.asarray(a), drift)
            r = np.exp(log_ratio)
            assert float(loss) == pytest.approx(-min(r * a, np.clip(r, 0.8, 1.3) * a))


def test_drifts_are_flat_where_nothing_has_moved(float64):
    for drift in lib.clip_drift, lib.discovered_drift, lambda r, a, *_: lib.kl_drift(r, a, 1.5):
        for a in GOOD, BAD:
            of = lambda r, a=a, drift=drift: drift(r, jnp.asarray(a), 0.5, 0.5)
            value, slope = jax.value_and_grad(of)(jnp.zeros(()))
            assert (float(value), float(slope)) == (0.0, 0.0)
            assert min(float(of(jnp.asarray(x))) for x in np.linspace(-2, 2, 21)) >= 0.0


def test_cispo_has_two_bounds_and_two_names(float64):
    """5 is TRL's epsilon_high, the bound itself; for verl's form it would allow ratios up to 6."""
    per_token = np.asarray(mine("cispo_absolute", 1.0, options=lib.Options(highest_ratio=5.0)))
    assert per_token[-1] == pytest.approx(-5.0 * LOG_PROB[-1], rel=1e-5)
    per_token = np.asarray(mine("cispo_clip", 1.0, options=lib.Options(clip_high=5.0)))
    assert per_token[-1] == pytest.approx(-6.0 * LOG_PROB[-1], rel=1e-5)
    with pytest.raises(UserError, match="bounds ratios themselves"):
        mine("cispo_absolute", 1.0, options=lib.Options(highest_ratio=0.28))
    with pytest.raises(UserError, match="bounds ratios themselves"):
        mine("two_sided", 1.0, options=lib.Options(delta=0.5))
    with pytest.raises(UserError, match="nearest: gspo"):
        lib.check("gsppo")


# --- NFT.


def nft_gradient(correct, weight, old):
    """d loss / d log_prob [K, T], of a group."""
    rate = jnp.asarray(np.mean(correct))
    loss = lambda p, c: lib.nft(p, jnp.asarray(old), c, rate, jnp.ones(T, bool), weight).sum()
    return jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(jnp.asarray(LOG_PROB), jnp.asarray(correct))


def test_nft_on_policy_is_grpo_and_dr_grpo(float64):
    correct = np.array([1, 0, 0, 1, 0, 0, 0, 0], bool)
    reward = jnp.asarray(correct[None].astype(float))
    for name, advantage in [("grpo", outcome.grpo(reward, 0, 0.0)), ("dr_grpo", outcome.mean_baseline(reward))]:
        expected = -np.asarray(advantage)[0][:, None] * np.ones(T)
        np.testing.assert_allclose(nft_gradient(correct, name, LOG_PROB), expected, rtol=1e-9)


def test_nft_off_policy_by_hand(float64):
    q, r = 0.25, RATIO
    loss = lambda c: np.asarray(
        lib.nft(
            jnp.asarray(LOG_PROB), jnp.asarray(OLD), jnp.array(c), jnp.asarray(q), jnp.asarray(MASK), "uniform", 0.05
        )
    )
    np.testing.assert_allclose(loss(True), np.where(MASK, -np.log(r), 0.0), rtol=1e-9)
    left = (1 - q * r) / (1 - q)
    np.testing.assert_allclose(loss(False), np.where(MASK, -np.log(np.maximum(left, 0.05)), 0.0), rtol=1e-9)
    gradient = nft_gradient(np.array([0, 0, 0, 1], bool), "uniform", OLD)[0]
    floored = np.maximum(left, 1e-2)
    np.testing.assert_allclose(gradient, q * r / (1 - q) / floored, rtol=1e-9)  # below the floor, not 0


def test_nft_leaves_out_prompts_of_one_kind():
    for correct in [True] * 4, [False] * 4:
        assert (np.asarray(nft_gradient(np.array(correct), "grpo", OLD)) == 0.0).all()
    with pytest.raises(UserError, match="no weight"):
        nft_gradient(np.array([True, False]), "rloo", OLD)


# --- Pairs.


def pair_by_hand(name, log_ratio, constant, a, clip):
    """Values at `log_ratio` of the loss whose constants are at `constant`."""
    u, fixed = np.exp(log_ratio), np.exp(constant)
    near = lambda x: np.clip(x, 1 - clip, 1 + clip)
    if name == "separate":
        return -sum(min(s * u[i] * fixed[1 - i], s * near(u[i]) * near(fixed[1 - i])) for i, s in enumerate((a, -a)))
    both, apart = fixed.prod(), log_ratio[0] - log_ratio[1]
    return -min(a * both * apart, a * near(both) * np.clip(apart, -clip, clip))


@pytest.mark.parametrize("name", lib.PAIRWISE)
def test_pairs_by_hand(name, float64):
    """On policy, within the clip, and beyond it on either side, for the better first and last."""
    of = jax.jit(jax.value_and_grad(lib.PAIRWISE[name]))
    for log_ratio in np.array([[0, 0], [0.05, 0.1], [0.4, -0.3], [-0.4, 0.3], [0.5, 0.45], [-0.6, -0.1]], float):
        for a in GOOD, BAD:
            value, slope = of(jnp.asarray(log_ratio), jnp.asarray(a), 0.2)
            assert float(value) == pytest.approx(pair_by_hand(name, log_ratio, log_ratio, a, 0.2), abs=1e-12)
            up, down = (
                [pair_by_hand(name, log_ratio + step * d, log_ratio, a, 0.2) for d in np.eye(2)]
                for step in (1e-6, -1e-6)
            )
            differences = (np.array(up) - np.array(down)) / 2e-6
            np.testing.assert_allclose(slope, differences, atol=1e-8)


@pytest.mark.parametrize("name", lib.PAIRWISE)
def test_pairs_of_the_old_policy_have_the_gradient_of_the_mean_reward(name, float64):
    """Exactly, over all pairs of five completions, where nothing is clipped; and whatever is added to all rewards."""
    rng = np.random.default_rng(3)
    logits, old, reward = rng.normal(size=(3, 5))
    old = np.exp(old) / np.exp(old).sum()
    pair, chance = np.indices((5, 5)).reshape(2, -1).T, np.outer(old, old).reshape(-1)

    def loss(logits, reward):
        ratio = jax.nn.log_softmax(logits)[pair] - np.log(old)[pair]
        half = (reward[pair[:, 0]] - reward[pair[:, 1]]) / 2.0
        return (chance * jax.vmap(lambda *one: lib.PAIRWISE[name](*one, 1e9))(ratio, half)).sum()

    slope = jax.jit(jax.grad(loss))
    policy = np.exp(logits) / np.exp(logits).sum()
    for offset in 0.0, 50.0:
        found = slope(jnp.asarray(logits), jnp.asarray(reward + offset))
        np.testing.assert_allclose(found, -policy * (reward - policy @ reward), atol=1e-9)


# --- Masks.


def test_what_is_masked_counts_for_nothing_whatever_it_is(float64):
    poisoned = lambda x, bad: np.where(MASK, x, bad)
    clean = jax.tree.leaves(every(LOG_PROB, OLD, np.full(T, GOOD), MASK))
    for bad in -np.inf, np.nan, 1e30:
        dirty = jax.tree.leaves(every(poisoned(LOG_PROB, bad), poisoned(OLD, -bad), poisoned(GOOD, bad), MASK))
        for a, b in zip(clean, dirty, strict=True):
            np.testing.assert_array_equal(a, b)


def test_rows_without_a_token_are_finite(float64):
    for x in jax.tree.leaves(every(LOG_PROB, OLD, np.full(T, GOOD), np.zeros(T, bool))):
        np.testing.assert_array_equal(x, 0.0)
    for kind in lib.AGGREGATIONS:
        of = lib.aggregate(jnp.ones((2, T)), jnp.zeros((2, T), bool), kind, 9 if kind == "fixed_length" else None)
        assert float(metrics.mean(of)) == 0.0
    nothing = (jnp.ones(T), jnp.ones(T), jnp.zeros(T, bool), jnp.array(3.0), jnp.array(False), 0.9, 0.9)
    for x in lib.token_gae(*nothing):
        assert (np.asarray(x) == 0.0).all()
    assert np.isfinite(lib.entropy_modulated(jnp.ones(2), jnp.ones((2, 3)), jnp.zeros((2, 3), bool))).all()


def test_log_ratios_without_end_are_bounded(float64):
    far = np.full(T, -400.0)
    for p, old in [(far, LOG_PROB), (LOG_PROB, far)]:
        for a in GOOD, BAD:
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(every(p, old, np.full(T, a), MASK)))


def test_the_end_of_the_sequence_is_learned():
    """The token that ends a completion is inside its mask: it is paid, it has a gradient, and it is counted."""
    tokens = np.array([5, 3, 1, 0, 0])  # 1 ends, 0 pads
    mask = jnp.asarray(np.cumsum(tokens == 1) - (tokens == 1) == 0)
    assert mask.tolist() == [True, True, True, False, False]
    reward = jnp.array([0.0, 0.0, 1.0, 9.0, 9.0])
    np.testing.assert_allclose(lib.returns_to_go(reward, mask), [1.0, 1.0, 1.0, 0.0, 0.0])
    loss = lambda p: metrics.mean(lib.aggregate(lib.surrogate("ppo", p, p, jnp.array(1.0), mask), mask))
    gradient = jax.grad(loss)(jnp.full(5, -1.0))
    np.testing.assert_allclose(gradient, [-1 / 3, -1 / 3, -1 / 3, 0.0, 0.0], rtol=1e-6)


# --- Aggregation.

LOSS = RNG.normal(size=(4, 6))
ROWS = np.arange(6) < np.array([6, 2, 1, 4])[:, None]


def aggregated(kind, rows=slice(None)):
    return lib.aggregate(jnp.asarray(LOSS[rows]), jnp.asarray(ROWS[rows]), kind, 6 if kind == "fixed_length" else None)


def test_aggregations_by_hand(float64):
    sums, counts = (LOSS * ROWS).sum(1), ROWS.sum(1)
    expected = {
        "token_mean": sums.sum() / counts.sum(),
        "sequence_mean_token_mean": (sums / counts).mean(),
        "sequence_mean_token_sum": sums.mean(),
        "fixed_length": sums.sum() / (4 * 6),  # of the batch as well as of the length
    }
    assert set(expected) == set(lib.AGGREGATIONS)
    for kind, value in expected.items():
        assert float(metrics.mean(aggregated(kind))) == pytest.approx(value)


@pytest.mark.parametrize("kind", lib.AGGREGATIONS)
def test_halves_are_the_whole(kind, float64):
    """Gradient accumulation: totals and counts are added, and divided once."""
    whole = aggregated(kind)
    halves = [aggregated(kind, rows) for rows in (slice(0, 1), slice(1, None))]
    both = jax.tree.map(jnp.add, *halves)
    np.testing.assert_allclose(both.total, whole.total)
    np.testing.assert_allclose(both.count, whole.count)
    assert float(metrics.mean(both)) == pytest.approx(float(metrics.mean(whole)))


def test_the_mean_of_means_over_tokens_is_another_number(float64):
    halves = [float(metrics.mean(aggregated("token_mean", rows))) for rows in (slice(0, 2), slice(2, 4))]
    assert abs(np.mean(halves) - float(metrics.mean(aggregated("token_mean")))) > 0.01


def test_rows_without_tokens_are_no_completions(float64):
    for kind in lib.AGGREGATIONS:
        length = 6 if kind == "fixed_length" else None
        padded = lib.aggregate(
            jnp.pad(jnp.asarray(LOSS), ((0, 3), (0, 0))), jnp.pad(jnp.asarray(ROWS), ((0, 3), (0, 0))), kind, length
        )
        assert float(metrics.mean(padded)) == pytest.approx(float(metrics.mean(aggregated(kind))))


def test_aggregations_that_are_refused():
    with pytest.raises(UserError, match="nearest"):
        lib.check_aggregation("token-mean")
    with pytest.raises(UserError, match="max_length"):
        lib.aggregate(jnp.ones(3), jnp.ones(3, bool), "fixed_length")
    with pytest.raises(UserError, match="no other"):
        lib.aggregate(jnp.ones(3), jnp.ones(3, bool), "token_mean", 6)


# --- Credit.


def gae_by_hand(reward, value, mask, last, terminated, gamma, trace):
    """Of the tokens that are there, as if there were no others."""
    places = np.flatnonzero(mask)
    values = np.append(value[places], 0.0 if terminated else last)
    advantage, out, following = np.zeros(len(reward)), np.zeros(len(reward)), 0.0
    for i in reversed(range(len(places))):
        delta = reward[places[i]] + gamma * values[i + 1] - values[i]
        following = delta + gamma * trace * following
        advantage[places[i]], out[places[i]] = following, following + values[i]
    return advantage, out


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("mask", [[1] * 8, [1, 1, 0, 0, 1, 1, 0, 0], [0, 1, 0, 1, 1, 1, 1, 1], [0] * 8])
def test_gae_skips_what_the_policy_did_not_choose(mask, terminated, float64):
    reward, value, mask = RNG.normal(size=8), RNG.normal(size=8), np.array(mask, bool)
    found = lib.token_gae(*map(jnp.asarray, (reward, value, mask, 1.7, terminated)), 0.9, 0.8)
    for a, b in zip(found, gae_by_hand(reward, value, mask, 1.7, terminated, 0.9, 0.8), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_a_completion_cut_off_goes_on(float64):
    reward, value, mask = jnp.zeros(3), jnp.zeros(3), jnp.ones(3, bool)
    cut = lib.token_gae(reward, value, mask, jnp.array(2.0), jnp.array(False), 1.0, 1.0)[0]
    ended = lib.token_gae(reward, value, mask, jnp.array(2.0), jnp.array(True), 1.0, 1.0)[0]
    np.testing.assert_allclose(cut, [2.0, 2.0, 2.0])
    np.testing.assert_allclose(ended, [0.0, 0.0, 0.0])


def test_importance_weights(float64):
    ratio = np.where(MASK, RATIO, 0.0)
    given = jnp.asarray(LOG_PROB), jnp.asarray(OLD), jnp.asarray(MASK)
    np.testing.assert_allclose(lib.importance_weight(*given, 2.0), np.minimum(ratio, 2.0), rtol=1e-9)
    product = RATIO[MASK].prod()
    np.testing.assert_allclose(lib.importance_weight(*given, 1e3, "sequence"), np.where(MASK, product, 0.0), rtol=1e-9)
    np.testing.assert_allclose(
        lib.importance_weight(*given, 2.0, "sequence"), np.where(MASK, min(product, 2.0), 0.0), rtol=1e-9
    )
    assert (np.asarray(jax.grad(lambda p: lib.importance_weight(p, *given[1:], 20.0).sum())(given[0])) == 0.0).all()
    with pytest.raises(UserError, match="'token'"):
        lib.importance_weight(*given, 2.0, "step")


def test_steps_of_tokens():
    step, mask = jnp.array([0, 0, 1, 2, 2, 2]), jnp.array([1, 1, 0, 1, 0, 1], bool)
    means, there = lib.step_means(jnp.array([1.0, 2.0, 9.0, 4.0, 9.0, 6.0]), step, mask, 3)
    np.testing.assert_allclose(means, [1.5, 0.0, 5.0])
    assert there.tolist() == [True, False, True]


def test_entropy_modulation_by_hand(float64):
    advantage, mask = np.array([1.0, -2.0]), np.array([[1, 1, 1], [1, 1, 0]], bool)
    entropy = np.where(mask, RNG.uniform(0.2, 2.0, (2, 3)), 50.0)
    inside = entropy[mask]
    scaled = (entropy - inside.min()) / (inside.max() - inside.min())
    g = np.exp(-2.0 * scaled) / np.exp(-2.0 * scaled[mask]).mean()
    raw = advantage[:, None] * g
    for i, j in [(0, 0), (0, 1), (1, 0)]:
        raw[i, j] += 0.1 * np.exp(-0.5 * scaled[i, j + 1])
    expected = np.where(mask, raw - raw[mask].mean(), 0.0)
    found = lib.entropy_modulated(jnp.asarray(advantage), jnp.asarray(entropy), jnp.asarray(mask), 2.0, 0.5, 0.1)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    same = lib.entropy_modulated(jnp.asarray(advantage), jnp.ones((2, 3)), jnp.asarray(mask), 2.0, 0.5, 0.0)
    np.testing.assert_allclose(
        same, np.where(mask, advantage[:, None] + 1 / 5, 0.0), atol=1e-12
    )  # equal entropies: the mean off


def test_hidden_rewards_of_tokens():
    found = lib.token_hidden_reward(jnp.array([1.0, -1.0, 1.0, -1.0]), jnp.array([0.5, 0.5, -0.5, 0.05]), 0.2, 0.1)
    np.testing.assert_allclose(found, [1.2, -1.2, 0.8, 0.0], rtol=1e-6)


def test_tokens_that_tell_most():
    advantage, entropy = jnp.asarray(RNG.normal(size=(2, 5))), jnp.asarray(RNG.uniform(size=(2, 5)))
    mask = jnp.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], bool)
    for share, count in [(0.4, 3), (1.0, 7), (0.01, 1)]:
        kept = np.asarray(jax.jit(lib.telling_tokens)(advantage, entropy, mask, share))
        score = np.abs(advantage) * np.asarray(entropy)
        assert kept.sum() == count and not (kept & ~np.asarray(mask)).any()
        assert score[kept].min() >= score[np.asarray(mask) & ~kept].max(initial=0.0)


def test_overlong_completions_cost():
    length = jnp.array([0.0, 80.0, 90.0, 100.0, 300.0])
    np.testing.assert_allclose(lib.overlong_penalty(length, 100.0, 20.0), [0.0, 0.0, -0.5, -1.0, -1.0])
