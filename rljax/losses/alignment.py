"""Direct preference losses, of log-probabilities and never of a model; for one list of completions of one prompt.

A loss is chosen by two names: what the score of a completion is (`completion_scores.SCORES`), and what a better and a worse score
cost (`LINKS`). `METHODS` are the combinations that have a name in the literature, computed by `direct_loss`.
"""

import inspect
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rljax.errors import UserError
from rljax.losses.completion_scores import LARGEST, SCORES, Lengths, per_token
from rljax.losses.preference import Number, Ranks, Scalar, Scores, contrast, hinged, over_decided, sign_loss
from rljax.names import nearest


def logistic(better: Scalar, worse: Scalar, flip: Number = 0.0, margin: Number = 0.0) -> Scalar:
    """-log sigmoid(better - worse - margin): DPO's link, and SimPO's with its margin.

    With `flip` above 0 the labels are smoothed, as if that share of them were wrong: cDPO, Mitchell, 2023.
    """
    right, wrong = contrast(better - margin, worse), contrast(worse, better - margin)
    return (1.0 - flip) * right + flip * wrong


def robust(better: Scalar, worse: Scalar, flip: Number = 0.1) -> Scalar:
    """Whose expectation over labels of which a share `flip` is turned round is `logistic` of the right labels.

    Chowdhury et al., 2024 (rDPO, arXiv:2403.00409). Raises UserError where `flip` is a number that is not in [0, 1/2).
    """
    if isinstance(flip, (int, float)) and not 0.0 <= flip < 0.5:
        raise UserError(f"rDPO needs a share of flipped labels of at least 0 and below 1/2, not {flip}.")
    right, wrong = contrast(better, worse), contrast(worse, better)
    return ((1.0 - flip) * right - flip * wrong) / (1.0 - 2.0 * flip)


def squared(better: Scalar, worse: Scalar, target: Number = 5.0) -> Scalar:
    """(better - worse - target)^2, of log ratios and with the target 1 / (2 tau). Azar et al., 2023 (IPO, arXiv:2310.12036)."""
    return jnp.square(better - worse - target)


def exo(better: Scalar, worse: Scalar, flip: Number = 1e-3) -> Scalar:
    """KL(softmax(scores) || (1 - flip, flip)). Ji et al., 2024 (EXO, arXiv:2402.00856), for pairs.

    Raises UserError where `flip` is a number that is not in (0, 1): the divergence is infinite at both ends.
    """
    if isinstance(flip, (int, float)) and not 0.0 < flip < 1.0:
        raise UserError(f"EXO needs a share of flipped labels above 0 and below 1, not {flip}.")
    right, wrong = -contrast(better, worse), -contrast(worse, better)  # logarithms of the policy's shares
    return jnp.exp(right) * (right - jnp.log1p(-flip)) + jnp.exp(wrong) * (wrong - jnp.log(flip))


def nca(better: Scalar, worse: Scalar) -> Scalar:
    """-log sigmoid(better) - the mean of log sigmoid(-score) of both. Chen et al., 2024 (NCA, arXiv:2402.05369), for pairs."""
    return jax.nn.softplus(-better) + 0.5 * (jax.nn.softplus(better) + jax.nn.softplus(worse))


def bco(better: Scalar, worse: Scalar, shift: Number = 0.0) -> Scalar:
    """-log sigmoid(better - shift) - log sigmoid(shift - worse), a classifier's loss; `shift` is the mean of scores, a constant.
    Jung et al., 2024 (BCO, arXiv:2404.04656)."""
    shift = jax.lax.stop_gradient(shift)
    return jax.nn.softplus(shift - better) + jax.nn.softplus(worse - shift)


def sppo(better: Scalar, worse: Scalar, target: Number = 5.0) -> Scalar:
    """(better - target)^2 + (worse + target)^2, of log ratios and with the target eta / 2. Wu et al., 2024 (SPPO,
    arXiv:2405.00675), where one of two always wins; see `self_play.sppo`."""
    return jnp.square(better - target) + jnp.square(worse + target)


def apo_zero(better: Scalar, worse: Scalar) -> Scalar:
    """Makes the better likelier than under the reference and the worse less so. D'Oosterlinck et al., 2024 (APO,
    arXiv:2408.06266)."""
    return jax.nn.sigmoid(-better) + jax.nn.sigmoid(worse)


def apo_down(better: Scalar, worse: Scalar) -> Scalar:
    """Makes both less likely, the worse more so: for data that are worse than the policy. D'Oosterlinck et al., 2024."""
    return jax.nn.sigmoid(better) + jax.nn.sigmoid(worse - better)


def discopop(better: Scalar, worse: Scalar, temperature: Number = 0.05) -> Scalar:
    """The logistic loss and, the surer the more, the exponential one. Lu et al., 2024 (DiscoPOP, arXiv:2406.08414)."""
    ahead = better - worse
    share = jax.nn.sigmoid(ahead / temperature)
    return (1.0 - share) * jax.nn.softplus(-ahead) + share * jnp.exp(jnp.minimum(-ahead, LARGEST))


LINKS = {
    "logistic": logistic,
    "robust": robust,
    "squared": squared,
    "hinge": hinged,
    "exo": exo,
    "nca": nca,
    "bco": bco,
    "sppo": sppo,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "discopop": discopop,
}


def preference_loss(
    log_prob: Scores,
    reference: Scores,
    length: Lengths,
    ranks: Ranks,
    *,
    score: str = "log_ratio",
    link: str = "logistic",
    weight: Number = 1.0,
    imitate: Number = 0.0,
    imitate_tokens: bool = True,
    **numbers: Number,
) -> Scalar:
    """weight * the mean of the link over the pairs that are no tie - imitate * the mean of log pi of those ranked best.

    Args:
      reference: the log-probabilities under the reference, constants; scores that need none do not look at them.
      ranks: 0 is the best, equal ranks are a tie.
      imitate_tokens: whether log pi to be imitated is the mean over tokens, not the sum.
      numbers: those that the score and the link have, by name: beta, alpha, flip, margin, target, shift, temperature.
    Raises:
      UserError: no score, link or number has the name.
    """
    chex.assert_equal_shape([log_prob, reference, length, ranks])
    check(score, "score", SCORES)
    check(link, "link", LINKS)
    of_score, of_link = _numbers(SCORES[score]), _numbers(LINKS[link])
    for name in numbers:
        check(name, f"number of {score} or {link}", of_score | of_link)
    given = lambda known: {name: number for name, number in numbers.items() if name in known}
    scores = SCORES[score](log_prob, jax.lax.stop_gradient(reference), length, **given(of_score))
    loss = weight * over_decided(lambda u, v: LINKS[link](u, v, **given(of_link)), scores, ranks)
    best = ranks == ranks.min()
    imitated = per_token(log_prob, length) if imitate_tokens else log_prob
    return loss - imitate * jnp.where(best, imitated, 0.0).sum() / best.sum()


def _numbers(function):
    """The names of a function's numbers: its parameters with a default."""
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name for parameter in parameters if parameter.default is not parameter.empty}


METHODS: dict[str, dict[str, Any]] = {
    "dpo": dict(beta=0.1),
    "cdpo": dict(beta=0.1, flip=0.1),
    "rdpo": dict(link="robust", beta=0.1, flip=0.1),
    "ipo": dict(score="average_log_ratio", link="squared", beta=1.0, target=5.0),
    "ipo_sum": dict(link="squared", beta=1.0, target=5.0),  # as in the first public code of DPO
    "hinge": dict(link="hinge", beta=0.1, margin=1.0),
    "h_dpo": dict(score="tempered_log_ratio", beta=0.1, alpha=0.95),
    "f_dpo_forward_kl": dict(score="forward_kl", beta=0.1),
    "f_dpo_jensen_shannon": dict(score="jensen_shannon", beta=0.1),
    "f_dpo_alpha": dict(score="alpha_divergence", beta=0.1, alpha=0.5),
    "exo": dict(link="exo", beta=0.1, flip=1e-3),
    "nca": dict(link="nca", beta=0.1),
    "bco": dict(link="bco", beta=0.1, shift=0.0),
    "sppo": dict(link="sppo", beta=1.0, target=5.0),
    "apo_zero": dict(link="apo_zero", beta=0.1),
    "apo_down": dict(link="apo_down", beta=0.1),
    "discopop": dict(link="discopop", beta=0.1, temperature=0.05),
    "simpo": dict(score="average_log_prob", beta=2.0, margin=1.0),
    "cpo": dict(score="likelihood", beta=0.1, imitate=1.0),  # Xu et al., 2024 (arXiv:2401.08417)
    "orpo": dict(score="log_odds", weight=0.1, imitate=1.0),
    # Zhao et al., 2023 (SLiC-HF, arXiv:2305.10425)
    "slic": dict(score="likelihood", link="hinge", beta=1.0, margin=1.0, imitate=0.1, imitate_tokens=False),
}


def direct_loss(
    method: str, log_prob: Scores, reference: Scores, length: Lengths, ranks: Ranks, **changes: Any
) -> Scalar:
    """`preference_loss` of a method by its name, with the arguments of `METHODS` but for `changes`. Raises UserError as it does."""
    check(method, "method", METHODS)
    return preference_loss(log_prob, reference, length, ranks, **{**METHODS[method], **changes})


def check(name: str, kind: str = "method", registry: Any = METHODS) -> None:
    """Raises UserError where the registry has no entry of the name."""
    if name not in registry:
        raise UserError(f"There is no {kind} {name!r}; {nearest(name, registry)}")


def reference_point(log_ratios: Float[Array, " B"]) -> Scalar:
    """KTO's: the mean of log (pi / pi_ref) of completions that belong to other prompts, at least 0, a constant."""
    return jax.lax.stop_gradient(jnp.maximum(log_ratios.mean(), 0.0))


def kto(
    log_prob: Scalar,
    reference: Scalar,
    good: Bool[Array, ""],
    point: Scalar,
    beta: Number = 0.1,
    desirable: Number = 1.0,
    undesirable: Number = 1.0,
) -> Scalar:
    """Of one completion that is said to be good, or not, by itself. Ethayarajh et al., 2024 (KTO, arXiv:2402.01306).

    `point` is `reference_point` of a batch; 0 makes of it APO-zero for single completions.
    """
    chex.assert_rank([log_prob, reference, good, point], 0)
    score = beta * (log_prob - jax.lax.stop_gradient(reference))
    return sign_loss(score, beta * point, good, jnp.where(good, desirable, undesirable))
