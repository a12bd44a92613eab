"""Datasets from policies: act in environments side by side and lay the episodes one after another."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rljax import distributions, rollout
from rljax.types import Agent, Env, Key, Transition, initial_memory


def collect(
    env: Env, agent: Agent, agent_state: Any, key: Key, num_envs: int, length: int, explore: bool
) -> Transition:
    """`length` steps of an agent in each of `num_envs` environments, as transitions [num_envs * length] in time order.

    Where an environment's recording stops, its last step is truncated. Pure; jit it with all but state and key fixed.
    """

    def act(observation, memory, key):
        return agent.act(agent_state, observation, memory, key, explore)

    start_key, key = jax.random.split(key)
    state = rollout.start(env, agent, num_envs, start_key)
    _, batch, _ = rollout.unroll(env, act, initial_memory(agent, num_envs), state, key, length, agent.receive)
    steps = batch.steps.replace(extras={})
    steps = steps.replace(truncated=steps.truncated.at[-1].set(~steps.terminated[-1]))
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), steps)


def uniform(env: Env) -> Agent:
    """An agent that learns nothing and takes uniformly random actions; its state is ()."""

    def act(state, observation, memory, key: Key, explore: bool = True) -> tuple[Any, Any, dict]:
        return distributions.uniform_action(env.spec.action, observation.shape[0], key), memory, {}

    update: Callable = lambda state, batch, key: (state, {})
    return Agent(lambda key: (), act, update)
