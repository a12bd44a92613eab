"""All rewards that explain a demonstrator, with a horizon: the feasible set, from samples, and how far two such sets are apart.

Metelli, Lazzati & Restelli, 2023, "Towards theoretical understanding of inverse reinforcement learning", arXiv:2304.12966. A reward
r_h(s, a), within -1 and 1, is feasible if the demonstrator's policy is optimal for it at every time and in every state, that is if

    r_h(s, a) = -A_h(s, a) 1{policy_h(a | s) = 0} + V_h(s) - E V_(h+1)(s')      for some V, and some A that is nowhere below 0,

with V after the horizon 0. Both dynamics and policies may change with time: they are [H, S, A, S] and [H, S, A].

Samples are drawn by JAX; sets are polytopes, which linear programs tell of on the host: numpy in, numpy out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.sparse
from jaxtyping import Array, Float

from rljax.errors import UserError
from rljax.types import Key


class Problem(NamedTuple):
    """Dynamics and the demonstrator's policy: what a feasible set is of, known or estimated."""

    transition: Float[Array, "H S A S"]
    policy: Float[Array, "H S A"]


def stationary(transition: Float[Array, "S A S"], policy: Float[Array, "H S A"]) -> Problem:
    """A problem whose dynamics are the same at all times."""
    return Problem(jnp.broadcast_to(transition, (policy.shape[0], *transition.shape)), policy)


def uniform_samples(key: Key, problem: Problem, num_samples: int) -> Problem:
    """What is estimated from `num_samples` calls of a generative model for each (h, s, a): US-IRL. H * S * A times as many in all.

    A call tells a next state, and an action of the demonstrator in s at h. Frequencies are the estimates of both.
    """
    next_key, action_key = jax.random.split(key)
    num_actions = problem.policy.shape[-1]
    return Problem(
        frequencies(next_key, problem.transition, num_samples),
        frequencies(action_key, problem.policy, num_samples * num_actions),
    )


def frequencies(key: Key, chances: Float[Array, "*N K"], num_samples: int) -> Float[Array, "*N K"]:
    """The shares of `num_samples` draws from each distribution. What has no chance is never drawn."""
    edge = jnp.cumsum(chances, -1)
    edge = edge / edge[..., -1:]
    drawn = jax.random.uniform(key, (num_samples, *chances.shape[:-1]), edge.dtype)
    below = jax.lax.map(lambda edge: (drawn < edge).mean(0), jnp.moveaxis(edge, -1, 0))
    return jnp.diff(jnp.moveaxis(below, 0, -1), prepend=0.0)


def distance_bound(first: Problem, second: Problem) -> Float[Array, ""]:
    """A bound of `distance`, 2 e / (1 + e), of the form that the paper's has. With h from 1, e is the maximum of

        (H - h) |p - p'|_1 + 2 (H - h + 1) |1{policy = 0} - 1{policy' = 0}|

    The feasible reward of the other problem that has the same V and A, |V_h| <= H - h + 1 and A_h <= 2 (H - h + 1), differs by e at
    most; divided by 1 + e it is within -1 and 1.
    """
    left = jnp.arange(first.policy.shape[0], 0, -1.0)[:, None, None]
    moved = (left - 1.0) * jnp.abs(first.transition - second.transition).sum(-1)
    error = (moved + 2.0 * left * jnp.abs((first.policy == 0.0) * 1.0 - (second.policy == 0.0))).max()
    return 2.0 * error / (1.0 + error)


# --- On the host ------------------------------------------------------------------------------------------------------


def reward_of(
    problem: Problem, value: Float[np.ndarray, "H S"], advantage: Float[np.ndarray, "H S A"]
) -> Float[np.ndarray, "H S A"]:
    """The reward of the explicit form, of values and of advantages that the actions not taken lack. It is not cut to -1 and 1.

    Raises:
      UserError: an advantage is below 0.
    """
    if (np.asarray(advantage) < 0.0).any():
        raise UserError("What actions lack, A, must nowhere be below 0.")
    later = np.concatenate([value[1:], np.zeros_like(value[:1])])
    following = np.einsum("hsat,ht->hsa", np.asarray(problem.transition, np.float64), later)
    return -advantage * (np.asarray(problem.policy) == 0.0) + value[:, :, None] - following


def evaluate(
    problem: Problem, reward: Float[np.ndarray, "*N H S A"]
) -> tuple[Float[np.ndarray, "*N H S A"], Float[np.ndarray, "*N H S"]]:
    """Advantages Q - V of the demonstrator's policy, and V: linear in rewards."""
    transition, policy = (np.asarray(x, np.float64) for x in problem)
    advantage, value = np.empty(reward.shape), np.zeros((*reward.shape[:-3], len(policy) + 1, reward.shape[-2]))
    for h in reversed(range(len(policy))):
        q = reward[..., h, :, :] + np.einsum("sat,...t->...sa", transition[h], value[..., h + 1, :])
        value[..., h, :] = (policy[h] * q).sum(-1)
        advantage[..., h, :, :] = q - value[..., h, :, None]
    return advantage, value[..., :-1, :]


def is_feasible(problem: Problem, reward: Float[np.ndarray, "H S A"], tolerance: float = 1e-6) -> bool:
    """Whether the demonstrator is optimal for the reward, at all times and in all states, and the reward is within -1 and 1."""
    reward = np.asarray(reward, np.float64)
    return bool(max(evaluate(problem, reward)[0].max(), np.abs(reward).max() - 1.0) <= tolerance)


class Nearest(NamedTuple):
    reward: Float[np.ndarray, "H S A"]
    distance: float  # max |r - r'|
    slope: Float[np.ndarray, "H S A"]  # of the distance by the reward asked about: a subgradient


def nearest(problem: Problem, reward: Float[np.ndarray, "H S A"]) -> Nearest:
    """The feasible reward that is nearest to another by max |r - r'|, exactly (HiGHS, float64)."""
    return _nearest(_matrix(problem), np.asarray(reward, np.float64))


def furthest(
    first: Problem, second: Problem, num_starts: int = 16, seed: int = 0
) -> tuple[float, Float[np.ndarray, "H S A"]]:
    """max over r feasible for `first` of min over r' feasible for `second` of max |r - r'|, and that r.

    The inner minimum is a convex function of r, so a corner of the first polytope is furthest. From one corner the best one by the
    slope there is gone to, which is never nearer, until there is no gain. The best of `num_starts` such ascents is returned: half
    of them begin in random directions, half where values differ most over what is next by the one dynamics and by the other. That
    is a lower bound, and attained; corners are too many to be listed except in the smallest problems.
    """
    rng, shape = np.random.default_rng(seed), np.shape(first.policy)
    own, other = _matrix(first), _matrix(second)
    starts = rng.normal(size=(num_starts, *shape))
    told = _tell_apart(first, second)[: num_starts // 2]
    starts[: len(told)] = told
    best = (0.0, np.zeros(shape))
    for direction in starts:
        reached = -1.0
        while True:
            corner = _corner(own, direction)
            found = _nearest(other, corner)
            if found.distance <= reached + 1e-9:
                break
            reached, direction = found.distance, found.slope
            best = max(best, (reached, corner), key=lambda pair: pair[0])
    return best


def distance(first: Problem, second: Problem, num_starts: int = 16, seed: int = 0) -> float:
    """Hausdorff's distance of two feasible sets, by max |r - r'|: the longer of the ways to the other set. See `furthest`."""
    return max(furthest(first, second, num_starts, seed)[0], furthest(second, first, num_starts, seed)[0])


def _matrix(problem: Problem) -> scipy.sparse.csr_array:
    """Of advantages, for flat rewards."""
    shape = np.shape(problem.policy)
    size = int(np.prod(shape))
    return scipy.sparse.csr_array(evaluate(problem, np.eye(size).reshape(size, *shape))[0].reshape(size, size).T)


def _tell_apart(first, second):
    """Gradients of (p - p') V_(h+1) by the reward and their opposites [N, H, S, A], those of the most different p first."""
    horizon, num_states, num_actions = shape = np.shape(first.policy)
    size = int(np.prod(shape))
    later = np.zeros((size, horizon, num_states))
    later[:, :-1] = evaluate(first, np.eye(size).reshape(size, *shape))[1][:, 1:]
    moved = np.asarray(first.transition, np.float64) - np.asarray(second.transition, np.float64)
    weight = np.abs(moved).sum(-1) * np.arange(horizon - 1, -1, -1)[:, None, None]
    order = np.argsort(-weight, axis=None)
    slopes = np.einsum("hsat,nht->hsan", moved, later).reshape(size, *shape)[order]
    return np.stack([slopes, -slopes], axis=1).reshape(2 * size, *shape)


def _solve(*args, **kwargs):
    found = scipy.optimize.linprog(*args, method="highs", **kwargs)
    if found.status != 0:  # the reward 0 is feasible and everything is bounded: HiGHS itself failed
        raise RuntimeError(f"HiGHS did not solve the linear program: {found.message}")
    return found


def _corner(matrix, direction):
    """The feasible reward that is most in a direction."""
    found = _solve(-direction.ravel(), matrix, np.zeros(matrix.shape[0]), bounds=(-1.0, 1.0))
    return found.x.reshape(direction.shape)


def _nearest(matrix, reward):
    size, target = reward.size, reward.ravel()
    one, ones, none = scipy.sparse.eye_array(size), np.ones((size, 1)), np.zeros((size, 1))
    rows = scipy.sparse.block_array([[matrix, none], [one, -ones], [-one, -ones]], format="csr")
    limits = np.concatenate([np.zeros(size), target, -target])
    cost = np.append(np.zeros(size), 1.0)
    found = _solve(cost, rows, limits, bounds=[(-1.0, 1.0)] * size + [(0.0, None)])
    price = found.ineqlin.marginals
    slope = price[size : 2 * size] - price[2 * size :]
    return Nearest(found.x[:size].reshape(reward.shape), float(found.fun), slope.reshape(reward.shape))
