"""Datasets from policies: act in environments side by side and lay the episodes one after another."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rljax import distributions, rollout
from rljax.types import Agent, Discrete, Env, Key, Transition, initial_memory


def collect(
    env: Env,
    agent: Agent,
    agent_state: Any,
    key: Key,
    num_envs: int,
    length: int,
    explore: bool,
    with_states: bool = False,
) -> Transition:
    """`length` steps of an agent in each of `num_envs` environments, as transitions [num_envs * length] in time order.

    Actions are as the environment takes them, in their box; where an environment's recording stops, its last step is truncated.
    `extras` hold the actions' `log_prob` where the agent knows it (a deterministic policy of continuous actions has none), and the
    environment's states before each step, as `env_state`, if they are asked for. Pure; jit it with all but state and key fixed.
    """

    known = agent.log_prob is not None and (explore or isinstance(env.spec.action, Discrete))

    def act(observation, memory, key):
        action, memory, _ = agent.act(agent_state, observation, memory, key, explore)
        action = distributions.in_box(env.spec.action, action)
        extras = {"log_prob": agent.log_prob(agent_state, observation, action, explore)} if known else {}
        return action, memory, extras

    start_key, key = jax.random.split(key)
    state = rollout.start(env, agent, num_envs, start_key)
    memory = initial_memory(agent, num_envs)
    _, batch, _ = rollout.unroll(env, act, memory, state, key, length, agent.receive, with_states)
    steps = batch.steps.replace(truncated=batch.steps.truncated.at[-1].set(~batch.steps.terminated[-1]))
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), steps)


def side_by_side(env: Env, transitions: int, most: int) -> int:
    """In how many environments to record so many steps, `most` at most, so that most of the episodes come to their end."""
    return max(1, min(most, transitions // (2 * (env.spec.episode_length or 1))))


def uniform(env: Env) -> Agent:
    """An agent that learns nothing and takes uniformly random actions; its state is ()."""

    def act(state, observation, memory, key: Key, explore: bool = True) -> tuple[Any, Any, dict]:
        return distributions.uniform_action(env.spec.action, observation.shape[0], key), memory, {}

    def log_prob(state, observation, action, explore: bool = True):
        return distributions.uniform_log_prob(env.spec.action, observation.shape[0])

    update: Callable = lambda state, batch, key: (state, {})
    return Agent(lambda key: (), act, update, log_prob=log_prob)
