"""Agents in Gymnasium's environments, which are stepped on the host: one agent after another, one step at a time."""

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax import parallel
from rljax.envs.registry import GYMNASIUM
from rljax.errors import UserError
from rljax.evaluate import Episodes
from rljax.experiments import cli
from rljax.experiments.folder import Trained
from rljax.types import Agent, EnvSpec, Key, Transition, initial_memory


def bridge():
    """The module that steps them. Raises UserError where Gymnasium is not installed."""
    try:
        from rljax.envs import gymnasium
    except ImportError as error:
        raise UserError(str(error)) from error
    return gymnasium


def evaluate_run(
    trained: Trained, env_name: str, num_episodes: int, explore: bool, seed: int, quiet: bool = True
) -> np.ndarray:
    """Returns [S, num_episodes] of all agents of a run. The seed of each one's episodes is `seed` + that of its run."""
    program, returns = trained.program, []

    @jax.jit
    def act(state, point, observation, memory, key):
        return program.agent(point).act(state, observation, memory, key, explore)[:2]

    for i, (point, run_seed) in enumerate(program.runs):
        agent = program.agent(point)
        policy = functools.partial(act, jax.tree.map(jnp.asarray, parallel.select(trained.states, i)), point)
        episodes = bridge().evaluate_in_gymnasium(
            policy,
            env_name.removeprefix(GYMNASIUM),
            num_episodes,
            seed + run_seed,
            initial_memory(agent, 1),
            program.env.spec,
            agent.receive,
        )
        if not quiet:
            print(f"agent {i + 1} of {len(program.runs)}: {cli.number(episodes.returns.mean())}", file=sys.stderr)
        returns.append(episodes.returns)
    return np.stack(returns)


def evaluate(
    env_id: str, spec: EnvSpec, agent: Agent, state: Any, key: Key, num_episodes: int, explore: bool
) -> Episodes:
    """As rljax.evaluate.evaluate does it on the device."""
    args = _policy(agent, state, explore), env_id, num_episodes, _seed(key)
    return bridge().evaluate_in_gymnasium(*args, initial_memory(agent, 1), spec, agent.receive)


def collect(env_id: str, spec: EnvSpec, agent: Agent, state: Any, key: Key, length: int, explore: bool) -> Transition:
    """`length` steps in one environment, [length] in time order, as rljax.data.collect does it on the device in many."""
    args = _policy(agent, state, explore), env_id, length, _seed(key)
    return bridge().collect_in_gymnasium(*args, initial_memory(agent, 1), spec, agent.receive)


def _policy(agent: Agent, state: Any, explore: bool):
    act = jax.jit(lambda state, observation, memory, key: agent.act(state, observation, memory, key, explore)[:2])
    return functools.partial(act, jax.tree.map(jnp.asarray, state))


def _seed(key: Key) -> int:
    return int(jax.random.bits(key, dtype=jnp.uint32) >> 1)
