"""Returns and advantages along one sequence [T]."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Sequence = Float[Array, " T"]
Ends = Bool[Array, " T"]


def lambda_advantages(
    reward_t: Sequence, discount_t: Sequence, trace_t: Sequence, value_tm1: Sequence, value_t: Sequence
) -> Sequence:
    """Generalised advantage estimates. Schulman et al., 2015 (arXiv:1506.02438), equation 16.

        A_t = delta_t + discount_t trace_t A_{t+1},  delta_t = r_t + discount_t V(s_t) - V(s_{t-1})

    Args:
      reward_t: reward of each step.
      discount_t: gamma, or 0 where the MDP terminated with this step.
      trace_t: lambda, or 0 where the episode ended with this step for whichever reason: what follows is another episode.
      value_tm1: value of the observation before each step.
      value_t: value of the observation that followed by the dynamics (after a time limit: of the final one).
    """
    chex.assert_rank([reward_t, discount_t, trace_t, value_tm1, value_t], 1)
    chex.assert_equal_shape([reward_t, discount_t, trace_t, value_tm1, value_t])
    delta = reward_t + discount_t * value_t - value_tm1

    def step(advantage, inputs):
        delta, decay = inputs
        advantage = delta + decay * advantage
        return advantage, advantage

    return jax.lax.scan(step, jnp.zeros_like(delta[0]), (delta, discount_t * trace_t), reverse=True)[1]


def lambda_returns(reward_t: Sequence, discount_t: Sequence, trace_t: Sequence, value_t: Sequence) -> Sequence:
    """Mixed returns G_t = r_t + discount_t ((1 - trace_t) V(s_t) + trace_t G_{t+1}). Sutton & Barto, 2018, equation 12.18.

    Arguments as for `lambda_advantages`; where `trace_t` is 0, and at the last step, it is the one-step target.
    """
    chex.assert_rank([reward_t, discount_t, trace_t, value_t], 1)

    def step(following, inputs):
        reward, discount, trace, value = inputs
        following = reward + discount * ((1.0 - trace) * value + trace * following)
        return following, following

    return jax.lax.scan(step, value_t[-1], (reward_t, discount_t, trace_t, value_t), reverse=True)[1]


def n_step(
    reward_t: Sequence, terminated_t: Ends, truncated_t: Ends, gamma: Float[Array, ""] | float
) -> tuple[Float[Array, ""], Float[Array, ""], Int[Array, ""]]:
    """The first steps of a sequence as one, up to the end of the episode or of the sequence.

    Returns:
      (summed discounted reward, discount of the bootstrap, position of the last step that belongs). The target is
      `reward + discount * value(next_observation[position])`; the discount is 0 if the MDP terminated there.
    """
    chex.assert_rank([reward_t, terminated_t, truncated_t], 1)
    done = terminated_t | truncated_t
    alive = jnp.cumprod(jnp.concatenate([jnp.ones(1), 1.0 - done[:-1].astype(jnp.float32)]))  # step t belongs
    powers = jnp.asarray(gamma) ** jnp.arange(reward_t.shape[0])
    steps = alive.sum().astype(jnp.int32)
    terminated = (alive * terminated_t).any()
    return (alive * powers * reward_t).sum(), jnp.asarray(gamma) ** steps * (1.0 - terminated), steps - 1


def trace_products(trace_t: Sequence) -> Sequence:
    """C_t = c_1 ... c_t, 1 at the first step, whose own trace is not asked: it was taken as it was. Munos et al., 2016
    (arXiv:1606.02647), equation 3."""
    chex.assert_rank(trace_t, 1)
    return jnp.cumprod(trace_t.at[0].set(1.0))


def correction(error_t: Sequence, discount_t: Sequence, weight_t: Sequence) -> Float[Array, ""]:
    """sum_t (prod_{i < t} discount_i) w_t error_t, what is added to Q of the first step: by `trace_products` Retrace and its
    relatives, by their means given the beginning and the step marginalized (Tang et al., 2022, arXiv:2203.16177).

    Args:
      error_t: r + discount E_pi Q(s', .) - Q(s, a) of each step.
      discount_t: gamma, or 0 where the episode ended with this step for whichever reason: what follows is another episode.
    """
    chex.assert_equal_shape([error_t, discount_t, weight_t])
    before = jnp.concatenate([jnp.ones_like(discount_t[:1]), discount_t[:-1]])
    return (jnp.cumprod(before) * weight_t * error_t).sum()
