"""Losses of models that predict what a step changes and pays by normals, and measures of how little an ensemble of them knows.

D counts the numbers predicted, E the models of an ensemble; everything is for one step.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = Float[Array, ""]
Number = Scalar | float  # a hyperparameter, traced or not


def softly_bounded(
    x: Float[Array, "*B D"], lowest: Float[Array, " D"], highest: Float[Array, " D"]
) -> Float[Array, "*B D"]:
    """`x` between two bounds that it comes near to but, where they are far apart, never meets; slopes are never 0.

    high - softplus(high - x), then low + softplus(. - low): Chua et al., 2018 (arXiv:1805.12114), appendix A.1. The highest value
    is that of high, low + softplus(high - low), above `highest` by log(1 + exp(low - high)).
    """
    x = highest - jax.nn.softplus(highest - x)
    return lowest + jax.nn.softplus(x - lowest)


def gaussian_loss(
    mean: Float[Array, " D"], log_variance: Float[Array, " D"], target: Float[Array, " D"], beta: Number = 0.0
) -> Scalar:
    """(target - mean)^2 / variance + log variance, its mean over D: twice the negative log-likelihood per number, less log 2 pi.

    arXiv:1805.12114, section 4, "loss_Gauss"; there it is the sum over D. By itself it lets go of what it does not fit yet, since
    where the variance is large errors weigh little. With beta each number's loss is multiplied by its variance^beta, a constant to
    gradients; with beta 1 means are learned as by the squared error: Seitzer et al., 2022 (arXiv:2203.09168).
    """
    chex.assert_equal_shape([mean, log_variance, target])
    each = jnp.square(target - mean) * jnp.exp(-log_variance) + log_variance
    return (jax.lax.stop_gradient(jnp.exp(beta * log_variance)) * each).mean()


def largest_spread(std: Float[Array, "E D"]) -> Scalar:
    """max_i |sigma_i|, the length of the standard deviations of the model that is least certain. Yu et al., 2020
    (arXiv:2005.13239), section 4.3, which writes the norm of covariances; their code takes standard deviations, as this does."""
    chex.assert_rank(std, 2)
    return jnp.sqrt(jnp.square(std).sum(axis=-1)).max()


def largest_deviation(mean: Float[Array, "E D"]) -> Scalar:
    """max_i |mu_i - mean_j mu_j|: how far one of the models is from what all think. The ensemble penalty of
    arXiv:2005.13239's ablations."""
    chex.assert_rank(mean, 2)
    return jnp.sqrt(jnp.square(mean - mean.mean(axis=0)).sum(axis=-1)).max()


def bellman_inconsistency(value: Float[Array, "E M"]) -> Scalar:
    """How much models differ in what a step leads to be worth: the standard deviation over E models, E - 1 in its denominator, of
    their means over M draws of what follows. Sun et al., 2023, "Model-Bellman inconsistency for model-based offline RL"."""
    chex.assert_rank(value, 2)
    return value.mean(axis=1).std(axis=0, ddof=1)
