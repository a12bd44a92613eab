"""Preference losses of more than two completions of one prompt, of the scores or log-probabilities [G] that
`rljax/losses/alignment.py` has. Likelihoods of whole rankings (Plackett & Luce's) are in `rljax/losses/preference.py`.

`METHODS` are all that have a name, those of pairs too, computed by `direct_loss`."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax.losses import alignment
from rljax.losses.alignment import logistic
from rljax.losses.completion_scores import Lengths, log_ratio
from rljax.losses.preference import Number, Ranks, Scalar, Scores, contrast, plackett_luce


def ranks_of(values: Scores) -> Ranks:
    """How many are better than each: 0 for the highest, equal values are a tie."""
    return (values > values[:, None]).sum(axis=1).astype(jnp.int32)


def lambda_loss(scores: Scores, labels: Scores) -> Scalar:
    """The sum of weight * -log sigmoid(s_i - s_j) over the pairs of which i has the higher label, where a pair's weight is how much
    exchanging the two would change the discounted gain of the order by scores, a constant:

        |2^label_i - 2^label_j| |1 / log(1 + place_i) - 1 / log(1 + place_j)|, places from 1 on.

    Liu et al., 2024 (LiPO-lambda, arXiv:2402.01878). For two completions it is a constant times DPO's.
    """
    chex.assert_equal_shape([scores, labels])
    place = 1 + jnp.argsort(jnp.argsort(-jax.lax.stop_gradient(scores)))
    gain, discount = jnp.exp2(labels), 1.0 / jnp.log1p(place)
    weight = jnp.abs(gain[:, None] - gain) * jnp.abs(discount[:, None] - discount)
    losses = jax.vmap(jax.vmap(contrast, (None, 0)), (0, None))(scores, scores)
    return jnp.where(labels[:, None] > labels, jax.lax.stop_gradient(weight) * losses, 0.0).sum()


WHOLE = {  # of DPO's scores and ranks
    "plackett_luce": plackett_luce,  # as in the appendix of Rafailov et al., 2023
    # each place is worth half of the one before
    "lipo": lambda scores, ranks: lambda_loss(scores, -ranks.astype(scores.dtype)),
}
METHODS: dict[str, dict[str, Any]] = alignment.METHODS | {name: dict(beta=0.1) for name in WHOLE}


def direct_loss(
    method: str, log_prob: Scores, reference: Scores, length: Lengths, ranks: Ranks, **changes: Any
) -> Scalar:
    """`alignment.direct_loss` of the methods of pairs, and by the same arguments those of `WHOLE` rankings. Raises UserError where
    there is no such method or number."""
    alignment.check(method, registry=METHODS)
    if method not in WHOLE:
        return alignment.direct_loss(method, log_prob, reference, length, ranks, **changes)
    for name in changes:
        alignment.check(name, f"number of {method}", METHODS[method])
    scores = log_ratio(log_prob, jax.lax.stop_gradient(reference), length, **{**METHODS[method], **changes})
    return WHOLE[method](scores, ranks)


def all_pairs(log_prob: Scores, values: Scores, alpha: Number = 0.05) -> Scalar:
    """-log sigmoid(alpha (log pi_i - log pi_j)) where i is worth more, over all G^2 ordered pairs of a policy's own samples.

    Pan et al., 2025, "Preference optimization for combinatorial optimization problems". Without a reference; ties, and each with
    itself, count as 0 in the mean, as in the authors' code.
    """
    chex.assert_equal_shape([log_prob, values])
    losses = jax.vmap(jax.vmap(contrast, (None, 0)), (0, None))(alpha * log_prob, alpha * log_prob)
    return jnp.where(values[:, None] > values, losses, 0.0).mean()


def posterior_matching(log_prob: Scores, prior: Scores, good: Scores, proposal: Scores) -> Scalar:
    """-sum_i (a_i - b_i) log pi(y_i) with constants a = softmax(log prior + log P(good) - log proposal), the self-normalised
    weights of the posterior, and b = softmax(log pi - log proposal), those of the policy; 0 where the two laws are one.

    Pandey et al., 2024 (BRAIn, arXiv:2402.02479); its gradient is that of KL(posterior || pi), estimated with a baseline.

    Args:
      prior: the log-probability under the policy before training, of samples of the proposal.
      good: log P(good | completion), of a reward model; a constant may be missing.
      proposal: the log-probability under the law that drew the samples.
    """
    chex.assert_equal_shape([log_prob, prior, good, proposal])
    weight = jax.nn.softmax(prior + good - proposal) - jax.nn.softmax(log_prob - proposal)
    return -(jax.lax.stop_gradient(weight) * log_prob).sum()


def dominance(above: Float[Array, " B"], below: Float[Array, " B"], flip: Number = 0.0) -> Scalar:
    """The logistic link between quantiles of two samples: the one is to dominate the other, not each member its own.

    Melnyk et al., 2024 (AOT, arXiv:2406.05882). Unpaired: the scores of good and of bad completions; paired: differences of
    log-probabilities of each pair under the policy and under the reference. B is a batch here.
    """
    chex.assert_equal_shape([above, below])
    return jax.vmap(logistic, (0, 0, None))(jnp.sort(above), jnp.sort(below), flip).mean()
