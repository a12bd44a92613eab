"""Losses of action values Q(s, .), for one transition with A actions.

No gradient flows through a target.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Scalar = Float[Array, ""]
Number = Scalar | float  # a hyperparameter, traced or not


def td_target(reward_t: Scalar, discount_t: Scalar, value_t: Scalar) -> Scalar:
    """The one-step target r + discount V(s'). Sutton & Barto, 2018, equation 6.2; over n steps equation 7.1.

    Args:
      reward_t: reward of the step, or the discounted sum of several.
      discount_t: gamma (to the number of steps) where the MDP goes on, 0 where it terminated. A time limit is not a termination.
      value_t: value of the observation that followed by the dynamics (after a time limit: of the final one).
    """
    chex.assert_rank([reward_t, discount_t, value_t], 0)
    return jax.lax.stop_gradient(reward_t + discount_t * value_t)


def double_q_value(q_selector: Float[Array, " A"], q_target: Float[Array, " A"]) -> Scalar:
    """Value by `q_target` of the action that `q_selector` thinks best. van Hasselt et al., 2015 (arXiv:1509.06461), equation 4.

    With the online network as selector it is Double DQN's. With the target network in both places it is max_a Q(s', a), that of
    DQN (Mnih et al., 2015, algorithm 1), which is too high where the estimates are noisy.
    """
    chex.assert_rank([q_selector, q_target], 1)
    chex.assert_equal_shape([q_selector, q_target])
    return q_target[q_selector.argmax()]


def huber(error: Scalar, delta: Number) -> Scalar:
    """Half the squared error up to `delta`, from there on a line of slope `delta`. Huber, 1964.

    With delta = 1 its gradient is the error clipped to [-1, 1] (Mnih et al., 2015, "Training details"). A finite delta above
    all errors makes it half the squared error.
    """
    chex.assert_rank(error, 0)
    size = jnp.abs(error)
    return jnp.where(
        size <= delta, 0.5 * error**2, delta * (size - 0.5 * delta)
    )  # a sum of both would round small slopes off


def dueling(value: Scalar, advantage: Float[Array, " A"]) -> Float[Array, " A"]:
    """Q(s, .) of a value and of advantages, whose mean is taken to be 0. Wang et al., 2015 (arXiv:1511.06581), equation 9."""
    chex.assert_rank([value, advantage], [0, 1])
    return value + advantage - advantage.mean()


def margin(q: Float[Array, " A"], index: Int[Array, ""], least: Number) -> Scalar:
    """By how much action `index` fails to be worth `least` more than each of all A, in the mean; against itself it fails by all of
    it, a constant. Seo et al., 2024 (arXiv:2407.07787), by the authors' code; against the best other action alone it is the large
    margin of Hester et al., 2017 (arXiv:1704.03732), equation 4."""
    chex.assert_rank([q, index], [1, 0])
    return jnp.maximum(least - (q[index] - q), 0.0).mean()


def decoupled_change(utilities: Float[Array, " D"], old: Float[Array, " D"], target: Scalar) -> Scalar:
    """sum_i w_i (U_i - U_i')^2 with w_i = 1 - exp(-|y - U_i|): what it costs to change the utilities of an action's dimensions, the
    more the further each by itself is from the target y. Weights and old utilities are constants.

    The regulariser of REValueD: Ireland & Montana, 2024 (arXiv:2401.08850).

    Args:
      utilities: of the action taken, by the network that learns; Q is their mean.
      old: the same by the target network.
      target: what Q regresses onto.
    """
    chex.assert_equal_shape([utilities, old])
    weight = 1.0 - jnp.exp(-jnp.abs(target - utilities))
    return (jax.lax.stop_gradient(weight) * jnp.square(utilities - jax.lax.stop_gradient(old))).sum()
