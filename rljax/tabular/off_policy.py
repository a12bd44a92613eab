"""Multi-step operators of off-policy evaluation, path by path and marginalized, and the exact variances of what estimates them.

Tang, Rowland, Munos & Valko, 2022, "Marginalized operators for off-policy reinforcement learning", arXiv:2203.16177; traces are
those of Munos et al., 2016, arXiv:1606.02647. A path's correction at time t is weighed by the product of its traces,
C_t = c_1 ... c_t. Marginalized, it is weighed by E[C_t] given where the path began and where it is: the operator is the same, and
one source of chance is gone. MDPs are arrays, as in rljax.tabular.solvers; pairs (s, a) are where paths begin, from which the
behaviour goes on.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax.errors import UserError
from rljax.names import nearest
from rljax.tabular.solvers import Number, look_ahead

Policy = Float[Array, "S A"]
Transition = Float[Array, "S A S"]
TRACES = ("importance", "retrace", "tree_backup", "q_lambda")


def traces(policy: Policy, behaviour: Policy, kind: str = "retrace", decay: Number = 1.0) -> Policy:
    """c(s, a), `decay` times the ratio of both policies, that ratio at most 1, the policy itself, or 1 (Munos et al., table 1).

    Raises:
      UserError: the kind is none of `TRACES`.
    """
    ratio = policy / behaviour
    kinds = {
        "importance": ratio,
        "retrace": jnp.minimum(ratio, 1.0),
        "tree_backup": policy,
        "q_lambda": jnp.ones_like(ratio),
    }
    if kind not in kinds:
        raise UserError(f"There are no traces {kind!r}; {nearest(kind, TRACES)}")
    return decay * kinds[kind]


def errors(reward: Policy, discount: Number, policy: Policy, q: Policy) -> Float[Array, "S A S"]:
    """r + discount E_pi Q(s', .) - Q(s, a), of a step."""
    return (reward - q)[..., None] + discount * (policy * q).sum(-1)


def steps(transition: Transition, policy: Policy, trace: Policy | float = 1.0) -> Float[Array, "S A S A"]:
    """P(s' | s, a) pi(a' | s') c(s', a'), from pair to pair."""
    return transition[..., None] * (trace * policy)


def visits(
    transition: Transition, behaviour: Policy, discount: Number, trace: Policy | float = 1.0
) -> Float[Array, "S A S A"]:
    """sum_t discount^t E[C_t; s_t = s', a_t = a'] of paths from (s, a)."""
    size = behaviour.size
    matrix = jnp.eye(size, dtype=behaviour.dtype) - discount * steps(transition, behaviour, trace).reshape(size, size)
    return jnp.linalg.inv(matrix).reshape(behaviour.shape * 2)


def operator(
    transition: Transition,
    reward: Policy,
    discount: Number,
    policy: Policy,
    behaviour: Policy,
    trace: Policy,
    q: Policy,
) -> Policy:
    """Q + E[sum_t discount^t C_t (r_t + discount E_pi Q(s_{t+1}, .) - Q(s_t, a_t))], whose fixed point is Q of the policy."""
    expected = look_ahead(transition, reward, discount, (policy * q).sum(-1)) - q
    return q + jnp.einsum("satb,tb->sa", visits(transition, behaviour, discount, trace), expected)


def marginalized(
    transition: Transition,
    reward: Policy,
    discount: Number,
    policy: Policy,
    behaviour: Policy,
    weights: Float[Array, "S A S A"],
    q: Policy,
) -> Policy:
    """Q + sum over pairs of the behaviour's visits times weights [of the beginning, of the pair] times expected errors there."""
    expected = look_ahead(transition, reward, discount, (policy * q).sum(-1)) - q
    return q + jnp.einsum("satb,satb,tb->sa", visits(transition, behaviour, discount), weights, expected)


def contraction(
    transition: Transition, discount: Number, policy: Policy, behaviour: Policy, trace: Policy
) -> Float[Array, ""]:
    """By how much the operator brings two Q nearer in their largest difference, at least: the norm of its linear part."""
    differ = steps(transition, policy) - steps(transition, behaviour, trace)
    linear = discount * jnp.einsum("satb,tbuc->sauc", visits(transition, behaviour, discount, trace), differ)
    return jnp.abs(linear).sum((2, 3)).max()


def weights(transition: Transition, behaviour: Policy, discount: Number, trace: Policy) -> Float[Array, "S A S A"]:
    """E[C_t | s_0, a_0, s_t, a_t], t drawn with discount^t: visits with traces over those without, 0 where there are none.

    With `importance` traces it is the density ratio of marginalized importance sampling.
    """
    plain = visits(transition, behaviour, discount)
    return _ratio(visits(transition, behaviour, discount, trace), plain)


def weights_by_time(
    transition: Transition, behaviour: Policy, trace: Policy, horizon: int
) -> Float[Array, "T S A S A"]:
    """E[C_t | s_0, a_0, s_t, a_t] at t = 0 ... T - 1; 0 where there is nobody."""

    def later(here, _):
        move = lambda x, trace: jnp.einsum("satb,tbuc->sauc", x, steps(transition, behaviour, trace))
        return (move(here[0], trace), move(here[1], 1.0)), _ratio(*here)

    begin = jnp.eye(behaviour.size, dtype=behaviour.dtype).reshape(behaviour.shape * 2)
    return jax.lax.scan(later, (begin, begin), length=horizon)[1]


def path_variance(
    transition: Transition,
    behaviour: Policy,
    discount: Number,
    error: Float[Array, "S A S"],
    weight: Float[Array, "T S A"],
    trace: Policy | float = 1.0,
) -> tuple[Policy, Policy]:
    """Mean and variance of sum_{t < T} discount^t C_t w_t(s_t, a_t) error(s_t, a_t, s_{t+1}) along a path of the behaviour.

    With w = 1 it is Retrace and its relatives; with trace = 1 and w the weights of a beginning it is marginalized, read at it.
    """

    def earlier(following, weight):
        first, second = following  # of the sum from the next pair on
        onward = lambda moment, power: discount**power * (behaviour * trace**power * moment).sum(-1)
        here = weight[..., None] * error
        mean = here + onward(first, 1)
        square = here**2 + 2.0 * here * onward(first, 1) + onward(second, 2)
        return ((transition * mean).sum(-1), (transition * square).sum(-1)), None

    nothing = jnp.zeros_like(behaviour)
    mean, square = jax.lax.scan(earlier, (nothing, nothing), weight, reverse=True)[0]
    return mean, square - mean**2


def marginalized_path_variance(
    transition: Transition,
    behaviour: Policy,
    discount: Number,
    error: Float[Array, "S A S"],
    weight: Float[Array, "T S A S A"],
) -> tuple[Policy, Policy]:
    """`path_variance` with the weights of each beginning, as `weights_by_time` gives them."""
    states, actions = behaviour.shape

    def of(start, action):
        found = path_variance(transition, behaviour, discount, error, weight[:, start, action])
        return jax.tree.map(lambda x: x[start, action], found)

    over_actions = jax.vmap(of, (None, 0))
    return jax.vmap(over_actions, (0, None))(jnp.arange(states), jnp.arange(actions))


def draw_variance(
    transition: Transition,
    behaviour: Policy,
    discount: Number,
    error: Float[Array, "S A S"],
    trace: Policy,
    marginal: bool = False,
) -> Policy:
    """Variance of C_t error_t / (1 - discount) at one time t of a path, drawn with (1 - discount) discount^t; marginalized, with
    the mean of C_t in its place. Only for traces whose squares have finite visits."""
    squared = (transition * error**2).sum(-1)
    mean = jnp.einsum("satb,tb->sa", visits(transition, behaviour, discount, trace), (transition * error).sum(-1))
    if marginal:
        counted = visits(transition, behaviour, discount) * weights(transition, behaviour, discount, trace) ** 2
    else:
        counted = visits(transition, behaviour, discount, trace**2)
    return jnp.einsum("satb,tb->sa", counted, squared) / (1.0 - discount) - mean**2


def _ratio(over: Array, under: Array) -> Array:
    there = under > 0.0
    return jnp.where(there, over / jnp.where(there, under, 1.0), 0.0)
