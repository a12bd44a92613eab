"""Ways to change parameters that many agents share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from rljax.errors import UserError
from rljax.parallel import spread
from rljax.types import Key, Metrics, Model, Params


def descend(optimiser: optax.GradientTransformation, model: Model, loss: Callable) -> tuple[Model, Metrics]:
    """One gradient step on `loss`: (params) -> (loss, metrics)."""
    gradient, metrics = jax.grad(loss, has_aux=True)(model.params)
    step, opt_state = optimiser.update(gradient, model.opt_state, model.params)
    return Model(optax.apply_updates(model.params, step), opt_state), metrics


def when(due: Bool[Array, ""], function: Callable, carry: Any, *arguments: Any) -> Any:
    """`function(carry, *arguments)` where `due`, elsewhere `carry`, at the cost of what is due: a loop of one or no turn, as of a
    branch vmapped runs would pay for both sides. What is dear to compute must come of the carry or the arguments; of anything else
    that `function` reads XLA may take it out of the loop, and compute it always."""

    def turn(going_and_carry):
        (going, carry), values = jax.lax.optimization_barrier((going_and_carry, arguments))
        return jnp.zeros_like(going), function(carry, *values)

    return jax.lax.while_loop(lambda going_and_carry: going_and_carry[0], turn, (due, carry))[1]


def once(due: Bool[Array, ""], function: Callable, *arguments: Any) -> Any:
    """`function(*arguments)` where `due`, elsewhere zeros, at the cost of what is due, as by `when`."""
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *arguments))
    return when(due, lambda _, *values: function(*values), nothing, *arguments)


def minibatch_epochs(
    step: Callable, state: Any, data: Any, key: Key, num_epochs: int, num_minibatches: int, axis: int = 0
) -> tuple[Any, Metrics]:
    """Several passes over `data`, each shuffled anew along `axis` and cut into minibatches.

    Args:
      step: (state, minibatch) -> (state, metrics).
      data: pytree of arrays that share the length of `axis`.
    Returns:
      the state and the metrics, averaged over all minibatches.
    Raises:
      ValueError: the length is not a multiple of `num_minibatches`.
    """
    size = jax.tree.leaves(data)[0].shape[axis]
    if size % num_minibatches:
        raise UserError(f"num_minibatches={num_minibatches} must divide the {size} samples of a rollout.")

    def epoch(state, key):
        def minibatch(state, index):
            return step(state, spread(jax.tree.map(lambda x: jnp.take(x, index, axis), data), axis))

        return jax.lax.scan(minibatch, state, shuffled(key, size).reshape(num_minibatches, -1))

    state, metrics = jax.lax.scan(epoch, state, jax.random.split(key, num_epochs))
    return state, jax.tree.map(jnp.mean, metrics)


def orthogonal_part(tree: Any, direction: Any) -> Any:
    """What is left of `tree` without its component along `direction`, both taken as one long vector; all of it where that is 0."""
    dot = lambda a, b: sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    share = dot(tree, direction) / jnp.maximum(dot(direction, direction), 1e-10)
    return jax.tree.map(lambda x, d: x - share * d, tree, direction)


def off_diagonal(params: Params) -> Float[Array, ""]:
    """Sum of the squares off the diagonal of W^T W, over all matrices of a network: 0 where the columns of each are orthogonal.

    Brock et al., 2019 (arXiv:1809.11096), equation 3. Convolutions count as matrices of their last axis.
    """
    flat = [x.reshape(-1, x.shape[-1]) for x in jax.tree.leaves(params) if x.ndim > 1]
    return sum(jnp.square((w.T @ w) * (1.0 - jnp.eye(w.shape[1]))).sum() for w in flat)


def shuffled(key: Key, size: int) -> Int[Array, " size"]:
    """0 ... size - 1 in random order, for cutting into minibatches.

    Random bits stand in front of each index, and these numbers are sorted: one sort of plain integers, on CPUs in a fifth of
    the time of jax.random.permutation. Indices whose bits agree (with 8,192 there are 19 bits) keep their order.
    """
    width = max(size - 1, 1).bit_length()
    bits = jax.random.bits(key, (size,)) << width
    return (jnp.sort(bits | jnp.arange(size, dtype=jnp.uint32)) & ((1 << width) - 1)).astype(jnp.int32)
