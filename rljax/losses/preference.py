"""How likely a judgement is, given a score of each of its segments; negative log-likelihoods, for one judgement.

Every likelihood takes scores [G], ranks [G] (0 is the best, equal ranks are a tie) and one number of its own, so that they are
interchangeable (`LIKELIHOODS`). What a score is, is the method's: a sum of learned rewards, alpha log pi, Q - gamma V', ...
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rljax.errors import UserError
from rljax.names import nearest

Scalar = Float[Array, ""]
Scores = Float[Array, " G"]
Ranks = Int[Array, " G"]
Number = Scalar | float  # a hyperparameter, traced or not


def contrast(better: Scalar, worse: Scalar, bias: Number = 1.0) -> Scalar:
    """-log [e^better / (e^better + e^(bias worse))].

    With bias 1 it is Bradley & Terry's, 1952; below 1 it is Contrastive Preference Learning's conservative form, Hejna et al., 2023
    (arXiv:2310.13639), which stays satisfied with good segments that are likely rather than bad ones that are not.
    """
    chex.assert_rank([better, worse], 0)
    return jax.nn.softplus(bias * worse - better)


def pairwise(scores: Scores, ranks: Ranks, bias: Number = 1.0) -> Scalar:
    """The mean of `contrast` over all pairs of the ranking; a tie counts half for each order. 0 for a single segment."""
    chex.assert_equal_shape([scores, ranks])
    losses = jax.vmap(jax.vmap(contrast, (None, 0, None)), (0, None, None))(scores, scores, bias)
    share = jnp.where(ranks[:, None] < ranks, 1.0, jnp.where(ranks[:, None] == ranks, 0.5, 0.0))
    share = share * (1.0 - jnp.eye(len(scores)))
    return (share * losses).sum() / jnp.maximum(share.sum(), 1.0)


def hinged(better: Scalar, worse: Scalar, margin: Number = 1.0) -> Scalar:
    """max(margin - (better - worse), 0).

    Of scores that are distances from an anchor, turned round, it is the triplet loss: Schroff et al., 2015 (arXiv:1503.03832)."""
    chex.assert_rank([better, worse], 0)
    return jnp.maximum(margin - (better - worse), 0.0)


def over_decided(pair: Callable[[Scalar, Scalar], Scalar], scores: Scores, ranks: Ranks) -> Scalar:
    """The mean of pair(better, worse) over the pairs that are no tie; 0, with a gradient of 0, where all are."""
    chex.assert_equal_shape([scores, ranks])
    ahead = ranks[:, None] < ranks
    better, worse = jnp.where(ahead, scores[:, None], 0.0), jnp.where(ahead, scores, 0.0)  # the rest must not overflow
    losses = jax.vmap(jax.vmap(pair))(better, worse)
    return jnp.where(ahead, losses, 0.0).sum() / jnp.maximum(ahead.sum(), 1)


def decided(scores: Scores, ranks: Ranks, bias: Number = 1.0) -> Scalar:
    """The mean of `contrast` over the pairs that are no tie; 0 where all are."""
    return over_decided(lambda better, worse: contrast(better, worse, bias), scores, ranks)


def hinge(scores: Scores, ranks: Ranks, margin: Number = 1.0) -> Scalar:
    """The mean of `hinged` over the pairs that are no tie; 0 where all are."""
    return over_decided(lambda better, worse: hinged(better, worse, margin), scores, ranks)


def davidson(scores: Scores, ranks: Ranks, tie: Number = 1.0) -> Scalar:
    """Pairs, with P(tie) in proportion to `tie` e^((u + v) / 2) beside e^u and e^v. Davidson, 1970. The mean over all pairs."""
    return _over_pairs(_davidson_pair, scores, ranks, tie)


def _davidson_pair(u, v, order, tie):
    logits = jnp.stack([u, v, jnp.log(tie) + 0.5 * (u + v)])
    return jax.nn.logsumexp(logits) - logits[jnp.where(order < 0, 0, jnp.where(order > 0, 1, 2))]


def rao_kupper(scores: Scores, ranks: Ranks, threshold: Number = 0.5) -> Scalar:
    """Pairs, with P(u better) = e^u / (e^u + e^(v + threshold)), and a tie where neither is. Rao & Kupper, 1967; `threshold` > 0.
    The mean over all pairs."""
    return _over_pairs(_rao_kupper_pair, scores, ranks, threshold)


def _rao_kupper_pair(u, v, order, threshold):
    lose = lambda d: jax.nn.softplus(threshold + d)  # -log P(the one that is -d ahead is better)
    # 1 - sigmoid(u - v - t) - sigmoid(v - u - t) = (e^2t - 1) sigmoid(u - v - t) sigmoid(v - u - t)
    tie = lose(u - v) + lose(v - u) - jnp.log(jnp.expm1(2.0 * threshold))
    return jnp.where(order < 0, lose(v - u), jnp.where(order > 0, lose(u - v), tie))


def linear(scores: Scores, ranks: Ranks, offset: Number = 1e-6) -> Scalar:
    """Pairs, with P(u better) = u / (u + v) of scores above 0, both `offset` higher; ties count half for each order. The mean over
    all pairs. Choi et al., 2024 (LiRE, arXiv:2408.04190)."""

    def pair(u, v, order, offset):
        u, v = u + offset, v + offset
        total = jnp.log(u + v)
        first, second = total - jnp.log(u), total - jnp.log(v)
        return jnp.where(order < 0, first, jnp.where(order > 0, second, 0.5 * (first + second)))

    return _over_pairs(pair, scores, ranks, offset)


def _over_pairs(pair, scores, ranks, number):
    """The mean over all unordered pairs; `order` is below 0 where the first is better."""
    first, second = pairs_among(len(scores)).T
    order = jnp.sign(ranks[first] - ranks[second])
    return jax.vmap(pair, (0, 0, 0, None))(scores[first], scores[second], order, number).mean()


def plackett_luce(scores: Scores, ranks: Ranks, bias: Number = 1.0) -> Scalar:
    """The best is drawn by softmax, then the best of the rest, and so on; the sum over the draws. Plackett, 1975.

    Those that tie are drawn one after another, each beside all of its rank and below: the approximation of Breslow, 1974. With
    `bias` below 1 the scores of those not drawn count so much less, as in `contrast`; pairs are then CPL's.
    """
    chex.assert_equal_shape([scores, ranks])
    same = jnp.eye(len(scores), dtype=bool)
    beside = jnp.where(same, scores, bias * scores)  # [drawn, beside]
    allowed = ranks[:, None] <= ranks
    drawn = jax.nn.logsumexp(jnp.where(allowed, beside, -jnp.inf), axis=1) - scores
    alone = allowed.sum(axis=1) == 1
    return jnp.where(alone, 0.0, drawn).sum()


LIKELIHOODS = {
    "pairwise": pairwise,
    "decided": decided,
    "hinge": hinge,
    "plackett_luce": plackett_luce,
    "davidson": davidson,
    "rao_kupper": rao_kupper,
    "linear": linear,
}


def batch_loss(
    name: str, scores: Float[Array, "B G"], ranks: Int[Array, "B G"], weight: Float[Array, " B"], number: Number
) -> Scalar:
    """The mean loss of a batch of judgements under the likelihood of a name, by how sure they are. Raises UserError as `check`."""
    check(name)
    losses = jax.vmap(LIKELIHOODS[name], (0, 0, None))(scores, ranks, number)
    return (weight * losses).mean()


def check(name: str) -> None:
    """Raises UserError where there is no likelihood of the name."""
    if name not in LIKELIHOODS:
        raise UserError(f"There is no likelihood {name!r}; {nearest(name, LIKELIHOODS)}")


def sign_loss(log_ratio: Scalar, reference: Scalar, good: Bool[Array, ""], weight: Number = 1.0) -> Scalar:
    """weight (1 - sigmoid(+-(log_ratio - reference))) for a segment that is said to be good, or not, by itself.

    Ethayarajh et al., 2024 (KTO, arXiv:2402.01306), whose `reference` is the mean of log ratios, a constant.
    """
    chex.assert_rank([log_ratio, reference, good], 0)
    margin = log_ratio - jax.lax.stop_gradient(reference)
    return weight * jax.nn.sigmoid(jnp.where(good, -margin, margin))


def agreed(scores: Float[Array, "B G"], ranks: Int[Array, "B G"]) -> dict[str, Scalar]:
    """As a metric: the share of pairs of a batch, ties left out, that are scored in the order they were judged in."""
    share, count = jax.vmap(agreement)(scores, ranks)
    return {"preference/agreement": (share * count).sum() / jnp.maximum(count.sum(), 1.0)}


def agreement(scores: Scores, ranks: Ranks) -> tuple[Scalar, Scalar]:
    """Over the pairs of a ranking that are no tie: the share that scores order as it does (equal scores count half), and how many
    there are."""
    order = jnp.sign(scores[:, None] - scores)
    better = (ranks[:, None] < ranks).astype(jnp.float32)
    count = better.sum()
    return (better * (0.5 + 0.5 * order)).sum() / jnp.maximum(count, 1.0), count


def pairs_among(size: int) -> Int[np.ndarray, "N 2"]:
    """All pairs of a group, each once, by their places."""
    return np.stack(np.triu_indices(size, 1), axis=1)


def over_judgements(loss: Callable, preference: Float[Array, "G G"], pairs: Int[Array | np.ndarray, "N 2"]) -> Scalar:
    """The mean over pairs of `loss` of the places (better, worse), by how likely each is the better one."""

    def both(pair):
        better = preference[pair[0], pair[1]]
        return better * loss(pair) + (1.0 - better) * loss(pair[::-1])

    return jax.vmap(both)(jnp.asarray(pairs)).mean()


def win_rates(preference: Float[Array, "G G"]) -> Scores:
    """P(better than another of the group), in the mean over the others."""
    return (preference.sum(axis=1) - jnp.diag(preference)) / (len(preference) - 1)
