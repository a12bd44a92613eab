"""How far a policy is from a reference: estimators from samples, exact sums over the vocabulary, and f-divergences.

d = log pi(y) - log ref(y) of what the policy sampled. Three numbers have the mean KL(pi, ref), and three different gradients,
so where an estimator may stand is a part of its name (`check`):

                 in the loss, as it is      in the loss, times pi / mu       in the reward
    k1           0: regularises nothing     grad KL(pi, ref)                 grad KL(pi, ref)
    k2           grad KL(pi, ref)           -                                -
    k3           grad KL(ref, pi)           grad KL(pi, ref)                 -
    absolute     2 grad TV(pi, ref)         -                                -
    rapo         -                          grad KL(ref, pi)                 -

k1 to k3: Schulman, 2020, "Approximating KL divergence". In the loss they hold for a sequence as one: token by token they lack
what a token does to the divergence of the tokens after it; k1 in the reward, with returns to go, is exact. "As it is": samples
of the policy itself."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax.errors import UserError
from rljax.losses.surrogate import LIMIT
from rljax.names import nearest

Scalar = Float[Array, ""]
Number = Scalar | float  # a hyperparameter, traced or not
LogProbs = Float[Array, "*S"]
Logits = Float[Array, " V"]


def k1(log_prob: LogProbs, reference: LogProbs) -> LogProbs:
    """d. Unbiased, and of both signs."""
    return log_prob - reference


def k2(log_prob: LogProbs, reference: LogProbs) -> LogProbs:
    """d^2 / 2. Biased as a number; as a loss it has the gradient of KL(pi, ref)."""
    return 0.5 * jnp.square(log_prob - reference)


def k3(log_prob: LogProbs, reference: LogProbs) -> LogProbs:
    """e^-d + d - 1. Unbiased, not below 0; as a loss it has the gradient of KL(ref, pi), the other one."""
    d = _bounded(log_prob - reference)
    return jnp.exp(-d) + d - 1.0


def absolute(log_prob: LogProbs, reference: LogProbs) -> LogProbs:
    """|d|. As a loss it has the gradient of sum |pi - ref|."""
    return jnp.abs(log_prob - reference)


def rapo(log_prob: LogProbs, reference: LogProbs) -> LogProbs:
    """u log u - u + 1 with u = ref / pi: unbiased for KL(ref, pi) from the policy's own samples, not below 0. RAPO, "Unlocking
    reasoning capabilities in LLMs via reinforcement learning exploration", 2025, by secondary text; as a loss it needs the
    ratio as well."""
    d = _bounded(reference - log_prob)
    return jnp.exp(d) * d - jnp.exp(d) + 1.0


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3, "absolute": absolute, "rapo": rapo}
PLACES = {"loss": ("k2", "k3", "absolute"), "weighted_loss": ("k1", "k3", "rapo"), "reward": ("k1",)}


def check(name: str, place: str) -> None:
    """Raises UserError where there is no estimator or place of the name, or the one has no right gradient in the other."""
    if name not in ESTIMATORS:
        raise UserError(f"There is no divergence estimator {name!r}; {nearest(name, ESTIMATORS)}")
    if place not in PLACES:
        raise UserError(f"A divergence is estimated in one of {', '.join(PLACES)}, not in {place!r}.")
    if name in PLACES[place]:
        return
    if (name, place) == ("k1", "loss"):
        raise UserError(
            "k1 in the loss has the mean gradient 0, so it regularises nothing: put it in the reward, or k2 in the loss."
        )
    raise UserError(
        f"{name} in the {place} has the gradient of no divergence; right there: {', '.join(PLACES[place])}."
    )


def loss(name: str, log_prob: LogProbs, reference: LogProbs) -> LogProbs:
    """The estimator of a name as a term of the loss, on samples of the policy itself. Raises UserError as `check`."""
    check(name, "loss")
    return ESTIMATORS[name](log_prob, jax.lax.stop_gradient(reference))


def weighted_loss(name: str, log_prob: LogProbs, reference: LogProbs, behaviour: LogProbs) -> LogProbs:
    """The estimator of a name times pi / mu, through which the gradient goes too, on samples of mu, whose log-probs are
    `behaviour`: the mean is the divergence, and so is its gradient, on policy and off. Raises UserError as `check`."""
    check(name, "weighted_loss")
    ratio = jnp.exp(_bounded(log_prob - jax.lax.stop_gradient(behaviour)))
    return ratio * ESTIMATORS[name](log_prob, jax.lax.stop_gradient(reference))


def penalised(name: str, reward: LogProbs, log_prob: LogProbs, reference: LogProbs, coefficient: Number) -> LogProbs:
    """reward - coefficient times the estimator of a name, a constant. Raises UserError as `check`."""
    check(name, "reward")
    return reward - coefficient * jax.lax.stop_gradient(ESTIMATORS[name](log_prob, reference))


def adapted(coefficient: Scalar, found: Scalar, target: Number, rate: Number = 0.1, most: Number = 0.2) -> Scalar:
    """The coefficient that holds a divergence at its target: times 1 + rate e, e = found / target - 1 but `most` in size. Ziegler
    et al., 2019 (arXiv:1909.08593), section 2.2."""
    return coefficient * (1.0 + rate * jnp.clip(found / target - 1.0, -most, most))


# --- Exact, from the log-probs of the whole vocabulary in one state.


def exact(log_prob: Logits, reference: Logits) -> Scalar:
    """KL(pi, ref) = sum_v pi (log pi - log ref): no noise at all. What has no chance adds nothing."""
    chex.assert_equal_shape([log_prob, reference])
    possible = log_prob > -jnp.inf
    return jnp.where(
        possible, jnp.exp(log_prob) * (jnp.where(possible, log_prob, 0.0) - jnp.where(possible, reference, 0.0)), 0.0
    ).sum()


def generalised_jensen_shannon(log_prob: Logits, teacher: Logits, beta: Number) -> Scalar:
    """beta KL(teacher, M) + (1 - beta) KL(pi, M) with M = beta teacher + (1 - beta) pi; at 0 KL(teacher, pi), at 1 KL(pi,
    teacher).

    GKD: Agarwal et al., 2023 (arXiv:2306.13649), with the ends as in TRL. Within, it goes to 0 towards either end: its slope
    there is the KL."""
    inside = (beta > 0.0) & (beta < 1.0)
    beta_ = jnp.where(inside, beta, 0.5)
    middle = jnp.logaddexp(teacher + jnp.log(beta_), log_prob + jnp.log1p(-beta_))
    between = beta_ * exact(teacher, middle) + (1.0 - beta_) * exact(log_prob, middle)
    return jnp.where(inside, between, jnp.where(beta <= 0.0, exact(teacher, log_prob), exact(log_prob, teacher)))


def tempered(reference: Logits, power: Number) -> Logits:
    """log of ref^power, normalised: RAPO's reference, the flatter the less a completion was paid (power within 0 and 1)."""
    return jax.nn.log_softmax(power * reference)


# --- f-divergences D_f(pi, p) = E_p f(pi / p), as functions of t = log(pi / p). Names as of Go et al., 2023 (arXiv:2302.08215).
# `dual.DIVERGENCES` has the conjugates of two of them, `paths.SCORES` what f - u f' says of a state, `inverse` concave forms
# of their own.


class FDivergence(NamedTuple):
    """f(t), its derivative in u = e^t as `slope(t)`, and `inverse(slope) -> t` (None where the slope does not tell t)."""

    f: Callable
    slope: Callable
    inverse: Callable | None


def _alpha(alpha):
    """(u^a - a u - (1 - a)) / (a (a - 1)): KL(pi, p) towards 1, KL(p, pi) towards 0. Other letters: 1 - a."""
    return FDivergence(
        lambda t: (jnp.exp(alpha * t) - alpha * jnp.exp(t) - (1.0 - alpha)) / (alpha * (alpha - 1.0)),
        lambda t: jnp.expm1((alpha - 1.0) * t) / (alpha - 1.0),
        lambda y: jnp.log1p((alpha - 1.0) * y) / (alpha - 1.0),
    )


FDIVERGENCES = {
    "kl": lambda alpha: FDivergence(lambda t: -t, lambda t: -jnp.exp(-t), lambda y: -jnp.log(-y)),  # KL(p, pi)
    "reverse_kl": lambda alpha: FDivergence(
        lambda t: jnp.exp(t) * t, lambda t: t + 1.0, lambda y: y - 1.0
    ),  # KL(pi, p)
    "jensen_shannon": lambda alpha: FDivergence(  # twice it
        lambda t: jnp.exp(t) * t - (1.0 + jnp.exp(t)) * (jax.nn.softplus(t) - jnp.log(2.0)),
        lambda t: jnp.log(2.0) - jax.nn.softplus(-t),
        lambda y: -jnp.log(2.0 * jnp.exp(-y) - 1.0),
    ),
    "alpha": _alpha,
    "total_variation": lambda alpha: FDivergence(
        lambda t: 0.5 * jnp.abs(jnp.expm1(t)), lambda t: 0.5 * jnp.sign(t), None
    ),
    "chi_square": lambda alpha: FDivergence(  # sum (p - pi)^2 / pi
        lambda t: jnp.exp(t) + jnp.exp(-t) - 2.0, lambda t: -jnp.expm1(-2.0 * t), lambda y: -0.5 * jnp.log1p(-y)
    ),
    "reverse_chi_square": lambda alpha: FDivergence(  # sum (pi - p)^2 / p
        lambda t: jnp.square(jnp.expm1(t)), lambda t: 2.0 * jnp.expm1(t), lambda y: jnp.log1p(0.5 * y)
    ),
}


UNBOUNDED = ("reverse_kl", "reverse_chi_square")  # infinite where p has no chance and pi has; alpha too, from 1 on


def f_divergence(name: str, alpha: Number = 0.5) -> FDivergence:
    """The f-divergence of a name; only "alpha" reads `alpha`, which is neither 0 nor 1. Raises UserError where there is
    none."""
    if name not in FDIVERGENCES:
        raise UserError(f"There is no f-divergence {name!r}; {nearest(name, FDIVERGENCES)}")
    return FDIVERGENCES[name](alpha)


def log_partition(log_target: Float[Array, " K"], log_prob: Float[Array, " K"]) -> Scalar:
    """log Z of a target P(y) / Z, by importance sampling: the logarithm of the mean of P / pi over samples of pi. Khalifa et al.,
    2020 (GDC, arXiv:2012.11635); for each prompt by itself Korbak et al., 2021 (arXiv:2112.00791).

    Z itself is unbiased, its logarithm is not. -inf where no sample has a chance."""
    chex.assert_equal_shape([log_target, log_prob])
    return jax.nn.logsumexp(log_target - log_prob) - jnp.log(log_prob.shape[0])


def pseudo_reward(name: str, log_prob: LogProbs, target: LogProbs, alpha: Number = 0.5) -> LogProbs:
    """-f'(pi / p) of whole sequences of the policy, a constant: REINFORCE with it descends D_f(pi, p). f-DPG, arXiv:2302.08215.

    `target` is log p, normalised; -inf counts as a log ratio of 20. A baseline may be taken off, as f' is known up to a constant.
    Raises UserError as `f_divergence`."""
    t = _bounded(log_prob - target)
    return -jax.lax.stop_gradient(f_divergence(name, alpha).slope(t))


def on_reference_samples(name: str, log_prob: LogProbs, reference: LogProbs, alpha: Number = 0.5) -> LogProbs:
    """f(u) - f'(1) (u - 1) with u = pi / ref on samples of the reference: not below 0, and its mean is D_f(pi, ref), gradient
    and all.

    So no samples of the policy are needed: DPH-RL, "The choice of divergence", 2025, stores the reference's correct ones
    ("kl", "jensen_shannon", "alpha"; its alpha is 1 less ours). For "kl" it is u - 1 - log u. Raises UserError as
    `f_divergence`."""
    divergence = f_divergence(name, alpha)
    t = _bounded(log_prob - jax.lax.stop_gradient(reference))
    return divergence.f(t) - divergence.slope(jnp.zeros_like(t)) * jnp.expm1(t)


def _bounded(log_ratio):
    return jnp.clip(log_ratio, -LIMIT, LIMIT)
