"""Shared ways to change parameters: shuffling, minibatch epochs, gradient steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rljax.types import Model
from rljax.updates import descend, minibatch_epochs, once, shuffled, when


def test_shuffled_is_a_permutation_for_any_size():
    for size in (1, 2, 7, 64, 1000, 8192):
        assert sorted(shuffled(jax.random.key(size), size).tolist()) == list(range(size))


def test_every_index_is_equally_likely_everywhere():
    draws = np.asarray(jax.vmap(lambda key: shuffled(key, 8))(jax.random.split(jax.random.key(0), 8000)))
    counts = np.stack([np.bincount(draws[:, position], minlength=8) for position in range(8)])
    # Each of the 64 counts is binomial with mean 1000 and deviation 29.6; 5 deviations are a chance of one in 25,000.
    assert np.abs(counts - 1000).max() < 5 * 29.6
    # Neighbours part: 0 stands before 1 half of the time.
    before = (draws == 0).argmax(1) < (draws == 1).argmax(1)
    assert abs(before.mean() - 0.5) < 5 * 0.5 / np.sqrt(8000)


def test_each_epoch_sees_everything_once_in_an_order_of_its_own():
    def step(seen, minibatch):
        return seen.at[minibatch].add(1.0), {"first": minibatch[0]}

    seen, _ = minibatch_epochs(step, jnp.zeros(12), jnp.arange(12), jax.random.key(0), num_epochs=3, num_minibatches=4)
    np.testing.assert_array_equal(seen, np.full(12, 3.0))

    def record(state, minibatch):
        order, position = state
        return (jax.lax.dynamic_update_slice(order, minibatch, (position,)), position + 3), {}

    order, _ = minibatch_epochs(record, (jnp.zeros(24, int), 0), jnp.arange(12), jax.random.key(0), 2, 4)[0]
    assert order[:12].tolist() != order[12:].tolist() and sorted(order[12:].tolist()) == list(range(12))


def test_descend_takes_one_step_down():
    optimiser = optax.sgd(0.1)
    model = Model(jnp.array([1.0, -2.0]), optimiser.init(jnp.zeros(2)))
    model, metrics = descend(optimiser, model, lambda x: ((x**2).sum(), {"loss": (x**2).sum()}))
    np.testing.assert_allclose(model.params, [0.8, -1.6], rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], 5.0)


def test_what_is_due_is_done_once_and_what_is_not_leaves_no_trace():
    """Side by side too, where a branch that is not taken would divide by zero."""
    step = lambda due, carry: when(due, lambda x: (x[0] / due + 1.0, x[1] * 2), carry)
    carry, due = (jnp.array([1.0, 3.0, 5.0]), jnp.array([1, 2, 3])), jnp.array([True, False, True])
    first, second = jax.jit(jax.vmap(step))(due, carry)
    np.testing.assert_array_equal(first, [2.0, 3.0, 6.0])
    np.testing.assert_array_equal(second, [2, 2, 6])
    nobody = jax.jit(step)(jnp.bool_(False), (jnp.float32(7.0), jnp.int32(4)))
    assert nobody == (7.0, 4)


@pytest.mark.parametrize("side_by_side", [False, True])
def test_what_is_not_due_costs_nothing(side_by_side):
    """Its product stands within the loop of no turn, though it is of arguments that no turn would change."""
    product = lambda x, y: x @ y
    run = lambda due, x, y: once(due, product, x, y)
    due, x = jnp.zeros(4 if side_by_side else (), bool), jnp.full((*(4,) * side_by_side, 8, 8), 2.0)
    program = jax.jit(jax.vmap(run) if side_by_side else run).lower(due, x, x).compile()
    entry = program.as_text().split("ENTRY ")[1]
    assert " while(" in entry and " dot(" not in entry and " dot(" in program.as_text()
    np.testing.assert_array_equal(program(due, x, x), jnp.zeros(x.shape))
    np.testing.assert_array_equal(program(~due, x, x), jnp.full(x.shape, 32.0))
