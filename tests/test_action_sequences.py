"""Sequences that overlap, against the list of all that were told."""

import jax.numpy as jnp
import numpy as np
import pytest

from rljax import action_sequences as lib

TOLD = np.random.default_rng(0).normal(size=(7, 3, 2))  # at 7 steps sequences of K = 3 actions of D = 2 dimensions


@pytest.mark.parametrize("gain", [0.01, 0.7, -0.5])
def test_the_ensemble_is_the_weighted_mean_of_all_that_say_something(gain):
    """Weights are exp(-gain i), i = 0 for the oldest of them: at the start one, then two, then three."""
    ensemble = lib.begin(3, 2)
    for time in range(7):
        action, ensemble = lib.act(ensemble, jnp.float32(TOLD[time]), gain)
        say = np.array([TOLD[then, time - then] for then in range(max(time - 2, 0), time + 1)])  # the oldest first
        weight = np.exp(-gain * np.arange(len(say)))
        np.testing.assert_allclose(action, weight @ say / weight.sum(), rtol=1e-5)


def test_weights_by_hand():
    """Halved from one to the next: 4 / 7, 2 / 7, 1 / 7."""
    ensemble = lib.begin(3, 1)
    for sequence in ([0.0, 0.0, 7.0], [0.0, 70.0, 0.0], [700.0, 0.0, 0.0]):
        action, ensemble = lib.act(ensemble, jnp.array(sequence)[:, None], jnp.log(2.0))
    np.testing.assert_allclose(action, [4.0 + 20.0 + 100.0], rtol=1e-5)


def test_a_very_negative_gain_heeds_the_newest_alone_and_one_action_is_itself():
    ensemble = lib.begin(3, 2)
    for sequence in jnp.float32(TOLD):
        action, ensemble = lib.act(ensemble, sequence, -1e3)
        np.testing.assert_allclose(action, sequence[0], rtol=1e-6)
    action, _ = lib.act(lib.begin(1, 2), jnp.float32(TOLD[0, :1]), 0.7)
    np.testing.assert_allclose(action, TOLD[0, 0], rtol=1e-6)


def test_the_last_that_belongs_is_held():
    action = jnp.arange(4.0)[:, None]
    found = [lib.held(action, jnp.arange(4) < count)[:, 0].tolist() for count in (1, 3, 4)]
    assert found == [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 2.0, 2.0], [0.0, 1.0, 2.0, 3.0]]
