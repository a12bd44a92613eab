"""What inverse RL finds where it takes demonstrators for what they are not: another discount, temperature, dynamics or behaviour.

Skalse & Abate, 2024, "Quantifying the sensitivity of inverse reinforcement learning to misspecification", arXiv:2403.06854. A
behaviour makes policies of rewards (`policy_of`); who believes in one finds, of a policy, the rewards that have it (`reward_of`).
How wrong they are is told by STARC's distance under the true dynamics and discount: 0 where they order all policies as the true
reward does, 1 where they do so the other way round, 1/2 sqrt(2) where they have nothing to do with it.

All functions are pure and can be jitted, vmapped and differentiated; they compute in the dtype of their arguments.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax.errors import UserError
from rljax.names import nearest
from rljax.record import record, static
from rljax.tabular import identifiability, reward_metrics, solvers

BEHAVIOURS = ("optimal", "boltzmann", "causal_entropy")


@record
class Model:
    """What a demonstrator is, or is thought to be.

    behaviour: `optimal`, all of the best actions alike; `boltzmann`, softmax(Q* / temperature); `causal_entropy`, soft-optimal at
      the temperature (maximum causal entropy).
    """

    transition: Float[Array, "S A S"]
    discount: Float[Array, ""] | float
    temperature: Float[Array, ""] | float = 1.0
    behaviour: str = static("causal_entropy")


def policy_of(model: Model, reward: Float[Array, "S A"], tolerance: float = 1e-6) -> Float[Array, "S A"]:
    """What the demonstrator does who has this reward.

    Raises:
      UserError: there is no such behaviour.
    """
    _check(model)
    soft = functools.partial(solvers.soft_value, temperature=model.temperature)
    value_of = soft if model.behaviour == "causal_entropy" else solvers.hard_value
    q = solvers.optimal_q(model.transition, reward, model.discount, value_of, tolerance)
    return solvers.greedy_policy(q) if model.behaviour == "optimal" else solvers.soft_policy(q, model.temperature)


def reward_of(
    model: Model, policy: Float[Array, "S A"], value: Float[Array, " S"] | None = None
) -> Float[Array, "S A"]:
    """The reward for which a demonstrator as the model has it does this, with the value `value` (0): one shaping of all that do.

    For causal entropy temperature log policy, for Boltzmann the same less its maximum, which are advantages. An optimal
    demonstrator shows no more than which actions are best: all others are taken to be worse by 1.

    Raises:
      UserError: there is no such behaviour.
    """
    _check(model)
    if model.behaviour == "optimal":
        advantage = -(policy == 0.0).astype(policy.dtype)
    else:
        advantage = model.temperature * jnp.log(policy)
        if model.behaviour == "boltzmann":
            advantage = advantage - advantage.max(-1, keepdims=True)
    if value is None:
        return advantage
    return advantage - (identifiability.shaping(model.transition, model.discount) @ value).reshape(policy.shape)


def smallest_value(model: Model, policy: Float[Array, "S A"]) -> Float[Array, " S"]:
    """The value of the smallest reward by L2 norm that the model infers: what a little weight decay makes inverse RL find.

    Raises:
      UserError: there is no such behaviour.
    """
    shaping = identifiability.shaping(model.transition, model.discount)
    return jnp.linalg.lstsq(shaping, reward_of(model, policy).ravel())[0]


def error(
    true: Model,
    believed: Model,
    reward: Float[Array, "S A"],
    value: Float[Array, " S"] | None = None,
    tolerance: float = 1e-6,
) -> Float[Array, ""]:
    """STARC's distance, in truth, of a demonstrator's reward from what is inferred of it by who believes in another model.

    NaN where a demonstrator that leaves out actions is thought to be soft-optimal: nothing finite explains it.

    Args:
      value: that the inferred reward has in the believed model; None: that of the smallest. If only the temperature or the
        behaviour is wrong it makes no difference.
    """
    policy = policy_of(true, reward, tolerance)
    found = reward_of(believed, policy, smallest_value(believed, policy) if value is None else value)
    distance = reward_metrics.starc_distance(reward, found, true.transition, true.discount)
    return jnp.where(jnp.isfinite(found).all(), distance, jnp.nan)


def perturbed_error(
    model: Model, reward: Float[Array, "S A"], change: Float[Array, "S A"], size: float, tolerance: float = 1e-6
) -> Float[Array, ""]:
    """The error where the model is right but the policy is seen wrongly: by `size` at most in each state, |pi - pi'|_1.

    Args:
      change: in which direction; probabilities move to softmax(change), which are positive, by half of `size`.
    """
    policy = policy_of(model, reward, tolerance)
    seen = policy + 0.5 * size * (jax.nn.softmax(change, -1) - policy)
    return reward_metrics.starc_distance(reward, reward_of(model, seen), model.transition, model.discount)


def worst_value(
    true: Model, believed: Model, reward: Float[Array, "S A"], num_steps: int = 200, step_size: float = 0.1
) -> tuple[Float[Array, " S"], Float[Array, ""]]:
    """Of all rewards that who believes in a model may infer, that which is furthest from the true one; its value, and the error.

    Sought by gradient ascent on the direction and the logarithm of the length of `value`, by steps of fixed length. What is found
    is a lower bound of the worst. Where the discount or the dynamics are wrong, shapings in the believed model are none in truth,
    so that they may be anything, and what was shown does not matter beside long ones.
    """
    size = reward.shape[0]
    policy = policy_of(true, reward)

    def loss(both):
        value = jnp.exp(both[-1]) * both[:-1] / jnp.linalg.norm(both[:-1])
        found = reward_of(believed, policy, value)
        return reward_metrics.starc_distance(reward, found, true.transition, true.discount), value

    def step(both, _):
        slope = jax.grad(loss, has_aux=True)(both)[0]
        return both + step_size * slope / jnp.maximum(jnp.linalg.norm(slope), 1e-12), None

    first = jnp.arange(size, dtype=reward.dtype) - 0.5 * (size - 1)
    begin = jnp.append(first / jnp.linalg.norm(first), 0.0)
    ends = [jax.lax.scan(step, begin.at[:-1].multiply(sign), length=num_steps)[0] for sign in (1.0, -1.0)]
    found = [loss(end) for end in ends]
    better = found[0][0] > found[1][0]
    return jnp.where(better, found[0][1], found[1][1]), jnp.maximum(found[0][0], found[1][0])


def _check(model: Model) -> None:
    if model.behaviour not in BEHAVIOURS:
        raise UserError(f"Unknown behaviour {model.behaviour!r}; {nearest(model.behaviour, BEHAVIOURS)}")
