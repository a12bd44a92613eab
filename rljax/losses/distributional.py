"""Laws of returns: Bellman targets, projections and distances, and what a policy may prefer of them; for one transition.

A law is atoms [N] and their probabilities [N], in any order; a mean is a law of one atom. No gradient flows through a target.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Scalar = Float[Array, ""]
Number = Scalar | float  # a hyperparameter, traced or not
Atoms = Float[Array, " N"]
Probs = Float[Array, " N"]

# --- Targets ----------------------------------------------------------------------------------------------------------


def bellman(reward_t: Float[Array, " *D"], discount_t: Scalar, atoms_t: Float[Array, " N *D"]) -> Float[Array, " N *D"]:
    """Atoms of r + discount Z(s', a'); their probabilities stay. Bellemare et al., 2017 (arXiv:1707.06887), equation 5; of several
    rewards' returns together Zhang et al., 2021 (arXiv:2110.13578).

    Args:
      reward_t: one, or those of D sources.
      discount_t: gamma (to the number of steps) where the MDP goes on, 0 where it terminated. A time limit is not a termination.
      atoms_t: of the action that is taken after `next_observation`.
    """
    chex.assert_rank([discount_t, atoms_t], [0, reward_t.ndim + 1])
    return jax.lax.stop_gradient(reward_t + discount_t * atoms_t)


def project(atoms: Float[Array, " M"], probs: Float[Array, " M"], support: Atoms) -> Probs:
    """Probabilities on an even `support`: each atom's is shared by its two neighbours, so that within the support means are kept;
    what lies outside goes to the end. Bellemare et al., 2017 (arXiv:1707.06887), equation 7."""
    chex.assert_equal_shape([atoms, probs])
    gap = support[1] - support[0]
    inside = jnp.clip(atoms, support[0], support[-1])
    share = jnp.clip(1.0 - jnp.abs(inside[:, None] - support) / gap, 0.0, 1.0)
    return probs @ share


def symexp(x: Array) -> Array:
    """sign(x) (exp |x| - 1), which makes of even steps ones that grow with their size. Hafner et al., 2023 (arXiv:2301.04104)."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def two_hot(number: Scalar, support: Atoms) -> Probs:
    """A number as probabilities of its two neighbours on a rising `support`, even or not, whose mean it is; what lies outside goes
    to the end. Bellemare et al., 2017, equation 7, for one atom; on a support of `symexp` Hafner et al., 2023 (arXiv:2301.04104).
    """
    chex.assert_rank([number, support], [0, 1])
    inside = jnp.clip(number, support[0], support[-1])
    above = jnp.clip(jnp.searchsorted(support, inside, side="right"), 1, len(support) - 1)
    below = above - 1
    share = (inside - support[below]) / (support[above] - support[below])
    place = jnp.arange(len(support))
    return jnp.where(place == below, 1.0 - share, 0.0) + jnp.where(place == above, share, 0.0)


# --- Losses -----------------------------------------------------------------------------------------------------------


def categorical_loss(logits: Float[Array, " N"], target: Probs) -> Scalar:
    """KL(target || softmax(logits)), whose gradient is that of the cross-entropy. Bellemare et al., 2017, algorithm 1."""
    chex.assert_equal_shape([logits, target])
    target = jax.lax.stop_gradient(target)
    surprise = jnp.where(target > 0.0, jnp.log(jnp.maximum(target, 1e-30)), 0.0)
    return (target * (surprise - jax.nn.log_softmax(logits))).sum()


def quantile_loss(
    quantiles: Float[Array, " N"],
    levels: Float[Array, " N"],
    atoms: Float[Array, " M"],
    probs: Float[Array, " M"],
    kappa: Number = 1.0,
) -> Scalar:
    """Quantile Huber loss: summed over the quantiles learned, the mean over the target's law. Dabney et al., 2017
    (arXiv:1710.10044), equation 10, divided by kappa as in arXiv:1806.06923, equation 3; kappa = 0 is quantile regression.

    Args:
      quantiles: estimates of the law's quantiles.
      levels: in (0, 1), which quantile each is to be.
      atoms, probs: the target's law.
      kappa: error from which on the loss is linear.
    """
    chex.assert_equal_shape([quantiles, levels])
    chex.assert_equal_shape([atoms, probs])
    error = jax.lax.stop_gradient(atoms) - quantiles[:, None]  # [N, M]
    near = jnp.square(error) * 0.5 / jnp.maximum(kappa, 1e-12)
    size = jnp.where(jnp.abs(error) < kappa, near, jnp.abs(error) - 0.5 * kappa)
    tilt = jnp.abs(levels[:, None] - (error < 0.0))
    return ((tilt * size) @ jax.lax.stop_gradient(probs)).sum()


def expectile_loss(
    expectiles: Float[Array, " N"],
    levels: Float[Array, " N"],
    atoms: Float[Array, " M"],
    probs: Float[Array, " M"],
) -> Scalar:
    """Squared errors, tilted; summed over the expectiles learned, the mean over the target's law. Newey & Powell, 1987.

    Expectiles are no atoms of the law (Rowland et al., 2019, arXiv:1902.08102): a target made of them as if they were shrinks it.
    """
    chex.assert_equal_shape([expectiles, levels])
    error = jax.lax.stop_gradient(atoms) - expectiles[:, None]
    tilt = jnp.abs(levels[:, None] - (error < 0.0))
    return ((tilt * jnp.square(error)) @ jax.lax.stop_gradient(probs)).sum()


def fraction_loss(levels: Float[Array, " I"], at_levels: Float[Array, " I"], between: Float[Array, " J"]) -> Scalar:
    """What moves the levels between which quantiles are taken to where the law's quantile function is matched best.

    Its gradient is that of the 1-Wasserstein distance, not its value. Yang et al., 2019 (arXiv:1911.02140), proposition 1.

    Args:
      levels: the inner levels, rising, without 0 and 1.
      at_levels: quantiles at `levels`.
      between: quantiles half way between neighbouring levels, 0 and 1 included: J = I + 1.
    """
    chex.assert_equal_shape([levels, at_levels])
    slope = 2.0 * at_levels - between[1:] - between[:-1]
    return (jax.lax.stop_gradient(slope) * levels).sum()


def mmd(
    particles: Float[Array, "N D"],
    atoms: Float[Array, "M D"],
    probs: Float[Array, " M"],
    bandwidths: Float[Array, " H"],
) -> Scalar:
    """Squared maximum mean discrepancy between equally likely particles and a target's law of D-dimensional returns, by a sum of
    Gaussian kernels exp(-|x - y|^2 / h). Nguyen-Tang et al., 2020 (arXiv:2007.12354), equation 3 and section 4 (D = 1); Zhang et
    al., 2021 (arXiv:2110.13578) for several rewards.

    Not unbiased: a particle is compared to itself as well, a constant without gradient.
    """
    chex.assert_equal_shape_suffix([particles, atoms], 1)
    atoms, probs = jax.lax.stop_gradient((atoms, probs))

    def kernel(x, y):
        square = jnp.square(x[:, None] - y).sum(axis=-1)
        return jnp.exp(-square[..., None] / bandwidths).sum(axis=-1)

    own = jnp.full(len(particles), 1.0 / len(particles))
    return (
        own @ kernel(particles, particles) @ own
        - 2.0 * own @ kernel(particles, atoms) @ probs
        + (probs @ kernel(atoms, atoms) @ probs)
    )


def dominance(probs: Float[Array, "A N"], index: Int[Array, ""]) -> Scalar:
    """How far the law of action `index` is from dominating those of all A at first order, in the mean: the distribution function of
    one that dominates is nowhere above another's. Seo et al., 2024 (arXiv:2407.07787), by the authors' code.

    Args:
      probs: of each action's law, on atoms that they share, in rising order.
    """
    chex.assert_rank([probs, index], [2, 0])
    below = jnp.cumsum(probs, axis=-1)
    return jnp.maximum(below[index] - below, 0.0).sum(axis=-1).mean()


# --- Distances and preferences ----------------------------------------------------------------------------------------


def wasserstein(
    atoms: Float[Array, " N"], probs: Float[Array, " N"], others: Float[Array, " M"], weights: Float[Array, " M"]
) -> Scalar:
    """1-Wasserstein distance: the area between two laws' distribution functions."""
    places = jnp.sort(jnp.concatenate([atoms, others]))
    below = lambda x, p: (p * (x <= places[:-1, None])).sum(axis=1)
    return (jnp.abs(below(atoms, probs) - below(others, weights)) * jnp.diff(places)).sum()


def mean(atoms: Atoms, probs: Probs) -> Scalar:
    return (atoms * probs).sum()


def cvar(atoms: Atoms, probs: Probs, level: Number) -> Scalar:
    """The mean of the worst share `level` in (0, 1] of the law: conditional value at risk. Rockafellar & Uryasev, 2000."""
    return _distorted(atoms, probs, lambda below: jnp.minimum(below / level, 1.0))


def wang(atoms: Atoms, probs: Probs, eta: Number) -> Scalar:
    """The mean after each quantile level tau became Phi(Phi^-1(tau) + eta): below 0 risk-averse, above it risk-seeking. Wang, 2000;
    Dabney et al., 2018 (arXiv:1806.06923), section 3.2."""
    return _distorted(atoms, probs, lambda below: jax.scipy.stats.norm.cdf(jax.scipy.stats.norm.ppf(below) - eta))


def _distorted(atoms, probs, cumulative):
    """The mean under another distribution function: `cumulative` of the law's own, rising from 0 to 1."""
    order = jnp.argsort(atoms)
    below = jnp.clip(jnp.cumsum(probs[order]), 0.0, 1.0).at[-1].set(1.0)
    return (atoms[order] * jnp.diff(cumulative(below), prepend=0.0)).sum()


def mean_variance(atoms: Atoms, probs: Probs, price: Number) -> Scalar:
    """The mean less `price` times the variance."""
    middle = mean(atoms, probs)
    return middle - price * mean(jnp.square(atoms - middle), probs)
