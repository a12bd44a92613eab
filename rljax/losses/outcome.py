"""Advantages of whole samples from what they were paid: K samples of each of Q prompts, rewards [Q, K] to advantages [Q, K].

The gradient they stand for is the mean over the K samples of A_i grad log pi(y_i). All are interchangeable (`ADVANTAGES`), and
constants. A group whose rewards are equal has the advantage 0 exactly, rounding or not, where its own baseline is all that is
taken off (but see `max_rl_full`).
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.scipy.special import betaln, xlog1py, xlogy
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rljax.errors import UserError
from rljax.names import nearest
from rljax.record import record, static

Scalar = Float[Array, ""]
Number = Scalar | float  # a hyperparameter, traced or not
Count = Int[Array, ""] | int | Number
Groups = Float[Array, "Q K"]


def mean_baseline(reward: Groups) -> Groups:
    """r - mean of the group: Dr. GRPO, Liu et al., 2025 (arXiv:2503.20783). Its mean is (K - 1) / K of the gradient of E[r]."""
    _several(reward, "a baseline from the group")
    return _centred(reward)


def grpo(reward: Groups, ddof: int = 1, eps: Number = 1e-6) -> Groups:
    """(r - mean) / (standard deviation + eps), both of the group. Shao et al., 2024 (DeepSeekMath, arXiv:2402.03300).

    Codes differ in `ddof` (1, or 0) and `eps` (1e-9 to 1e-2). With K samples the weight of a prompt is bounded, at K = 8 and a
    success in a hundred 2.4, far below the 1 / sqrt(p (1 - p)) = 10 of many samples.
    """
    _several(reward, "GRPO", ddof + 1)
    deviation = _centred(reward)
    return deviation / (_deviation(deviation, ddof, axis=1) + eps)


def grpo_batch(reward: Groups, ddof: int = 1, eps: Number = 1e-6) -> Groups:
    """(r - mean of the group) / (standard deviation of all rewards of the batch + eps)."""
    _several(reward, "a baseline from the group")
    return _centred(reward) / (_deviation(_centred(reward.reshape(1, -1)), ddof, axis=1) + eps)


def rloo(reward: Groups) -> Groups:
    """r less the mean of the others. Ahmadian et al., 2024 (arXiv:2402.14740). Unbiased for the gradient of E[r]."""
    _several(reward, "RLOO's mean of the others")
    return _centred(reward) * (reward.shape[1] / (reward.shape[1] - 1))


def batch_baseline(reward: Groups) -> Groups:
    """r - mean of the batch."""
    return _centred(reward.reshape(1, -1)).reshape(reward.shape)


def whiten(
    x: Float[Array, "*S"], weight: Float[Array, "*S"] | Bool[Array, "*S"] | None = None, eps: Number = 1e-8
) -> Float[Array, "*S"]:
    """(x - mean) / sqrt(variance + eps) over the whole array, in which each entry counts `weight` times (None: once).

    The variance is the unbiased one of that many entries. Of equal entries 0. What weighs nothing is scaled as well, but moves
    nothing."""
    weight = jnp.ones_like(x) if weight is None else weight.astype(x.dtype)
    x = x - x.reshape(-1)[0]
    count = weight.sum()
    x = x - (weight * x).sum() / jnp.maximum(count, 1.0)
    return x * jax.lax.rsqrt((weight * jnp.square(x)).sum() / jnp.maximum(count - 1.0, 1.0) + eps)


def gpg(reward: Groups) -> Groups:
    """(r - mean of the group), times all samples over those with a reward other than 0. GPG, Chu et al., 2025
    (arXiv:2504.02546), as public codes have it: it counts rewards, not advantages."""
    _several(reward, "GPG")
    return _centred(reward) * (reward.size / jnp.maximum((reward != 0.0).sum(), 1))


def gpg_mixed(reward: Groups) -> Groups:
    """(r - mean of the group), times all groups over those whose rewards differ: what GPG's correction is for, groups without
    a gradient."""
    _several(reward, "GPG")
    mixed = (reward != reward[:, :1]).any(1).sum()
    return _centred(reward) * (reward.shape[0] / jnp.maximum(mixed, 1))


def opo(reward: Groups, length: Groups) -> Groups:
    """r less the mean of the group's rewards weighted by length. OPO, Hao et al., 2025 (arXiv:2505.23585)."""
    chex.assert_equal_shape([reward, length])
    _several(reward, "OPO")
    shifted = reward - reward[:, :1]
    return shifted - (length * shifted).sum(1, keepdims=True) / jnp.maximum(length.sum(1, keepdims=True), 1.0)


def pass_at_k_gain(reward: Groups, k: int) -> Groups:
    """How much better a sample is than the best of k - 1 others, or 0; the mean over all choices of these among the K - 1.

    With k = K only the best of the group has an advantage, what it is ahead of the second: Tang et al., 2025
    (arXiv:2503.19595). Below K as Walder & Karkhanis, 2025 (arXiv:2505.15201). The mean over the K samples is unbiased for 1 /
    k of the gradient of E[max of k], for rewards 0 and 1 that of pass@k.
    """
    n = reward.shape[1]
    if not 2 <= k <= n:
        raise UserError(
            f"pass@k compares with k - 1 others of a group: k = {k} does not lie between 2 and the {n} samples of a prompt."
        )
    ascending = jnp.sort(reward, axis=1)
    best_of_others = jnp.array([*_best_is(n - 1, k - 1), 0.0], reward.dtype)  # P(it is the jth), j < i
    ahead = ascending[:, :, None] - ascending[:, None, :]
    gain = (jnp.where(jnp.tri(n, k=-1, dtype=bool), ahead, 0.0) * best_of_others).sum(2)
    return jnp.take_along_axis(gain, _ranks(reward), axis=1)


def max_rl(reward: Groups, eps: Number = 1e-6) -> Groups:
    """(r - mean) / (mean + eps) of rewards 0 and 1, as released with MaxRL, Tajwar et al., "Maximum likelihood
    reinforcement learning".

    It ascends sum_k pass@k / k up to k = K - 1 exactly: a group without a success is dropped, and its baseline with it.
    """
    _several(reward, "MaxRL's baseline")
    return _centred(reward) / (reward.mean(1, keepdims=True) + eps)


def max_rl_full(reward: Groups) -> Groups:
    """(r - mean) / mean, and -1 for all of a group without a success: unbiased for the gradient of sum_k pass@k / k up to k =
    K.

    It is the mean of grad log pi over the successes (MaxRL's estimator of order K) with a baseline that is the same for all
    groups."""
    mean = reward.mean(1, keepdims=True)
    return jnp.where(mean > 0.0, _centred(reward) / jnp.where(mean > 0.0, mean, 1.0), -1.0)


def beta_parameters(reward: Groups, most: Number = 1e4) -> tuple[Scalar, Scalar]:
    """BNPO's (alpha, beta): a Beta law is fitted to the prompts' shares of success by its moments, a and b, and they are 1 + a
    / 3 and 1 + b / 3, but not below 1. Xiao et al., 2025 (arXiv:2506.02864).

    a + b is kept below `most` (ours): where all prompts have the same share it has no bound.
    """
    if reward.shape[0] < 2:
        raise UserError("BNPO fits a law to the prompts' shares of success: it needs two prompts at least in a batch.")
    share = reward.mean(1)
    mean, variance = share.mean(), share.var(ddof=1)
    spread = mean * (1.0 - mean)
    both = jnp.where(spread >= (most + 1.0) * variance, most, spread / jnp.where(variance > 0.0, variance, 1.0) - 1.0)
    return jnp.maximum(1.0, 1.0 + mean * both / 3.0), jnp.maximum(1.0, 1.0 + (1.0 - mean) * both / 3.0)


def beta_normalised(reward: Groups, alpha: Number, beta: Number, cap: Number = 1e6) -> Groups:
    """(r - p) over the density of Beta(alpha, beta) at p, the group's mean; 1 / density is at most `cap`. Rewards within 0 and
    1.

    Beta(1, 1) is the mean baseline, Beta(3/2, 3/2) is GRPO's shape, (r - p) pi / (8 sqrt(p (1 - p))). arXiv:2506.02864.
    """
    _several(reward, "BNPO")
    p = reward.mean(1, keepdims=True)
    log_density = xlogy(alpha - 1.0, p) + xlog1py(beta - 1.0, -p) - betaln(alpha, beta)
    return _centred(reward) * jnp.minimum(jnp.exp(-log_density), cap)


def bnpo(reward: Groups) -> Groups:
    """`beta_normalised` by `beta_parameters`; of several rewards, the sum over them. (A `loss_type="bnpo"` elsewhere is an
    aggregation.)"""
    return beta_normalised(reward, *beta_parameters(reward))


def canon(reward: Groups, metric: Groups, share: Number = 0.5, tilt: Number = 1.0) -> Groups:
    """Groups are halved by a metric (entropy, length), and compared with the other half (`share`) and with their own (the
    rest).

    CANON, 2025, "Conditional advantage estimation for reinforcement learning in large reasoning models", from its
    code. share 1/2 is the mean baseline exactly. Across the halves, the rewards of the upper count `tilt` times: below 1 a low
    metric is preferred. Equal metrics are halved by position.
    """
    chex.assert_equal_shape([reward, metric])
    _several(reward, "CANON")
    half, odd = divmod(reward.shape[1], 2)
    if odd:
        raise UserError(f"CANON halves each group: {reward.shape[1]} samples of a prompt are not an even number.")
    upper = _ranks(metric) >= half
    shifted = reward - reward[:, :1]
    mean_upper = jnp.where(upper, shifted, 0.0).sum(1, keepdims=True) / half
    mean_lower = jnp.where(upper, 0.0, shifted).sum(1, keepdims=True) / half
    own, other = jnp.where(upper, mean_upper, mean_lower), jnp.where(upper, mean_lower, mean_upper)
    plain = share * (shifted - other) + (1.0 - share) * (shifted - own)
    tilted = share * (tilt - 1.0) * jnp.where(upper, reward, -(mean_upper + reward[:, :1]))
    return plain + tilted


def best(reward: Groups) -> Groups:
    """K for the best of the group and 0 for the others, so that the mean is grad log pi of best-of-n; the best share it where
    they tie."""
    first = reward == reward.max(1, keepdims=True)
    return reward.shape[1] * first / first.sum(1, keepdims=True)


def best_and_worst(reward: Groups) -> Groups:
    """K for the best, -K for the worst, 0 for the others; those that tie share it."""
    _several(reward, "best and worst")
    return best(reward) - best(-reward)


def most_varied(advantage: Groups, count: Count) -> Bool[Array, "Q K"]:
    """Which `count` samples of the batch have the advantages of largest variance: some of the least, and the rest of the
    largest.

    The samples that D3S keeps ("Learning more with less: a dynamic dual-level down-sampling framework for efficient policy
    optimization", 2025). `count` may be traced, so that it can be annealed. Those that are dropped belong to no mean: mask
    their tokens."""
    flat = jnp.sort(advantage.reshape(-1))
    flat = flat - flat.mean()
    n = flat.size
    count = jnp.round(jnp.asarray(count, jnp.float32)).astype(jnp.int32)
    low = jnp.arange(n + 1)  # this many of the least
    high = jnp.clip(count - low, 0, n)
    sums = lambda x: jnp.concatenate([jnp.zeros(1, x.dtype), jnp.cumsum(x)])
    kept = lambda x: sums(x)[low] + sums(x[::-1])[high]
    variance = kept(jnp.square(flat)) / count - jnp.square(kept(flat) / count)
    chosen = jnp.argmax(jnp.where(low <= count, variance, -jnp.inf))
    rank = _ranks(advantage.reshape(1, -1)).reshape(advantage.shape)
    return (rank < chosen) | (rank >= n - (count - chosen))


def d3s(reward: Groups, count: Count, ddof: int = 1, eps: Number = 1e-6) -> Groups:
    """GRPO's advantages of the `most_varied`, and 0 for the others. Which they are is what `most_varied` says of
    `grpo(reward)`."""
    advantage = grpo(reward, ddof, eps)
    return jnp.where(most_varied(advantage, count), advantage, 0.0)


# --- Which samples of a group are learned from, where a reward is surest at its ends. PF-PPO, Zhang et al., 2024
# (arXiv:2409.06957). (places in ascending order of reward [Q, K], one below the last of each [Q, 1]) -> places [Q, M]

FILTERS = {
    "best": lambda order, other: order[:, -1:],
    "best_random": lambda order, other: jnp.concatenate([order[:, -1:], other], axis=1),
    "best_worst": lambda order, other: order[:, [-1, 0]],
}


def filtered(name: str, reward: Groups, key: PRNGKeyArray) -> Int[Array, "Q M"]:
    """Which samples of each group a filter keeps: the best, the best and any other, or the best and the worst; equal ones by
    position. Raises UserError as `check_filter`."""
    check_filter(name, reward.shape[1])
    order = jnp.argsort(reward, axis=1)
    drawn = jax.random.randint(key, (len(reward), 1), 0, reward.shape[1] - 1)
    return FILTERS[name](order, jnp.take_along_axis(order, drawn, axis=1))


def check_filter(name: str, group_size: int) -> None:
    """Raises UserError where there is no filter of the name, or nothing to choose from."""
    if name not in FILTERS:
        raise UserError(f"There is no filter {name!r}; {nearest(name, FILTERS)}")
    if group_size < 2:
        raise UserError(f"group_size={group_size} leaves a filter nothing to choose from; it must be 2 at least.")


# --- What makes one reward of those of an ensemble [M, ...]. Coste et al., 2023 (arXiv:2310.02743).


def worst_case(rewards: Float[Array, "M ..."]) -> Float[Array, "..."]:
    """The least over the ensemble (WCO). Rewards learned from comparisons have no origin of their own: centre each first."""
    return rewards.min(0)


def uncertainty_weighted(rewards: Float[Array, "M ..."], weight: Number, ddof: int = 1) -> Float[Array, "..."]:
    """Mean less `weight` times the variance over the ensemble (UWO), whose members are centred. The authors' code has ddof 1 for
    PPO and 0 for best-of-n."""
    if rewards.shape[0] <= ddof:
        raise UserError(
            f"The variance over an ensemble of {rewards.shape[0]} with ddof {ddof} is not defined: it needs {ddof + 1} members."
        )
    return rewards.mean(0) - weight * rewards.var(0, ddof=ddof)


# (rewards [M, ...], weight) -> [...]
ENSEMBLES = {
    "mean": lambda rewards, weight: rewards.mean(0),
    "worst_case": lambda rewards, weight: worst_case(rewards),
    "uncertainty_weighted": uncertainty_weighted,
}


def check_ensemble(name: str) -> None:
    """Raises UserError where nothing of the name makes one reward of several."""
    if name not in ENSEMBLES:
        raise UserError(f"There is no reward of an ensemble {name!r}; {nearest(name, ENSEMBLES)}")


def pass_at_k(correct: Bool[Array, "*S n"], k: int) -> Float[Array, "*S"]:
    """1 - C(n - c, k) / C(n, k) with c correct of n samples: unbiased for the chance that one of k is correct. Chen et al.,
    2021 (arXiv:2107.03374). Raises UserError where k is not within 1 and n."""
    n = correct.shape[-1]
    if not 1 <= k <= n:
        raise UserError(f"pass@{k} cannot be told from {n} samples: k lies between 1 and {n}.")
    wrong = n - correct.sum(-1, keepdims=True)
    position = jnp.arange(1, n + 1)
    return 1.0 - jnp.where(position > wrong, 1.0 - k / position, 1.0).prod(-1)


def best_of(reward: Float[Array, "*S M"], k: int) -> Float[Array, "*S"]:
    """The best of k of M samples, the mean over all choices: unbiased for the mean of the best of k, whatever the rewards. Of
    rewards 0 and 1 it is `pass_at_k`, and its mean 1 - (1 - q)^k with q that of one. Raises UserError where k is not within 1 and
    M."""
    n = reward.shape[-1]
    if not 1 <= k <= n:
        raise UserError(f"The best of {k} cannot be told from {n} samples: k lies between 1 and {n}.")
    return (jnp.sort(reward, axis=-1) * jnp.array(_best_is(n, k), reward.dtype)).sum(-1)


def _best_is(n: int, k: int) -> list[float]:
    """How likely the best of k that are chosen among n is each of these, in ascending order."""
    return [math.comb(j, k - 1) / math.comb(n, k) for j in range(n)]


# --- All of them under one signature.


class Samples(NamedTuple):
    """reward [Q, K], and where an estimator reads them the number of tokens and the metric (entropy, length) of each sample."""

    reward: Groups
    length: Groups | None = None
    metric: Groups | None = None


@record
class Options:
    """Hyperparameters; each estimator reads its own."""

    eps: float = 1e-6  # GRPO, MaxRL: added to what is divided by
    ddof: int = static(1)  # GRPO: of the standard deviation
    k: int = static(2)  # pass_at_k: best of how many
    share: float = 0.5  # CANON: of the comparison with the other half
    tilt: float = 1.0  # CANON: what rewards of the upper half count
    kept: float = 0.5  # D3S: share of the batch's samples that is kept


ADVANTAGES = {
    "reinforce": lambda s, o: s.reward,
    "batch_baseline": lambda s, o: batch_baseline(s.reward),
    "dr_grpo": lambda s, o: mean_baseline(s.reward),
    "grpo": lambda s, o: grpo(s.reward, o.ddof, o.eps),
    "grpo_batch": lambda s, o: grpo_batch(s.reward, o.ddof, o.eps),
    "rloo": lambda s, o: rloo(s.reward),
    "reinforce_plus_plus": lambda s, o: whiten(s.reward, s.length),
    "reinforce_plus_plus_baseline": lambda s, o: whiten(mean_baseline(s.reward), s.length),
    "gpg": lambda s, o: gpg(s.reward),
    "gpg_mixed": lambda s, o: gpg_mixed(s.reward),
    "opo": lambda s, o: opo(s.reward, s.length),
    "pass_at_k": lambda s, o: pass_at_k_gain(s.reward, o.k),
    "best_minus_second": lambda s, o: pass_at_k_gain(s.reward, s.reward.shape[1]),
    "max_rl": lambda s, o: max_rl(s.reward, o.eps),
    "max_rl_full": lambda s, o: max_rl_full(s.reward),
    "bnpo": lambda s, o: bnpo(s.reward),
    "canon": lambda s, o: canon(s.reward, s.metric, o.share, o.tilt),
    "best": lambda s, o: best(s.reward),
    "best_and_worst": lambda s, o: best_and_worst(s.reward),
    "d3s": lambda s, o: d3s(s.reward, o.kept * s.reward.size, o.ddof, o.eps),
}
READS = {"reinforce_plus_plus": "length", "reinforce_plus_plus_baseline": "length", "opo": "length", "canon": "metric"}


def advantages(name: str, samples: Samples, options: Options | None = None) -> Groups:
    """The advantages [Q, K] of the estimator of a name, constants.

    REINFORCE++ (Hu et al., 2025, arXiv:2501.03262) whitens over the batch, in which each sample counts as often as it has
    tokens. Raises UserError where there is no such estimator, where `samples` lacks what it reads, or K is too small for it.
    """
    check(name)
    reads = READS.get(name)
    if reads and getattr(samples, reads) is None:
        raise UserError(f"The estimator {name!r} reads the {reads} of each sample: pass Samples(reward, {reads}=...).")
    return jax.lax.stop_gradient(ADVANTAGES[name](samples, options or Options()))


def check(name: str) -> None:
    """Raises UserError where there is no estimator of the name."""
    if name not in ADVANTAGES:
        raise UserError(f"There is no advantage {name!r}; {nearest(name, ADVANTAGES)}")


def _several(reward, what, least=2):
    if reward.shape[1] < least:
        raise UserError(f"{what} needs {least} samples of each prompt at least; there is {reward.shape[1]}.")


def _centred(reward):
    """r - mean of the row, from the first on: rounding of the mean would else give equal rewards advantages."""
    shifted = reward - reward[:, :1]
    return shifted - shifted.mean(1, keepdims=True)


def _deviation(centred, ddof, axis):
    variance = jnp.square(centred).sum(axis, keepdims=True) / (centred.shape[axis] - ddof)
    return jnp.where(
        variance > 0.0, jnp.sqrt(jnp.where(variance > 0.0, variance, 1.0)), 0.0
    )  # a root has no slope at 0


def _ranks(x):
    """The place of each entry of a row in ascending order; equal entries by position."""
    return jnp.argsort(jnp.argsort(x, axis=1), axis=1)
