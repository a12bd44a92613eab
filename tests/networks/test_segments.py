"""The encoder of segments: what it sees, and that padding is nothing."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.networks.segments import SegmentEncoder
from rljax.types import Discrete, EnvSpec

SPEC = EnvSpec((2,), Discrete(3))
NETWORK = SegmentEncoder(SPEC, 4, longest=6, width=8, num_layers=1, num_heads=2)
OBSERVATION = jax.random.normal(jax.random.key(0), (3, 5, 2))
ACTION = jax.random.randint(jax.random.key(1), (3, 5), 0, 3)
MASK = jnp.arange(5) < jnp.array([[5], [3], [1]])
PARAMS = NETWORK.init(jax.random.key(2), OBSERVATION, ACTION, MASK)
apply = jax.jit(NETWORK.apply)


def test_what_is_masked_changes_nothing_and_neither_does_room():
    codes = apply(PARAMS, OBSERVATION, ACTION, MASK)
    assert codes.shape == (3, 4)
    noise = jnp.where(MASK[..., None], OBSERVATION, 7.0), jnp.where(MASK, ACTION, 0)
    np.testing.assert_array_equal(codes, apply(PARAMS, *noise, MASK))
    alone = apply(PARAMS, OBSERVATION[1:2, :3], ACTION[1:2, :3], MASK[1:2, :3])
    np.testing.assert_allclose(alone, codes[1:2], rtol=1e-4, atol=1e-5)


def test_it_sees_observations_actions_and_their_order():
    codes = apply(PARAMS, OBSERVATION, ACTION, MASK)
    moved = lambda *changed: np.abs(apply(PARAMS, *changed, MASK) - codes)[0].max()
    assert moved(OBSERVATION.at[0, 0].add(1.0), ACTION) > 1e-3
    assert moved(OBSERVATION, (ACTION + 1) % 3) > 1e-3
    assert moved(OBSERVATION[:, ::-1], ACTION[:, ::-1]) > 1e-4
