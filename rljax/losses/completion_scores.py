"""What a completion's score is: functions of log-probabilities [G] under a policy and under a reference, and of lengths [G], for a
list of completions of one prompt.

Log-probabilities are sums over a completion's tokens (`completion`), its end token included and the prompt's left out; lengths
count the same tokens. All scores take the same arrays, used or not, so that they are interchangeable (`SCORES`).
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from rljax.losses.preference import Number, Scalar, Scores

Lengths = Real[Array, " G"]
LARGEST = 80.0  # exponents are cut there: e^80 is still finite in float32


def completion(log_probs: Float[Array, " T"], mask: Real[Array, " T"] | Bool[Array, " T"]) -> tuple[Scalar, Scalar]:
    """The log-probability of a completion and its length, from those of its tokens; what is masked may be anything, also NaN."""
    chex.assert_equal_shape([log_probs, mask])
    counted = mask != 0
    return jnp.where(counted, log_probs, 0.0).sum(), counted.sum().astype(log_probs.dtype)


def per_token(log_prob: Scores, length: Lengths) -> Scores:
    """The mean over a completion's tokens; 0 for an empty one."""
    return log_prob / jnp.maximum(length, 1).astype(log_prob.dtype)


def log_ratio(log_prob: Scores, reference: Scores, length: Lengths, beta: Number = 0.1) -> Scores:
    """beta log (pi / pi_ref), the reward that pi is optimal for. Rafailov et al., 2023 (DPO, arXiv:2305.18290)."""
    return beta * (log_prob - reference)


def average_log_ratio(log_prob: Scores, reference: Scores, length: Lengths, beta: Number = 0.1) -> Scores:
    """`log_ratio` per token, so that long completions weigh no more than short ones."""
    return beta * per_token(log_prob - reference, length)


def tempered_log_ratio(
    log_prob: Scores, reference: Scores, length: Lengths, beta: Number = 0.1, alpha: Number = 0.95
) -> Scores:
    """beta (alpha log pi - log pi_ref): alpha below 1 makes pi more certain, above 1 less. Omura et al., 2024 (H-DPO,
    arXiv:2411.07595); the optimum is in proportion to pi_ref^(1 / alpha) e^(reward / (alpha beta))."""
    return beta * (alpha * log_prob - reference)


def forward_kl(log_prob: Scores, reference: Scores, length: Lengths, beta: Number = 0.1) -> Scores:
    """beta f'(pi / pi_ref) of the forward KL, f'(u) = 1 - 1 / u. Wang et al., 2023 (f-DPO, arXiv:2309.16240), as the next two."""
    return -beta * jnp.expm1(_cut(reference - log_prob))


def jensen_shannon(log_prob: Scores, reference: Scores, length: Lengths, beta: Number = 0.1) -> Scores:
    """beta f'(pi / pi_ref) of Jensen & Shannon's divergence, f'(u) = log (2 u / (1 + u))."""
    return beta * (jnp.log(2.0) + jax.nn.log_sigmoid(log_prob - reference))


def alpha_divergence(
    log_prob: Scores, reference: Scores, length: Lengths, beta: Number = 0.1, alpha: Number = 0.5
) -> Scores:
    """beta f'(pi / pi_ref) of alpha divergences, f'(u) = (1 - u^-alpha) / alpha: the reverse KL at 0, the forward KL at 1."""
    difference = log_prob - reference
    small = jnp.abs(alpha) < 1e-6
    safe = jnp.where(small, 1.0, alpha)
    return beta * jnp.where(small, difference, -jnp.expm1(_cut(-safe * difference)) / safe)


def likelihood(log_prob: Scores, reference: Scores, length: Lengths, beta: Number = 0.1) -> Scores:
    """beta log pi, without a reference: CPO's score, and with beta for alpha that of contrastive preference learning."""
    return beta * log_prob


def average_log_prob(log_prob: Scores, reference: Scores, length: Lengths, beta: Number = 2.0) -> Scores:
    """beta log pi / length, without a reference. Meng et al., 2024 (SimPO, arXiv:2405.14734)."""
    return beta * per_token(log_prob, length)


def log_odds(log_prob: Scores, reference: Scores, length: Lengths) -> Scores:
    """log (p / (1 - p)) of p = pi^(1 / length), without a reference. Hong et al., 2024 (ORPO, arXiv:2403.07691)."""
    log_p = jnp.minimum(per_token(log_prob, length), -1e-7)  # 1 - p must not be 0
    likely = log_p > -jnp.log(2.0)
    exact = jnp.log(-jnp.expm1(jnp.where(likely, log_p, -1.0)))
    return log_p - jnp.where(likely, exact, jnp.log1p(-jnp.exp(jnp.where(likely, -1.0, log_p))))


def _cut(exponent):
    return jnp.minimum(exponent, LARGEST)


SCORES = {
    "log_ratio": log_ratio,
    "average_log_ratio": average_log_ratio,
    "tempered_log_ratio": tempered_log_ratio,
    "forward_kl": forward_kl,
    "jensen_shannon": jensen_shannon,
    "alpha_divergence": alpha_divergence,
    "likelihood": likelihood,
    "average_log_prob": average_log_prob,
    "log_odds": log_odds,
}
