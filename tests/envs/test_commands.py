"""Layouts and commands: what actions do, what commands name, and that all of them can be done."""

import jax
import numpy as np
import pytest

from rljax.envs import commands
from rljax.errors import UserError


def many(num, **options):
    keys = jax.random.split(jax.random.key(0), num)
    made = jax.jit(jax.vmap(lambda key: commands.commanded(key, **options)))(keys)
    return [jax.tree.map(lambda x, i=i: np.asarray(x[i]), made) for i in range(num)]


@pytest.mark.parametrize("novel", [False, True])
def test_commands_and_looks(novel):
    """Verb, X and Y: of unlike colour and shape, or alike if novel. The goals are where the features say so."""
    verbs = set()
    for task in many(20, novel=novel):
        verb, x, y = task.command[:2].argmax(), task.command[2:8], task.command[8:]
        verbs.add(int(verb))
        assert (x[:3].argmax() == x[3:].argmax()) == novel
        here, held = task.features[:, :6], task.features[:, 6:]
        if verb == 0:
            assert not y.any()
            expected = (here == x).all(1)
        else:
            assert (y[:3].argmax() == y[3:].argmax()) == novel and (x != y).any()
            expected = (held == x).all(1) & (here == y).all(1)
        np.testing.assert_array_equal(task.goal, expected)
        assert task.goal.any() and task.start[:16].sum() == 1.0
    assert verbs == {0, 1}


def test_what_actions_do():
    """By a simulation with rows and columns; what was taken lies nowhere any more, and is seen so."""
    rng = np.random.default_rng(0)
    for task in many(4):
        state = int(task.start.argmax())
        for _ in range(60):
            carried, (row, column) = state // 16, divmod(state % 16, 4)
            action = rng.integers(commands.NUM_ACTIONS)
            later = int(task.transition[state, action].argmax())
            assert task.transition[state, action, later] == 1.0
            there = divmod(later % 16, 4)
            if action < 4:
                down, right = ((-1, 0), (0, 1), (1, 0), (0, -1))[action]
                assert there == (min(max(row + down, 0), 3), min(max(column + right, 0), 3)) and later // 16 == carried
            else:
                assert there == (row, column)
                here = task.features[state, :6]
                if action == 4 and not carried and here.any():
                    np.testing.assert_array_equal(task.features[later, 6:], here)
                    assert not task.features[later, :6].any()
                else:
                    assert later == state
            things, own, held = np.split(task.view[later], [6, 7], axis=-1)
            assert own[there] == 1.0 and own.sum() == 1.0
            np.testing.assert_array_equal(things[there], task.features[later, :6])
            np.testing.assert_array_equal(held, np.broadcast_to(task.features[later, 6:], held.shape))
            assert things.sum() == 2 * (3 - (later >= 16))
            state = later


def test_all_commands_can_be_done():
    for task in many(20):
        reached = task.start > 0.0
        for _ in range(40):
            reached = reached | (task.transition[reached].sum((0, 1)) > 0.0)
        assert (reached & task.goal).any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="5 things must be at least 2, at most 4"):
        commands.commanded(jax.random.key(0), 2, 5)
