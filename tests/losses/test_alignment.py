"""Direct preference losses: values and gradients that TRL gives, their signs, what must have no gradient, and degenerate data."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.errors import UserError
from rljax.losses import alignment as lib
from rljax.losses import completion_scores as scores_of
from rljax.losses import listwise, preference, self_play

GOLDEN = json.loads(
    pathlib.Path(__file__).with_name("alignment_golden.json").read_text()
)  # see make_alignment_golden.py
CASES = {case["name"]: case for case in GOLDEN["cases"]}
IN_FLOAT32 = ("f_dpo_alpha", "orpo")  # TRL computes these no better
BETTER_FIRST = jnp.array([0, 1])


def golden_pairs():
    """Sums over completions [4, 2], by policy and reference, and lengths; in float64."""
    policy, reference = np.array(GOLDEN["policy"]).sum(-1), np.array(GOLDEN["reference"]).sum(-1)
    return jnp.asarray(policy), jnp.asarray(reference), jnp.asarray(GOLDEN["length"])


def assert_golden(name, value, gradient):
    rtol = 2e-5 if name in IN_FLOAT32 else 1e-6
    np.testing.assert_allclose(value, CASES[name]["value"], rtol=rtol)
    np.testing.assert_allclose(gradient, CASES[name]["gradient"], rtol=rtol, atol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", sorted(set(CASES) - {"kto", "aot", "aot_unpaired", "nash_md", "xpo"}))
def test_pairs_are_trls(name):
    """Of every pair, in both orders: the ranks alone say which is better."""
    kinds = {"average_dpo": dict(score="average_log_ratio")}
    arguments = kinds.get(name) or lib.METHODS[name]
    loss = lambda *pair: lib.preference_loss(*pair, **{**arguments, **CASES[name]["numbers"]})
    both = jax.jit(jax.vmap(jax.value_and_grad(loss), (0, 0, 0, None)))
    policy, reference, length = golden_pairs()
    assert_golden(name, *both(policy, reference, length, BETTER_FIRST))
    turned = (x[:, ::-1] for x in (policy, reference, length))
    value, gradient = both(*turned, BETTER_FIRST[::-1])
    assert_golden(name, value, gradient[:, ::-1])


@pytest.mark.usefixtures("float64")
def test_kto_is_trls():
    numbers = CASES["kto"]["numbers"]
    policy, reference, _ = golden_pairs()
    point = lib.reference_point(jnp.array(numbers["others"]))
    good = jnp.array([True, False])

    def loss(log_prob, reference):
        one = lambda *x: lib.kto(*x, point, numbers["beta"], undesirable=numbers["undesirable"])
        return jax.vmap(one)(log_prob, reference, good).mean()

    assert_golden("kto", *jax.jit(jax.vmap(jax.value_and_grad(loss)))(policy, reference))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_dominance_is_trls(name):
    policy, reference, _ = golden_pairs()
    numbers = CASES[name]["numbers"]

    def loss(policy):
        if name == "aot":
            above, below = policy[:, 0] - policy[:, 1], reference[:, 0] - reference[:, 1]
        else:
            above, below = (policy - reference).T
        return listwise.dominance(numbers["beta"] * above, numbers["beta"] * below, numbers["flip"])

    assert_golden(name, *jax.jit(jax.value_and_grad(loss))(policy))


@pytest.mark.usefixtures("float64")
def test_online_losses_are_trls():
    """Nash-MD by token, the way that public code has it, and XPO: DPO and a bias for the reference's own completion."""
    tokens, references = (jnp.array(GOLDEN[name])[:, 0] for name in ("policy", "reference"))
    mask = jnp.arange(6) < jnp.array(GOLDEN["length"])[:, :1]
    numbers = CASES["nash_md"]["numbers"]
    loss = lambda tokens: jax.vmap(self_play.nash_md, (0, 0, 0, 0, None, None))(
        tokens, references, mask, jnp.array(numbers["preference"]), numbers["tau"], "token"
    ).mean()
    value, gradient = jax.jit(jax.value_and_grad(loss))(tokens)
    np.testing.assert_allclose(value, CASES["nash_md"]["value"], rtol=1e-6)
    theirs = np.where(mask, CASES["nash_md"]["gradient"], 0.0)  # they leave what is masked to the model
    np.testing.assert_allclose(gradient, theirs, rtol=1e-6, atol=1e-12)

    numbers = CASES["xpo"]["numbers"]
    policy, reference, length = golden_pairs()

    def xpo(policy, reference, length):
        dpo = lib.direct_loss("dpo", policy, reference, length, BETTER_FIRST, beta=numbers["beta"])
        return dpo + self_play.value_bias(policy[1], reference[1] * 0.0, "optimistic", numbers["alpha"], 1.0)

    assert_golden("xpo", *jax.jit(jax.vmap(jax.value_and_grad(xpo)))(policy, reference, length))


def pair_gradient(method, log_prob=(-5.0, -6.0), reference=(-5.2, -5.7), length=(4, 5), **changes):
    loss = lambda log_prob: lib.direct_loss(
        method, log_prob, jnp.array(reference), jnp.array(length), BETTER_FIRST, **changes
    )
    return jax.jit(jax.grad(loss))(jnp.array(log_prob))


@pytest.mark.parametrize("method", sorted(set(lib.METHODS) - {"apo_down", "discopop"}))
def test_descent_raises_the_better_and_lowers_the_worse(method):
    better, worse = pair_gradient(method)
    assert better < 0.0 < worse


def test_apo_down_lowers_both():
    better, worse = pair_gradient("apo_down")
    assert 0.0 < better < worse


def test_discopop_turns_back_where_it_is_unsure():
    """It was found by search, and is not monotone: its slope has the wrong sign for small margins (TRL's has too, see above)."""
    slope = jax.vmap(jax.grad(lib.discopop), (0, None))(jnp.array([-1.0, 0.03, 1.0]), jnp.array(0.0))
    np.testing.assert_array_equal(jnp.sign(slope), [-1, 1, -1])


def test_margins_alone_say_nothing_of_levels():
    """Why the likelihood of what was chosen may fall: DPO's gradients of the two cancel, and imitation alone undoes that."""
    assert float(pair_gradient("dpo").sum()) == pytest.approx(0.0, abs=1e-7)
    assert float(pair_gradient("dpo", imitate=0.3).sum()) == pytest.approx(-0.3 / 4)
    assert float(pair_gradient("dpo", imitate=0.3, imitate_tokens=False).sum()) == pytest.approx(-0.3)


def test_slic_is_a_hinge_and_imitation():
    loss = lambda x: lib.direct_loss("slic", jnp.array(x), jnp.zeros(2), jnp.array([3, 4]), BETTER_FIRST)
    assert float(loss([-3.0, -3.5])) == pytest.approx(max(0.0, 1.0 - 0.5) + 0.1 * 3.0)
    assert float(loss([-3.0, -9.0])) == pytest.approx(0.3)


@pytest.mark.parametrize("method", sorted(lib.METHODS))
def test_degenerate_completions_are_finite_and_references_constant(method):
    """Empty completions, and ones that have become so unlikely, or so much likelier, that exponents overflow."""
    loss = lambda *x: lib.direct_loss(method, *x, BETTER_FIRST)
    both = jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1))))
    log_prob = jnp.array([[0.0, 0.0], [-900.0, -2.0], [-2.0, -900.0]])
    value, (gradient, by_reference) = both(log_prob, log_prob[:, ::-1], jnp.array([[0, 0], [3, 3], [3, 3]]))
    assert jnp.isfinite(value).all() and jnp.isfinite(gradient).all() and not by_reference.any()


@pytest.mark.parametrize("link", sorted(lib.LINKS))
def test_a_tie_teaches_nothing(link):
    loss = lambda x: lib.preference_loss(x, jnp.zeros(2), jnp.array([3, 3]), jnp.zeros(2, jnp.int32), link=link)
    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.array([-1e4, -1.0]))
    assert value == 0.0 and not gradient.any()


def test_masked_tokens_may_be_anything():
    log_probs = jnp.array([-1.0, -2.0, jnp.nan, -jnp.inf])
    total, gradient = jax.value_and_grad(lambda x: scores_of.completion(x, jnp.array([1, 1, 0, 0]))[0])(log_probs)
    assert total == -3.0 and scores_of.completion(log_probs, jnp.array([True, True, False, False]))[1] == 2.0
    np.testing.assert_array_equal(gradient, [1.0, 1.0, 0.0, 0.0])
    assert scores_of.completion(log_probs, jnp.zeros(4)) == (0.0, 0.0)
    masked = lambda x: self_play.nash_md(x, log_probs, jnp.zeros(4), jnp.array(0.9))
    value, gradient = jax.value_and_grad(masked)(log_probs)
    assert value == 0.0 and not gradient.any()


def test_limits_of_scores():
    x = jnp.array([-5.0, -6.0]), jnp.array([-5.2, -5.7]), jnp.array([4, 5])
    for alpha in (0.0, 1e-4):
        np.testing.assert_allclose(scores_of.alpha_divergence(*x, 0.1, alpha), scores_of.log_ratio(*x, 0.1), atol=1e-5)
    np.testing.assert_allclose(scores_of.alpha_divergence(*x, 0.1, 1.0), scores_of.forward_kl(*x, 0.1), rtol=1e-5)
    np.testing.assert_allclose(scores_of.tempered_log_ratio(*x, 0.1, 1.0), scores_of.log_ratio(*x, 0.1), rtol=1e-5)
    p = np.exp(np.array([-5.0 / 4, -6.0 / 5]))
    np.testing.assert_allclose(scores_of.log_odds(*x), np.log(p / (1 - p)), rtol=1e-5)
    np.testing.assert_allclose(scores_of.log_odds(x[0] / 100, *x[1:]), np.log(p**0.01 / (1 - p**0.01)), rtol=1e-4)


def test_contrastive_preference_learning_is_one_of_these():
    """CPL's loss, conservative too, is a likelihood of alpha log pi."""
    log_prob, ranks = jnp.array([-3.0, -2.5]), BETTER_FIRST
    scores = scores_of.likelihood(log_prob, log_prob, jnp.array([4, 4]), 0.1)
    expected = np.log1p(np.exp(-0.25 + 0.3))
    np.testing.assert_allclose(preference.decided(scores, ranks), expected, rtol=1e-5)
    loss = lib.preference_loss(log_prob, log_prob, jnp.array([4, 4]), ranks, score="likelihood", beta=0.1)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_ktos_reference_is_a_constant_and_not_negative():
    assert lib.reference_point(jnp.array([-0.5, 0.1])) == 0.0
    assert lib.reference_point(jnp.array([0.5, 0.1])) == pytest.approx(0.3)

    def loss(log_prob):
        others = jnp.stack([log_prob, log_prob + 1.0]) + 3.0
        return lib.kto(log_prob, jnp.array(-2.0), jnp.array(True), lib.reference_point(others), 0.5)

    sure = 1.0 / (1.0 + np.exp(-0.5 * (1.0 - 2.5)))  # log ratio 1, point 2.5
    value, gradient = jax.value_and_grad(loss)(jnp.array(-1.0))
    assert float(value) == pytest.approx(1.0 - sure)
    assert float(gradient) == pytest.approx(-0.5 * sure * (1.0 - sure))  # and 0 if the point moved along
    assert not jax.grad(lib.reference_point)(jnp.array([0.5, 0.1])).any()
    by_point = jax.grad(lambda point: lib.kto(jnp.array(-1.0), jnp.array(-2.0), jnp.array(True), point))
    assert by_point(jnp.array(0.3)) == 0.0


def test_lambda_loss_by_loops():
    scores, labels = np.array([0.3, -1.0, 2.0, 0.5]), np.array([0.9, 0.1, 0.4, 0.4])
    place = {i: 1 + sum(s > scores[i] for s in scores) for i in range(4)}
    expected, slope = 0.0, np.zeros(4)
    for i in range(4):
        for j in range(4):
            if labels[i] > labels[j]:
                gain = abs(2 ** labels[i] - 2 ** labels[j])
                weight = gain * abs(1 / np.log(1 + place[i]) - 1 / np.log(1 + place[j]))
                expected += weight * np.log1p(np.exp(scores[j] - scores[i]))
                slope[i] -= weight / (1 + np.exp(scores[i] - scores[j]))
                slope[j] += weight / (1 + np.exp(scores[i] - scores[j]))
    value, gradient = jax.jit(jax.value_and_grad(listwise.lambda_loss))(jnp.array(scores), jnp.array(labels))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4)


def test_lambda_loss_of_a_pair_is_a_constant_times_dpos():
    constant = (2.0**0.8 - 2.0**0.3) * (1 / np.log(2) - 1 / np.log(3))
    for scores in ([0.4, -0.2], [-3.0, 1.0]):
        found = listwise.lambda_loss(jnp.array(scores), jnp.array([0.8, 0.3]))
        np.testing.assert_allclose(found, constant * np.log1p(np.exp(scores[1] - scores[0])), rtol=1e-5)


def test_methods_of_whole_rankings_by_hand():
    """Of beta times log ratios; the reference is a constant, and lengths do not count."""
    log_prob, reference = jnp.array([-3.0, -1.0, -2.0]), jnp.array([-2.0, -2.5, -2.0])
    ranks, length = jnp.array([1, 0, 2]), jnp.array([4.0, 1.0, 2.0])
    a, b, c = np.exp(0.5 * np.array([-1.0, 1.5, 0.0]))
    likelihood = b / (a + b + c) * a / (a + c)
    of = lambda method, *x: listwise.direct_loss(method, *x, length[: len(x[0])], ranks[: len(x[0])], beta=0.5)
    np.testing.assert_allclose(of("plackett_luce", log_prob, reference), -np.log(likelihood), rtol=1e-6)
    lipo = listwise.lambda_loss(0.5 * (log_prob - reference), jnp.array([-1.0, 0.0, -2.0]))
    np.testing.assert_allclose(of("lipo", log_prob, reference), lipo, rtol=1e-6)
    dpo = of("dpo", log_prob[:2], reference[:2])
    np.testing.assert_allclose(dpo, np.log1p(a / b), rtol=1e-6)
    np.testing.assert_allclose(of("plackett_luce", log_prob[:2], reference[:2]), dpo, rtol=1e-6)
    constant = (1.0 - 0.5) * (1 / np.log(2) - 1 / np.log(3))
    np.testing.assert_allclose(of("lipo", log_prob[:2], reference[:2]), constant * dpo, rtol=1e-6)
    for method in listwise.WHOLE:
        assert not jax.grad(lambda x, method=method: of(method, log_prob, x))(reference).any()
    with pytest.raises(UserError, match="There is no method 'lip'; nearest: .*lipo"):
        of("lip", log_prob, reference)
    with pytest.raises(UserError, match="There is no number of lipo 'margin'"):
        listwise.direct_loss("lipo", log_prob, reference, length, ranks, margin=1.0)


def test_all_pairs_by_loops():
    """A tie, equal values, is nobody's win."""
    log_prob, values = np.array([-9.0, -7.0, -30.0, -8.0]), np.array([3.0, 1.0, 3.0, -2.0])
    pairs = [(i, j) for i in range(4) for j in range(4) if values[i] > values[j]]
    assert len(pairs) == 5
    expected = sum(np.log1p(np.exp(0.05 * (log_prob[j] - log_prob[i]))) for i, j in pairs) / 16
    found = listwise.all_pairs(jnp.array(log_prob), jnp.array(values))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(listwise.ranks_of(jnp.array(values)), [0, 2, 0, 3])
    decided = preference.decided(0.05 * jnp.array(log_prob), listwise.ranks_of(jnp.array(values)))
    np.testing.assert_allclose(found, decided * 5 / 16, rtol=1e-5)


def test_nash_mds_log_ratio_is_a_constant():
    """Were it not, the gradient by each token would have tau log pi more: 70 % off in a released implementation."""
    log_probs, references = jnp.array([-1.0, -0.5, -2.0]), jnp.array([-1.5, -0.4, -1.0])
    loss = lambda x, credit: self_play.nash_md(x, references, jnp.ones(3), jnp.array(0.8), 0.3, credit)
    ratio = np.array([0.5, -0.1, -1.0])
    np.testing.assert_allclose(jax.grad(loss)(log_probs, "token"), 0.3 * ratio - 0.3, atol=1e-6)
    np.testing.assert_allclose(jax.grad(loss)(log_probs, "to_go"), 0.3 * np.array([-0.6, -1.1, -1.0]) - 0.3, atol=1e-6)


def test_squared_online_losses_by_hand():
    pair = [jnp.array(x) for x in ([-1.0, -2.0], [-1.5, -1.0], [-1.2, -2.2])]  # policy, reference, last
    margin = 1.0 - 0.25 * -0.5 - 0.75 * 1.0
    found = self_play.inpo(*pair, BETTER_FIRST, 0.4, 0.1)
    np.testing.assert_allclose(found, (margin - 1 / 0.8) ** 2, rtol=1e-5)
    found = self_play.inpo(*pair, BETTER_FIRST[::-1], 0.4, 0.1)
    np.testing.assert_allclose(found, (-margin - 1 / 0.8) ** 2, rtol=1e-5)
    found = self_play.sppo(jnp.array(-1.0), jnp.array(-1.2), jnp.array(0.9), 2.0)
    np.testing.assert_allclose(found, (0.2 - 0.8) ** 2, rtol=1e-5)
    hard = [self_play.sppo(pair[0][i], pair[2][i], jnp.array(1.0 - i), 2.0) for i in (0, 1)]
    np.testing.assert_allclose(lib.sppo(*(pair[0] - pair[2]), 1.0), sum(hard), rtol=1e-5)


def test_bad_names_and_numbers_are_refused():
    pair = jnp.array([-5.0, -6.0]), jnp.array([-5.2, -5.7]), jnp.array([4, 5]), BETTER_FIRST
    with pytest.raises(UserError, match="no method 'dop'; nearest: dpo"):
        lib.direct_loss("dop", *pair)
    with pytest.raises(UserError, match="no link 'logistics'; nearest: logistic"):
        lib.direct_loss("dpo", *pair, link="logistics")
    with pytest.raises(UserError, match="no score 'log_ration'"):
        lib.direct_loss("dpo", *pair, score="log_ration")
    with pytest.raises(UserError, match="no number of log_ratio or logistic 'betta'; nearest: beta"):
        lib.direct_loss("dpo", *pair, betta=1.0)
    for flip in (0.5, -0.1):
        with pytest.raises(UserError, match=f"below 1/2, not {flip}"):
            lib.direct_loss("rdpo", *pair, flip=flip)
    with pytest.raises(UserError, match="EXO needs"):
        lib.direct_loss("exo", *pair, flip=0.0)
    with pytest.raises(UserError, match="no credit 'to_og'"):
        self_play.nash_md(jnp.zeros(2), jnp.zeros(2), jnp.ones(2), jnp.array(0.5), credit="to_og")
    with pytest.raises(UserError, match="no bias 'optimist'; nearest: optimistic"):
        self_play.value_bias(jnp.array(0.0), jnp.array(0.0), "optimist")


def test_numbers_are_traced():
    """One program for all values; and a list of more than two is the mean over its pairs."""
    log_prob, reference = jnp.array([-5.0, -6.0, -4.0]), jnp.array([-5.2, -5.7, -4.5])
    loss = lambda beta, flip: lib.direct_loss(
        "rdpo", log_prob, reference, jnp.array([4, 5, 3]), jnp.array([1, 2, 0]), beta=beta, flip=flip
    )
    found = jax.jit(jax.vmap(loss))(jnp.array([0.1, 0.5]), jnp.array([0.2, 0.0]))
    ratio = np.array([0.2, -0.3, 0.5])
    for value, beta, flip in zip(found, (0.1, 0.5), (0.2, 0.0)):
        gaps = beta * np.array([ratio[2] - ratio[0], ratio[2] - ratio[1], ratio[0] - ratio[1]])
        right, wrong = np.log1p(np.exp(-gaps)), np.log1p(np.exp(gaps))
        assert float(value) == pytest.approx((((1 - flip) * right - flip * wrong) / (1 - 2 * flip)).mean(), rel=1e-5)
