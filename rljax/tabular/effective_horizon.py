"""How few steps of value iteration make an optimal policy of what acting at random earns, and learning by no more than these.

Laidlaw, Zhu, Russell & Dragan, 2023, "The effective horizon explains deep RL performance in stochastic environments",
arXiv:2312.08369. An MDP is arrays, as in rljax.tabular.solvers, without discount: it lasts `horizon` steps, T of them. Times, and
steps to look ahead, are k = 1 ... T. What is said of gaps is meant for returns in [0, 1].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rljax.errors import UserError
from rljax.types import Key


class Solvable(NamedTuple):
    """By k, [T]: whether acting greedily by Q^k is optimal; by how much at least the best actions are ahead of the others by Q^k
    (inf where all are best); and the effective horizon."""

    solvable: Bool[Array, " T"]
    gap: Float[Array, " T"]
    horizon: Float[Array, " T"]


def random_q(transition: Float[Array, "S A S"], reward: Float[Array, "S A"], horizon: int) -> Float[Array, "T S A"]:
    """Q^1: the values of actions where all that follow are drawn uniformly."""

    def earlier(value, _):
        q = reward + transition @ value
        return q.mean(axis=-1), q

    return jax.lax.scan(earlier, jnp.zeros(len(reward), reward.dtype), length=horizon, reverse=True)[1]


def shallow_q(
    transition: Float[Array, "S A S"], reward: Float[Array, "S A"], horizon: int, steps: int
) -> Float[Array, "T S A"]:
    """Q^k, k = `steps`: of the random policy's values, after k - 1 steps of value iteration; with k = T those of the optimum.

    Raises:
      UserError: it is not from 1 to the horizon.
    """
    _check(steps, horizon)
    q = random_q(transition, reward, horizon)
    for _ in range(steps - 1):
        q = reward + jnp.einsum("sat,ht->hsa", transition, _next_value(q))
    return q


def reachable(transition: Float[Array, "S A S"], start: Float[Array, " S"], horizon: int) -> Bool[Array, "T S"]:
    """Which states there can be at each time, whatever is done."""

    def later(here, _):
        return jnp.einsum("s,sat->t", 1.0 * here, transition) > 0.0, here

    return jax.lax.scan(later, start > 0.0, length=horizon)[1]


def effective_horizon(
    transition: Float[Array, "S A S"],
    reward: Float[Array, "S A"],
    start: Float[Array, " S"],
    horizon: int,
    tolerance: float = 1e-5,
) -> Solvable:
    """H_k = k + log_A(1 / gap_k^2) where acting greedily by Q^k is optimal in all states that can be reached, and inf where it is
    not; the stochastic effective horizon is the least of them. A^(H_k) is the order of the episodes a step that `sqirl` needs.

    Args:
      tolerance: actions whose values differ by no more are worth the same.
    """
    at = reachable(transition, start, horizon)[..., None]
    best = lambda q: q >= q.max(axis=-1, keepdims=True) - tolerance
    optimal = best(shallow_q(transition, reward, horizon, horizon))

    def of(steps):
        q = shallow_q(transition, reward, horizon, steps)
        behind = jnp.where(at & ~best(q), q.max(axis=-1, keepdims=True) - q, jnp.inf)
        return (~at | ~best(q) | optimal).all(), behind.min()

    solvable, gap = map(jnp.stack, zip(*[of(steps) for steps in range(1, horizon + 1)]))
    ahead = jnp.arange(1, horizon + 1) - 2.0 * jnp.log(gap) / jnp.log(reward.shape[1])
    ahead = jnp.where(jnp.isinf(gap), jnp.arange(1, horizon + 1), ahead)  # nothing to tell apart
    return Solvable(solvable, gap, jnp.where(solvable, ahead, jnp.inf))


def sqirl(
    transition: Float[Array, "S A S"],
    reward: Float[Array, "S A"],
    start: Float[Array, " S"],
    horizon: int,
    steps: int,
    episodes: int,
    key: Key,
) -> Float[Array, "T S A"]:
    """Shallow Q-iteration via reinforcement learning: a policy for each time, from T times `episodes` episodes.

    For each time in turn: act by what has been learned for the times before and at random from it on; Q^1 of states and actions is
    the mean of what was earned from there, `steps` - 1 times fitted Q-iteration on the same episodes makes Q^k of it, and the
    policy is greedy by it. Regression here is the mean of each state and action; in states that no episode came to the policy
    stays random.

    Raises:
      UserError: steps is not from 1 to the horizon.
    """
    _check(steps, horizon)
    num_states, num_actions = reward.shape
    log_start, log_transition = jnp.log(start), jnp.log(transition)
    times = jnp.arange(horizon)[:, None]

    def one_time(policy, inputs):
        time, key = inputs
        start_key, key = jax.random.split(key)
        first = jax.random.categorical(start_key, log_start, shape=(episodes,))

        def step(state, inputs):
            law, key = inputs
            action_key, state_key = jax.random.split(key)
            action = jax.random.categorical(action_key, jnp.log(law)[state])
            following = jax.random.categorical(state_key, log_transition[state, action])
            return following, (state, action, following)

        _, (state, action, following) = jax.lax.scan(step, first, (policy, jax.random.split(key, horizon)))
        paid = reward[state, action]  # [T, m]
        count = jnp.zeros_like(policy).at[times, state, action].add(1.0)

        def regress(target):
            total = jnp.zeros_like(policy).at[times, state, action].add(target)
            return jnp.where(count > 0.0, total / jnp.maximum(count, 1.0), -jnp.inf)

        q = regress(jnp.cumsum(paid[::-1], axis=0)[::-1])
        for _ in range(steps - 1):
            q = regress(paid + _next_value(q)[times, following])
        greedy = jax.nn.one_hot(q[time].argmax(axis=-1), num_actions, dtype=policy.dtype)
        known = count[time].any(axis=-1, keepdims=True)
        return policy.at[time].set(jnp.where(known, greedy, policy[time])), None

    anyhow = jnp.full((horizon, num_states, num_actions), 1.0 / num_actions, reward.dtype)
    return jax.lax.scan(one_time, anyhow, (jnp.arange(horizon), jax.random.split(key, horizon)))[0]


def _next_value(q: Float[Array, "T S A"]) -> Float[Array, "T S"]:
    """max_a Q of the next time; 0 after the last."""
    value = q.max(axis=-1)
    return jnp.concatenate([value[1:], jnp.zeros_like(value[:1])])


def _check(steps: int, horizon: int) -> None:
    if not 1 <= steps <= horizon:
        raise UserError(f"steps={steps} must be from 1 to the horizon, {horizon}.")
