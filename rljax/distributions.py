"""Action distributions. The only module that imports distrax."""

import distrax
import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float, Int

from rljax.types import Continuous, Discrete

Distribution = distrax.Distribution
LOG_STD_RANGE = (-5.0, 2.0)


def categorical(logits: Float[Array, "*B A"]) -> Distribution:
    """Over actions 0 ... A - 1."""
    return distrax.Categorical(logits=logits)


def normal(mean: Float[Array, "*B A"], log_std: Float[Array, "*B A"]) -> Distribution:
    """Independent normals, one event of A dimensions. Its samples can leave [-1, 1]; environments clip."""
    return distrax.MultivariateNormalDiag(mean, jnp.exp(log_std))


def in_box(space: Discrete | Continuous, action: Array) -> Array:
    """What an environment takes of an action: continuous ones [*B, A] clipped to their box, others as they are."""
    return jnp.clip(action, space.low, space.high) if isinstance(space, Continuous) else action


def log_prob_in_box(distribution: Distribution, space: Continuous, action: Float[Array, "*B A"]) -> Float[Array, "*B"]:
    """Log-likelihoods of what `in_box` makes of a distribution's samples: their density within the box, and at its border (and
    beyond) the probability of all that is clipped to it. Of distributions that cannot leave the box: their density."""
    if not isinstance(distribution, distrax.MultivariateNormalDiag):
        return distribution.log_prob(action)
    mean, std = distribution.loc, distribution.scale_diag
    within = norm.logpdf(action, mean, std)
    below, above = norm.logcdf((space.low - mean) / std), norm.logcdf((mean - space.high) / std)
    return jnp.where(action <= space.low, below, jnp.where(action >= space.high, above, within)).sum(axis=-1)


class TanhNormal(distrax.Transformed):
    """Normals squashed into [-1, 1] by tanh. Haarnoja et al., 2018 (arXiv:1812.05905), appendix C.

    `log_prob` of an action at the border is finite: actions are pulled inside by 1e-6 first. Prefer `sample_and_log_prob`,
    which needs no inverse.
    """

    def __init__(self, mean: Float[Array, "*B A"], log_std: Float[Array, "*B A"]):
        super().__init__(normal(mean, log_std), distrax.Block(distrax.Tanh(), 1))

    def mode(self) -> Array:
        """The image of the normal's mean: the action of the deterministic policy."""
        return jnp.tanh(self.distribution.mean())

    def log_prob(self, value: Float[Array, "*B A"]) -> Float[Array, "*B"]:
        return super().log_prob(jnp.clip(value, -1.0 + 1e-6, 1.0 - 1e-6))


def bounded_log_std(x: Array) -> Array:
    """Any number to a log standard deviation in LOG_STD_RANGE, smoothly."""
    low, high = LOG_STD_RANGE
    return low + 0.5 * (high - low) * (jnp.tanh(x) + 1.0)


def epsilon_greedy(q: Float[Array, "*B A"], epsilon: Float[Array, ""], key: Array) -> Int[Array, "*B"]:
    """The best action, or with probability `epsilon` any action."""
    explore_key, action_key = jax.random.split(key)
    anything = jax.random.randint(action_key, q.shape[:-1], 0, q.shape[-1])
    return jnp.where(jax.random.uniform(explore_key, q.shape[:-1]) < epsilon, anything, q.argmax(-1))


def epsilon_greedy_log_prob(
    q: Float[Array, "*B A"], epsilon: Float[Array, ""], action: Int[Array, "*B"]
) -> Float[Array, "*B"]:
    """Log-likelihood of `action` where `epsilon_greedy` acts."""
    return jnp.log(epsilon / q.shape[-1] + jnp.where(action == q.argmax(-1), 1.0 - epsilon, 0.0))


def uniform_log_prob(action: Discrete | Continuous, batch_size: int) -> Float[Array, " B"]:
    """Log-likelihoods of what `uniform_action` draws."""
    if isinstance(action, Discrete):
        return jnp.full(batch_size, -jnp.log(action.num_actions))
    return jnp.full(batch_size, -action.size * jnp.log(action.high - action.low))


def uniform_action(action: Discrete | Continuous, batch_size: int, key: Array) -> Array:
    """Actions [B, ...] drawn uniformly from all there are."""
    if isinstance(action, Discrete):
        return jax.random.randint(key, (batch_size,), 0, action.num_actions)
    return jax.random.uniform(key, (batch_size, *action.shape), minval=action.low, maxval=action.high)


def gumbel_softmax(logits: Float[Array, "*B A"], temperature: Float[Array, ""], key: Array) -> Float[Array, "*B A"]:
    """Points of the simplex that stand for draws from softmax(logits), so that gradients pass through them; their largest entry is
    at such a draw, whatever the temperature. Jang et al., 2016 (arXiv:1611.01144); Maddison et al., 2016 (arXiv:1611.00712)."""
    return jax.nn.softmax((logits + jax.random.gumbel(key, logits.shape)) / temperature)
