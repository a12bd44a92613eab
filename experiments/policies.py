"""Policies that others learned, by name:

FILE.h5, FILE.h5?rungs=20,40     of a file, all its rungs or some (see agents/behaviour/gaussian_mlp.py)
ENV/medium, ENV/expert           a rung of the environment's ladder (see experiments/ladders.py)
DIR, DIR?index=2                 an agent of a run, the first or another in the order of metrics.csv
"""

import pathlib
import urllib.parse
from typing import Any

import jax

from rljax import parallel
from rljax.agents.behaviour import gaussian_mlp
from rljax.envs import make as make_env
from rljax.errors import UserError
from rljax.experiments import folder, ladders
from rljax.experiments.datasets import MEDIUM
from rljax.sources import Demonstrator
from rljax.types import Agent, Env, EnvSpec

RUNGS = {"medium": MEDIUM, "expert": -1}


def load(name: str, env: Env) -> dict[str, tuple[Agent, Any]]:
    """Agents for an environment, with their states, by FILE.h5?rungs=NUMBER.

    Raises:
      UserError: there is no such file, option or rung, the file is not what it should be, or its policies do not fit.
    """
    path, options = _parse(name, "rungs")
    rungs = _whole_numbers(options, "rungs", "20,40")
    if getattr(env, "rescaled", False):
        raise UserError(f"Policies of files act in [-1, 1], but the actions of {env.env_id} lie elsewhere.")
    found = gaussian_mlp.read(path, rungs)
    return {f"{path}?rungs={rung}": (gaussian_mlp.make(policy, env.spec), policy) for rung, policy in found.items()}


def demonstrator(name: str, env: Env) -> Demonstrator:
    """Whom to ask what to do in an environment, by any of the names above.

    Raises:
      UserError: there is nobody of the name, or several; or it is for other observations or actions, or needs a memory.
    """
    agent, state, spec = _find(name, env)
    if (spec.observation_shape, spec.action) != (env.spec.observation_shape, env.spec.action):
        raise UserError(f"{name} sees and does other things than there are in this environment.")
    if jax.tree.leaves(agent.memory):
        raise UserError(f"{name} acts by what it remembers of its own episode and cannot be asked in another's.")
    return Demonstrator(state, agent.act, agent.token_log_probs)


def _find(name: str, env: Env) -> tuple[Agent, Any, EnvSpec]:
    env_name, _, tier = name.rpartition("/")
    if tier in RUNGS and env_name in ladders.names():
        spec = make_env(env_name).spec
        ladder = ladders.load(env_name, spec)
        return ladder.agent, parallel.select(ladder.states, RUNGS[tier]), spec
    if pathlib.Path(name.partition("?")[0]).suffix == ".h5":
        found = list(load(name, env).values())
        if len(found) > 1:
            raise UserError(f"{name} holds {len(found)} policies; choose one by ?rungs=NUMBER.")
        return *found[0], env.spec
    path, options = _parse(name, "index")
    if not pathlib.Path(path).exists():
        raise UserError(
            f"There is nobody called {path}: no run, and no rung of a ladder such as {ladders.names()[0]}/expert."
        )
    run = folder.load(path)
    index, *others = _whole_numbers(options, "index", "2") or [0]
    if others or not 0 <= index < len(run.program.runs):
        raise UserError(
            f"index={options['index']} must be from 0 to {len(run.program.runs) - 1}, one of the agents of {path}."
        )
    return run.program.agent(run.program.runs[index][0]), parallel.select(run.states, index), run.program.env.spec


def _parse(name: str, option: str) -> tuple[str, dict[str, str]]:
    path, _, query = name.partition("?")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    if set(options) - {option}:
        raise UserError(f"Such policies have the one option {option}, a number or several, not {query!r}.")
    return path, options


def _whole_numbers(options: dict[str, str], option: str, example: str) -> list[int] | None:
    try:
        return [int(number) for number in options[option].split(",")] if options else None
    except ValueError:
        raise UserError(f"{option}={options[option]} must be whole numbers, as in {option}={example}.") from None
