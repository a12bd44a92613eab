"""Losses of policies that are compared with themselves, or with a mixture, by preferences P(y better than y') in [0, 1] that need
not come from a reward. For one pair or one completion; the exact steps that they stand for are in `rljax/tabular/games.py`."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from rljax.errors import UserError
from rljax.losses.alignment import logistic, squared
from rljax.losses.preference import Number, Ranks, Scalar, Scores, over_decided
from rljax.names import nearest

# Which log ratios a token's log-probability answers for: those from it on, which makes the sequence's KL; or its own alone.
CREDITS = {"to_go": lambda log_ratio: jnp.cumsum(log_ratio[::-1])[::-1], "token": lambda log_ratio: log_ratio}


def nash_md(
    log_probs: Float[Array, " T"],
    references: Float[Array, " T"],
    mask: Real[Array, " T"] | Bool[Array, " T"],
    preference: Scalar,
    tau: Number = 0.1,
    credit: str = "to_go",
) -> Scalar:
    """Whose gradient is in the mean that of -[P(pi better than the opponent) - tau KL(pi || reference)], for one completion of pi.

    Munos et al., 2023 (Nash-MD, arXiv:2312.00886): its opponent is the mixture pi^(1 - a) reference^a. The value means nothing:
    log ratios and preferences are constants, and 1/2 is a baseline.

    Args:
      log_probs, references: of the completion's tokens; what is masked may be anything.
      preference: P(the completion is better than the opponent's).
      credit: "to_go", which is exact, or "token", as in public code; they differ for completions of more than one token.
    Raises:
      UserError: there is no such credit.
    """
    chex.assert_equal_shape([log_probs, references, mask])
    if credit not in CREDITS:
        raise UserError(f"There is no credit {credit!r}; {nearest(credit, CREDITS)}")
    counted = mask != 0
    log_probs = jnp.where(counted, log_probs, 0.0)
    log_ratio = jax.lax.stop_gradient(log_probs - jnp.where(counted, references, 0.0))
    worth = jax.lax.stop_gradient(preference) - 0.5 - tau * CREDITS[credit](log_ratio)
    return -(worth * log_probs).sum()


def inpo(
    log_prob: Scores, reference: Scores, last: Scores, ranks: Ranks, eta: Number = 7.5e-3, tau: Number = 2.5e-3
) -> Scalar:
    """(h_better - h_worse - 1 / (2 eta))^2 of h = log pi - (tau / eta) log reference - (1 - tau / eta) log last.

    Zhang et al., 2024 (INPO, arXiv:2407.00617). For pairs of the last iterate its minimiser is a step of mirror descent,
    in proportion to reference^(tau / eta) last^(1 - tau / eta) e^(P(better than last) / eta).
    """
    chex.assert_equal_shape([log_prob, reference, last, ranks])
    share = tau / eta
    anchor = jax.lax.stop_gradient(share * reference + (1.0 - share) * last)
    return over_decided(lambda u, v: squared(u, v, 0.5 / eta), log_prob - anchor, ranks)


def dno(log_prob: Float[Array, "2"], last: Float[Array, "2"], win_rate: Float[Array, "2"], eta: Number = 0.1) -> Scalar:
    """The cross-entropy of sigmoid(eta (log ratio_1 - log ratio_2)) to the last iterate, with sigmoid(win_rate_1 - win_rate_2) as
    the label; a win rate is P(better than the last iterate).

    Rosset et al., 2024 (DNO, arXiv:2404.03715). Its minimiser is in proportion to last e^(win rate / eta).
    """
    chex.assert_equal_shape([log_prob, last, win_rate])
    first, second = eta * (log_prob - jax.lax.stop_gradient(last))
    label = jax.nn.sigmoid(win_rate[0] - win_rate[1])
    return logistic(first, second, 1.0 - jax.lax.stop_gradient(label))


def sppo(log_prob: Scalar, last: Scalar, win_rate: Scalar, eta: Number = 10.0) -> Scalar:
    """(log (pi / last) - eta (win_rate - 1/2))^2, for one completion of the last iterate. Wu et al., 2024 (SPPO,
    arXiv:2405.00675)."""
    chex.assert_rank([log_prob, last, win_rate], 0)
    return jnp.square(log_prob - jax.lax.stop_gradient(last) - eta * jax.lax.stop_gradient(win_rate - 0.5))


VALUES = {"optimistic": 1.0, "pessimistic": -1.0}


def value_bias(log_prob: Scalar, reference: Scalar, kind: str, alpha: Number = 1.0, beta: Number = 0.1) -> Scalar:
    """What is added to DPO's loss for a calibration completion, +-alpha beta log (pi / reference): in the mean, where rewards are
    those of mean 0 over calibration, it is -+alpha times the optimal regularised value of the reward that pi stands for.

    Cen et al., 2024 (VPO, arXiv:2405.19320): "optimistic" explores online, "pessimistic" is careful with data. Completions of the
    reference as calibration and beta 1 are XPO: Xie et al., 2024 (arXiv:2405.21046). Raises UserError for another kind.
    """
    chex.assert_rank([log_prob, reference], 0)
    if kind not in VALUES:
        raise UserError(f"There is no bias {kind!r}; {nearest(kind, VALUES)}")
    return VALUES[kind] * alpha * beta * (log_prob - jax.lax.stop_gradient(reference))
