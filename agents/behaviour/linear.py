"""The optimal controller of a linear system with quadratic costs, with noise on what it does: demonstrations that are exact on the
whole."""

import jax
import jax.numpy as jnp

from rljax.envs.linear import LinearQuadratic, riccati
from rljax.record import record
from rljax.types import Agent, Key


@record
class Config:
    noise: float = 0.1  # standard deviation of what is added to the actions where it explores


def make(env: LinearQuadratic, config: Config = Config()) -> Agent:
    """u = -K x with the K of `envs.linear.riccati`; its state is (). Only `act` does anything."""
    gain, _ = riccati(env)

    def act(state, observation, memory, key: Key, explore: bool = True):
        action = -observation @ gain.T
        noise = config.noise * explore * jax.random.normal(key, action.shape)
        return jnp.clip(action + noise, -1.0, 1.0), memory, {}

    return Agent(lambda key: (), act, lambda state, batch, key: (state, {}))
