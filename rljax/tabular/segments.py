"""Segments of finite MDPs, what they are worth, and what judgements of them teach: a reward, or advantages taken for one.

Knox et al., 2022 (arXiv:2206.02231) and 2023 (arXiv:2310.02456). Who judges by regret tells sums of optimal advantages A*; a model
of partial returns that learns from such judgements finds A* and calls it a reward. All functions are pure and can be vmapped.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from rljax.data import labellers
from rljax.losses import preference
from rljax.record import record
from rljax.tabular import comparisons, solvers
from rljax.types import Key

Number = Float[Array, ""] | float


@record
class Segments:
    """state: [*P, K + 1], with the one that follows the last step. action: [*P, K]."""

    state: Int[Array, "*P K1"]
    action: Int[Array, "*P K"]


def draw(
    key: Key,
    transition: Float[Array, "S A S"],
    policy: Float[Array, "S A"],
    start: Float[Array, " S"],
    shape: tuple[int, ...],
    length: int,
) -> Segments:
    """Segments of `shape` that begin as `start` says and follow `policy` for `length` steps, on in absorbing states too."""
    start_key, key = jax.random.split(key)

    def step(state, key):
        action_key, state_key = jax.random.split(key)
        action = jax.random.categorical(action_key, jnp.log(policy[state]))
        following = jax.random.categorical(state_key, jnp.log(transition[state, action]))
        return following, (following, action)

    first = jax.random.categorical(start_key, jnp.log(start), shape=shape)
    _, (states, actions) = jax.lax.scan(step, first, jax.random.split(key, length))
    states = jnp.concatenate([first[None], states])
    return Segments(jnp.moveaxis(states, 0, -1), jnp.moveaxis(actions, 0, -1))


def visits(segments: Segments, num_states: int, num_actions: int, discount: Number = 1.0) -> Float[Array, "*P S A"]:
    """How often each action is taken in each state, discounted from the first step on."""
    length = segments.action.shape[-1]
    taken = segments.state[..., :-1] * num_actions + segments.action
    weight = jnp.asarray(discount) ** jnp.arange(length)
    counted = jnp.einsum("...kn,k->...n", jax.nn.one_hot(taken, num_states * num_actions, dtype=weight.dtype), weight)
    return counted.reshape(*taken.shape[:-1], num_states, num_actions)


def partial_return(segments: Segments, reward: Float[Array, "S A"], discount: Number = 1.0) -> Float[Array, "*P"]:
    """sum_t discount^t R(s_t, a_t)."""
    return jnp.einsum("...sa,sa->...", visits(segments, *reward.shape, discount), reward)


def negated_regret(
    segments: Segments, reward: Float[Array, "S A"], value: Float[Array, " S"], discount: Number = 1.0
) -> Float[Array, "*P"]:
    """`data.labellers.regret` of segments, by the optimal `value`; the higher the better, 0 for an optimal one without luck."""
    paid = reward[segments.state[..., :-1], segments.action]
    of = lambda paid, first, last: labellers.regret(paid, jnp.ones_like(paid, bool), first, last, discount)
    of = jnp.vectorize(of, signature="(k),(),()->()")
    return of(paid, value[segments.state[..., 0]], value[segments.state[..., -1]])


def advantage(q: Float[Array, "S A"]) -> Float[Array, "S A"]:
    """Q(s, a) - max_a Q(s, a): A* where `q` is Q*."""
    return q - q.max(-1, keepdims=True)


def fit_partial_return(
    visits: Float[Array, "N K S A"], ranks: Int[Array, "N K"], bound: Number, num_steps: int = 15
) -> Float[Array, "S A"]:
    """The reward of norm `bound` or less whose partial returns explain judgements best, by Bradley & Terry's law of pairs.

    What segments end in is told nothing of: where all have equally many steps whose visits count, a reward is found up to a
    constant. Leave out (by zeros) the visits of absorbing states, which pay nothing, and the constant is told by who gets there.
    """
    flat = visits.reshape(*visits.shape[:2], -1)
    return comparisons.fit(preference.pairwise, flat, ranks, bound, num_steps).reshape(visits.shape[2:])


def fit_penalised(
    visits: Float[Array, "N K S A"],
    ranks: Int[Array, "N K"],
    worth: Callable[[Array], Array],
    weight_decay: Number = 1e-3,
    learning_rate: float = 0.05,
    num_steps: int = 200,
) -> Float[Array, "S A"]:
    """The reward that explains judgements best by the same law, less a penalty, by Adam: any `worth` on equal terms.

    Args:
      worth: (reward [S, A]) -> [S, A], whose sums along segments are compared: the reward itself for partial returns.
      weight_decay: of the squared norm, added to the mean loss.
    """

    def loss(reward):
        scores = jnp.einsum("nksa,sa->nk", visits, worth(reward))
        return jax.vmap(preference.pairwise)(scores, ranks).mean() + weight_decay * jnp.square(reward).sum()

    optimiser = optax.adam(learning_rate)

    def step(carry, _):
        reward, state = carry
        change, state = optimiser.update(jax.grad(loss)(reward), state)
        return (optax.apply_updates(reward, change), state), None

    first = jnp.zeros(visits.shape[2:], visits.dtype)
    (reward, _), _ = jax.lax.scan(step, (first, optimiser.init(first)), length=num_steps)
    return reward


def fit_regret(
    visits: Float[Array, "N K S A"],
    ranks: Int[Array, "N K"],
    transition: Float[Array, "S A S"],
    discount: Number,
    tolerance: float = 1e-4,
    **settings,
) -> Float[Array, "S A"]:
    """The reward whose regrets explain judgements best: differentiated through its optimal values. The regret of a segment is the
    sum of its advantages, which is exact where nothing is random. `settings` are those of `fit_penalised`."""
    pays = (
        visits.sum((0, 1)).sum(-1, keepdims=True) > 0.0
    )  # a state that no visit counts, an absorbing one say, pays nothing
    worth = lambda reward: advantage(solvers.optimal_q(transition, reward * pays, discount, tolerance=tolerance))
    return fit_penalised(visits, ranks, worth, **settings) * pays


def judge(teacher: labellers.Teacher, utility: Float[Array, "N K"], key: Key) -> Int[Array, "N K"]:
    """The ranks that a teacher gives, each judgement with a key of its own."""
    keys = jax.random.split(key, utility.shape[0])
    return jax.vmap(functools.partial(labellers.judge, teacher))(utility, keys)[0]


def scaled_return(
    transition: Float[Array, "S A S"],
    reward: Float[Array, "S A"],
    discount: Number,
    start: Float[Array, " S"],
    policy: Float[Array, "S A"],
    tolerance: float = 1e-6,
) -> Float[Array, ""]:
    """What a policy earns from `start`, 1 being the best and 0 what uniformly random actions earn."""
    worth = lambda policy: start @ solvers.value(transition, reward, discount, policy)
    best = start @ solvers.optimal_q(transition, reward, discount, tolerance=tolerance).max(-1)
    random = worth(jnp.full_like(reward, 1.0 / reward.shape[1]))
    return (worth(policy) - random) / (best - random)
