"""The critic of action sequences, written out in numpy from its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.networks.action_sequences import SequenceCritic

RNG = np.random.default_rng(0)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def layer(params, x):
    return x @ np.float64(params["kernel"]) + (np.float64(params["bias"]) if "bias" in params else 0.0)


def recurrent(params, inputs):
    """Cho et al., 2014 (arXiv:1406.1078), along the axis before the last; the new state is gated after its product, as in cuDNN."""
    state, states = np.zeros((len(inputs), inputs.shape[-1])), []
    for x in np.moveaxis(inputs, -2, 0):
        reset = sigmoid(layer(params["ir"], x) + layer(params["hr"], state))
        update = sigmoid(layer(params["iz"], x) + layer(params["hz"], state))
        new = np.tanh(layer(params["in"], x) + reset * layer(params["hn"], state))
        state = (1.0 - update) * new + update * state
        states.append(state)
    return np.stack(states, axis=-2)


def stream(params, number, length, joined, shape):
    features = np.maximum(layer(params[f"Torso_{number + 1}"]["Dense_0"], joined), 0.0)
    if length > 1:
        features = recurrent(params[f"GRUCell_{number}"], features)
    return layer(params[f"Dense_{number}"], features).reshape(shape)


@pytest.mark.parametrize("length, dueling", [(1, False), (3, False), (3, True)])
def test_written_out(length, dueling):
    """Observation, middle, level and place, a layer, a GRU along the sequence, and a value beside advantages whose mean is 0."""
    critic = SequenceCritic(num_levels=2, num_bins=4, size=2, hidden=(5,), dueling=dueling)
    observation, middle = np.float32(RNG.normal(size=(6, 3))), np.float32(RNG.normal(size=(6, length, 2)))

    @jax.jit
    def run(key):
        params = critic.init(key, observation, middle, 0)
        params = jax.tree.map(lambda x: jax.random.normal(key, x.shape), params)  # no bias is 0
        return params["params"], jax.vmap(lambda level: critic.apply(params, observation, middle, level))(jnp.arange(2))

    params, found = run(jax.random.key(0))
    for level in range(2):
        told = [np.repeat(observation[:, None], length, axis=1), middle, np.tile(np.eye(2)[level], (6, length, 1))]
        told += [np.tile(np.eye(length), (6, 1, 1))] if length > 1 else []
        joined = np.concatenate(told, axis=-1)
        if dueling:
            value, advantage = (stream(params, i, length, joined, (6, length, 2, n, 2)) for i, n in enumerate((1, 4)))
            expected = value + advantage - advantage.mean(-2, keepdims=True)
        else:
            expected = stream(params, 0, length, joined, (6, length, 2, 4, 2))
        np.testing.assert_allclose(found[level], expected, rtol=1e-4, atol=1e-4)
