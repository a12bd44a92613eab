"""Losses for rewards under which paths, not steps, are likely: a path has a density in proportion to exp(its summed reward).

M paths that were sampled stand for all there are. Their `log_density` is that of the actions alone: what the dynamics add to it is
the same for path law and sampler, and cancels. Nothing is discounted, since the law has no discount.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = Float[Array, ""]
Number = Scalar | float  # a hyperparameter, traced or not


def path_weights(path_return: Float[Array, " M"], log_density: Float[Array, " M"]) -> Float[Array, " M"]:
    """exp(return) / density, self-normalised: with them the sampled paths have the law of the reward. Constants to gradients."""
    chex.assert_equal_shape([path_return, log_density])
    return jax.lax.stop_gradient(jax.nn.softmax(path_return - log_density))


def log_partition(path_return: Float[Array, " M"], log_density: Float[Array, " M"]) -> Scalar:
    """log Z, Z being the sum of exp(return) over all paths, by importance sampling: the mean of exp(return) / density.

    Guided cost learning: Finn, Levine & Abbeel, 2016 (arXiv:1603.00448). Its gradient is the mean of returns' gradients under
    `path_weights`.
    """
    chex.assert_equal_shape([path_return, log_density])
    return jax.nn.logsumexp(path_return - log_density) - jnp.log(float(path_return.size))


def joint_log_density(path_return: Scalar, log_prob: Scalar, log_partition: Scalar, share: Number) -> Scalar:
    """Log-density of one path where a `share` is demonstrated and the rest sampled with `log_prob`; a constant to gradients.

    What is demonstrated has no density that is known; the reward's own, exp(return) / Z, stands for it, as in section 3 of Finn,
    Christiano, Abbeel & Levine, 2016 (arXiv:1611.03852): right once the reward is.
    """
    chex.assert_rank([path_return, log_prob, log_partition], 0)
    demonstrated = jnp.log(share) + path_return - log_partition
    return jax.lax.stop_gradient(jnp.logaddexp(demonstrated, jnp.log1p(-share) + log_prob))


def covariance(score: Float[Array, " M"], path_return: Float[Array, " M"], weight: Float[Array, " M"]) -> Scalar:
    """The covariance of paths' scores and returns under weights that sum to one; scores and weights are constants to gradients.

    Its gradient in the reward's parameters is that of the mean score, for paths that have the law of the reward: f-IRL, Ni et al.,
    2020 (arXiv:2011.04709), theorem on the analytic gradient.
    """
    chex.assert_equal_shape([score, path_return, weight])
    score, weight = jax.lax.stop_gradient((score, weight))
    return (weight * (score - (weight * score).sum()) * path_return).sum()


# --- What a state adds to a divergence of demonstrations E from the policy, whose ratio of densities u = exp(logit) is E's by the
# policy's: the derivative of sum_s rho(s) f(u(s)) in rho(s), which is f(u) - u f'(u), less a constant. arXiv:2011.04709, table 1.


def forward_kl(logit: Scalar, limit: float = 10.0) -> Scalar:
    """-u, with u at most exp(limit): f = u log u, KL(demonstrations, policy)."""
    chex.assert_rank(logit, 0)
    return -jnp.exp(jnp.minimum(logit, limit))


def reverse_kl(logit: Scalar) -> Scalar:
    """-log u: f = -log u, KL(policy, demonstrations)."""
    chex.assert_rank(logit, 0)
    return -logit


def jensen_shannon(logit: Scalar) -> Scalar:
    """-log(1 + u): f = u log u - (1 + u) log((1 + u) / 2), twice the Jensen-Shannon divergence."""
    chex.assert_rank(logit, 0)
    return -jax.nn.softplus(logit)


SCORES = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "jensen_shannon": jensen_shannon}
