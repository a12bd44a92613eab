"""Finite MDPs with costs that have budgets: regularised optimal policies, and what such demonstrators tell of their reward.

Schlaginhaufen & Kamgarpour, 2023, "Identifiability and generalizability in constrained inverse reinforcement learning",
arXiv:2306.00629. With visits mu(s, a) = sum_t discount^t P(s_t = s, a_t = a), a demonstrator maximises

    objective = sum mu r + temperature sum mu entropy(policy)    where    costs mu = sum_sa mu(s, a) costs(s, a, k) <= budget(k).

For prices of the costs the best policy is the soft-optimal one of r - prices costs, so there is a convex function of rewards and
prices, the dual, whose gradient is visits (less those demonstrated) and what is left of budgets. Demonstrators are found by going
down it in prices alone, rewards by going down in both: `minimised`.

All functions are pure and can be jitted and vmapped. Budgets are of discounted sums, and all of them must be kept by some policy.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rljax.record import record
from rljax.tabular import identifiability, solvers


@record
class Constrained:
    """A finite MDP without its reward, and K costs with budgets."""

    transition: Float[Array, "S A S"]
    discount: Float[Array, ""] | float
    start: Float[Array, " S"]
    costs: Float[Array, "S A K"]
    budget: Float[Array, " K"]
    temperature: Float[Array, ""] | float = 1.0


class Solution(NamedTuple):
    policy: Float[Array, "S A"]
    visits: Float[Array, "S A"]
    price: Float[Array, " K"]  # of the costs, 0 where a budget is not used up
    error: Float[Array, ""]  # by how much the conditions of optimality are missed, see `minimised`


def visits_of(mdp: Constrained, policy: Float[Array, "S A"]) -> Float[Array, "S A"]:
    """sum_t discount^t P(s_t = s, a_t = a)."""
    return solvers.occupancy(mdp.transition, policy, mdp.start, mdp.discount)[:, None] * policy


def objective(mdp: Constrained, reward: Float[Array, "S A"], policy: Float[Array, "S A"]) -> Float[Array, ""]:
    """What a policy is worth, with its entropy, whether it keeps to the budgets or not."""
    paid = reward + mdp.temperature * jax.scipy.special.entr(policy).sum(-1, keepdims=True)
    return (visits_of(mdp, policy) * paid).sum()


def solve(mdp: Constrained, reward: Float[Array, "S A"], tolerance: float = 1e-6, max_steps: int = 2000) -> Solution:
    """The policy that is best within the budgets. Going down the dual in its prices by `minimised`.

    Towards temperature 0 it is the linear program's, and takes the more steps.
    """
    price, error = minimised(
        lambda price: _dual(mdp, reward, price, tolerance),
        jnp.zeros_like(mdp.budget),
        lambda price: jnp.maximum(price, 0.0),
        tolerance,
        max_steps,
    )
    policy = _policy(mdp, reward, price, tolerance)
    return Solution(policy, visits_of(mdp, policy), price, error)


def recover(
    mdp: Constrained,
    visits: Float[Array, "S A"],
    features: Float[Array, "S A F"],
    radius: float = jnp.inf,
    tolerance: float = 1e-6,
    max_steps: int = 2000,
) -> tuple[Float[Array, " F"], Solution]:
    """Weights of features under which the demonstrated visits are best within the known budgets, and the policy of these.

    The minimum over weights of norm `radius` at most of max_mu objective - objective(visits), a saddle point of weights and
    policies; with prices it is one convex function of both. Without a radius, visits must be positive wherever features tell.
    """
    num_weights = features.shape[-1]

    def loss(both):
        reward = features @ both[:num_weights]
        return _dual(mdp, reward, both[num_weights:], tolerance) - (visits * reward).sum()

    def project(both):
        weights, price = both[:num_weights], both[num_weights:]
        length = jnp.linalg.norm(weights)
        weights = weights * jnp.where(length > radius, radius / jnp.maximum(length, 1e-12), 1.0)
        return jnp.concatenate([weights, jnp.maximum(price, 0.0)])

    initial = jnp.zeros(num_weights + mdp.budget.shape[0], visits.dtype)
    both, error = minimised(loss, initial, project, tolerance, max_steps)
    weights, price = both[:num_weights], both[num_weights:]
    policy = _policy(mdp, features @ weights, price, tolerance)
    return weights, Solution(policy, visits_of(mdp, policy), price, error)


def left_open(
    mdp: Constrained,
    visits: Float[Array, "S A"],
    of_actions: bool = True,
    tolerance: float = 1e-5,
) -> Float[Array, "SA N"]:
    """The directions, one a column, in which the reward of a demonstrator with these visits may be moved without it being seen.

    Shapings, either way; costs whose budget is used up, which may be added to the reward; and steps that are never taken, which may
    pay less (a soft-optimal demonstrator takes all). The rewards of the demonstrator are any one of them and these: the normal cone
    of what can be visited within the budgets. Columns that are not in it are 0, so that shapes do not depend on visits;
    `dimension` counts.

    Args:
      tolerance: budgets and visits that are missed by no more, relative to 1 / (1 - discount), are at their limits.
    """
    scale = tolerance / (1.0 - mdp.discount)
    shaping = identifiability.shaping(mdp.transition, mdp.discount)
    costs = mdp.costs.reshape(-1, mdp.budget.shape[0]) * active(mdp, visits, tolerance)
    never = -jnp.diag((visits.ravel() <= scale).astype(costs.dtype))
    return jnp.concatenate([shaping, costs, never], axis=1)


def active(mdp: Constrained, visits: Float[Array, "S A"], tolerance: float = 1e-5) -> Bool[Array, " K"]:
    """Which budgets are used up."""
    return jnp.einsum("sa,sak->k", visits, mdp.costs) >= mdp.budget - tolerance / (1.0 - mdp.discount)


def dimension(directions: Float[Array, "SA N"], tolerance: float = 1e-5) -> Array:
    """How many numbers they leave open: their rank."""
    return (jnp.linalg.svd(directions, compute_uv=False) > tolerance).sum()


# --- Going down -------------------------------------------------------------------------------------------------------


def minimised(function, initial: Float[Array, " N"], project, tolerance: float = 1e-6, max_steps: int = 2000):
    """The minimum of a smooth convex function over a convex set, and by how much a projected gradient step of length 1 still moves.

    Accelerated projected gradients, Beck & Teboulle, 2009, "A fast iterative shrinkage-thresholding algorithm"; the step is halved
    until it is short enough for the curvature and grows again by a tenth, and momentum is dropped where it points uphill
    (O'Donoghue & Candes, 2012, arXiv:1204.3982).

    Args:
      project: onto the set.
    """
    value_and_slope = jax.value_and_grad(function)

    def step(carry):
        x, ahead, momentum, length, _, count = carry
        value, slope = value_and_slope(ahead)

        def at(length):
            there = project(ahead - length * slope)
            return there, function(there)

        def too_long(tried):
            length, there, reached = tried
            move = there - ahead
            rounding = 10.0 * jnp.finfo(value.dtype).eps * jnp.abs(value)
            allowed = value + slope @ move + 0.5 * move @ move / length + rounding
            return (reached > allowed) & (length > 1e-12)

        length, there, _ = jax.lax.while_loop(
            too_long, lambda tried: (0.5 * tried[0], *at(0.5 * tried[0])), (length, *at(length))
        )
        uphill = (ahead - there) @ (there - x) > 0.0
        grown = jnp.where(uphill, 1.0, 0.5 * (1.0 + jnp.sqrt(1.0 + 4.0 * jnp.square(momentum))))
        onward = jnp.where(uphill, there, there + (momentum - 1.0) / grown * (there - x))
        error = jnp.linalg.norm(project(ahead - slope) - ahead)
        return there, project(onward), grown, 1.1 * length, error, count + 1

    def unfinished(carry):
        return (carry[4] > tolerance) & (carry[5] < max_steps)

    one = jnp.ones((), initial.dtype)
    carry = (initial, initial, one, one, jnp.inf * one, jnp.int32(0))
    found, _, _, _, error, _ = jax.lax.while_loop(unfinished, step, carry)
    return found, error


def _q(mdp: Constrained, reward, price, tolerance):
    rule = functools.partial(solvers.soft_value, temperature=mdp.temperature)
    return solvers.optimal_q(mdp.transition, reward - mdp.costs @ price, mdp.discount, rule, 1e-2 * tolerance)


def _policy(mdp: Constrained, reward, price, tolerance):
    return solvers.soft_policy(_q(mdp, reward, price, tolerance), mdp.temperature)


def _dual(mdp: Constrained, reward, price, tolerance):
    """max over all policies of objective - price (costs - budget): its gradients are visits and what is left of budgets."""
    value = solvers.soft_value(_q(mdp, reward, price, tolerance), mdp.temperature)
    return mdp.start @ value + price @ mdp.budget
