"""Off-policy evaluation by importance sampling, and how well estimates rank policies: numbers from arrays, nothing learned.

Arrays are [E, T]: E episodes of at most T steps. `log_ratio` is log pi(a|s) - log mu(a|s) of what the data's policy mu did, for the
policy pi that is asked about. `mask` says where there is a step; what stands elsewhere does not count. All functions are pure.

An episode that was stopped (a time limit, or where the recording stopped) counts with what it was paid until then.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Steps = Float[Array, "E T"]
Mask = Bool[Array, "E T"]
Scalar = Float[Array, ""]


def discounted_returns(reward: Steps, mask: Mask, gamma: float | Scalar) -> Float[Array, " E"]:
    """sum_t gamma^t r_t of each episode."""
    return jnp.where(mask, reward * gamma ** jnp.arange(reward.shape[1]), 0.0).sum(1)


def episode_log_ratio(log_ratio: Steps, mask: Mask) -> Float[Array, " E"]:
    """log of the likelihood ratio of whole episodes."""
    return jnp.where(mask, log_ratio, 0.0).sum(1)


def weighted_importance_sampling(reward: Steps, log_ratio: Steps, mask: Mask, gamma: float | Scalar) -> Scalar:
    """The mean of the episodes' discounted returns, each weighted by its likelihood ratio; the weights sum to one.

    Precup, Sutton & Singh, 2000, "Eligibility traces for off-policy policy evaluation", there by visits of one state and action;
    here from the start. Biased, consistent, and within the range of the returns. NaN where no episode has any likelihood under pi.
    """
    weight = jax.nn.softmax(episode_log_ratio(log_ratio, mask))
    return (weight * discounted_returns(reward, mask, gamma)).sum()


def weighted_per_decision(reward: Steps, log_ratio: Steps, mask: Mask, gamma: float | Scalar) -> Scalar:
    """sum_t gamma^t of the mean reward at step t, weighted by the likelihood ratios up to and with t, which sum to one at each t.

    Per decision: Precup, Sutton & Singh, 2000. Weights of each step apart, with which it is consistent: Thomas, 2015, "Safe
    reinforcement learning" (dissertation). After its end an episode keeps its weight and is paid nothing. NaN where at some step no
    episode has any likelihood under pi.
    """
    weight = jax.nn.softmax(jnp.cumsum(jnp.where(mask, log_ratio, 0.0), axis=1), axis=0)
    paid = jnp.where(mask, reward, 0.0)
    return (gamma ** jnp.arange(reward.shape[1]) * (weight * paid).sum(0)).sum()


def effective_sample_size(log_ratio: Steps, mask: Mask) -> Scalar:
    """(sum w)^2 / sum w^2 of the episodes' weights: E where all count the same, 1 where one counts alone. Kong, 1992.

    NaN where no episode has any likelihood under pi.
    """
    return 1.0 / jnp.square(jax.nn.softmax(episode_log_ratio(log_ratio, mask))).sum()


def rank_correlation(estimate: Float[Array, " P"], truth: Float[Array, " P"]) -> Scalar:
    """Spearman's: the correlation of the ranks, where equal values share the mean of theirs. NaN where all of one are equal."""
    ranks = lambda x: (x[:, None] > x).sum(1) + 0.5 * (x[:, None] == x).sum(1)
    centred = lambda x: ranks(x) - ranks(x).mean()
    a, b = centred(estimate), centred(truth)
    return (a * b).sum() / jnp.sqrt(jnp.square(a).sum() * jnp.square(b).sum())


def regret(estimate: Float[Array, " P"], truth: Float[Array, " P"]) -> Scalar:
    """What choosing the policy of highest estimate costs: the best truth less the truth of the chosen. Regret@1 of Fu et al., 2021
    (arXiv:2103.16596), in the returns' own units."""
    return truth.max() - truth[estimate.argmax()]
