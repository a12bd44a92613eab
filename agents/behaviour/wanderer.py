"""A wanderer in a PointMaze: it goes by the shortest way to a random cell, then to another one, never knowing of the goal.

Data for offline agents, after OGBench's `navigate` and `stitch` (Park et al., 2024, arXiv:2410.20092, section 5): every part of the
way to the goal is in them, the whole of it in few episodes or none.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from rljax.envs.pointmaze import PointMaze, distance_table, next_cell, normalise
from rljax.record import record
from rljax.types import Agent, Key

NOWHERE = -1


@record
class Config:
    noise: float = 0.3  # standard deviation of what is added to the actions, which lie in [-1, 1]
    pull: float = 10.0  # towards the middle of the next cell, for each unit of distance
    drag: float = 1.0  # against the velocity


class Memory(NamedTuple):
    target: Int[Array, "*B 2"]  # the cell that it goes to, [row, column]


def make(env: PointMaze, config: Config = Config()) -> Agent:
    """The wanderer of one maze; its state is (). Only `act` does anything."""
    table = jnp.asarray(distance_table(env.walls))
    free = normalise(1.0 - env.walls)

    def one(observation, target, key):
        target_key, noise_key = jax.random.split(key)
        position, velocity = observation[:2], observation[2:4]
        cell = env.cell_of(position)
        new = jnp.stack(jnp.unravel_index(jax.random.choice(target_key, free.size, p=free), env.walls.shape))
        arrived = (target == NOWHERE).any() | (target == cell).all()
        target = jnp.where(arrived, new, target)
        waypoint = env.centre_of(next_cell(table, cell, target))
        action = config.pull * (waypoint - position) - config.drag * velocity
        noise = config.noise * jax.random.normal(noise_key, (2,))
        return jnp.clip(jnp.clip(action, -1.0, 1.0) + noise, -1.0, 1.0), target

    def act(state, observation, memory: Memory, key: Key, explore: bool = True):
        action, target = jax.vmap(one)(observation, memory.target, jax.random.split(key, observation.shape[0]))
        return action, Memory(target), {}

    return Agent(lambda key: (), act, lambda state, batch, key: (state, {}), Memory(jnp.full(2, NOWHERE)))
