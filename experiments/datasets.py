"""Datasets by name: of a file (see rljax/data/files.py), or ENVIRONMENT/TIER, which is made on the device, always the same.

  random     uniformly random actions, in any environment: gymnax/CartPole-v1/random
  medium, expert, medium-expert, medium-replay
             brax/hopper/medium and others that have a ladder of policies (ladders.py): of its second rung, two fifths of the way
             from random actions to the best; of its best; of both; of random actions and all rungs up to the second
  optimal    rljax/DoubleIntegrator/optimal: the optimal controller of a linear system, with noise on its actions
  navigate   rljax/PointMaze-medium/navigate: a wanderer between random cells, until it happens on the goal or time is up
  stitch     the same in episodes of STITCH steps, about five cells: no episode shows the whole way from afar to the goal

  signs.jsonl          completions of prompts, for environments of tokens; see rljax/data/jsonl.py

Several names joined by ` + ` are one dataset of all their episodes: 'brax/hopper/random + brax/hopper/expert?episodes=1'.
Names take the options of files, and

  preferences=500      judgements of its segments, with further options: see experiments/judged.py; of files too
  transitions=100000   how many are made
  states=1             the environment's states are kept too, so that episodes can start from them (see agents/imitation)
"""

import functools
import math
import pathlib
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from rljax import parallel
from rljax.agents.behaviour import linear, wanderer
from rljax.completions import Completions
from rljax.data import dataset as dataset_lib
from rljax.data import files, jsonl
from rljax.data.collect import collect, side_by_side, uniform
from rljax.data.dataset import Dataset
from rljax.envs import make as make_env
from rljax.envs.linear import LinearQuadratic
from rljax.envs.pointmaze import PointMaze
from rljax.envs.wrappers import TimeLimit
from rljax.errors import UserError
from rljax.experiments import judged, ladders
from rljax.names import nearest
from rljax.types import Env, EnvSpec, Tokens, Transition

TRANSITIONS = 100_000
NUM_ENVS = 50
STITCH = 100
MEDIUM = 1  # the second rung of five: two fifths of the way from random actions to the best
DATA, JUDGEMENTS = 3, 4  # bases of the keys; 0 is training's, 1 evaluation's, 2 that of recorded data


def _random(env_name, env):
    return [(env, uniform(env), ())]


def _optimal(env_name, env):
    if not isinstance(env, LinearQuadratic):
        raise UserError(f"Only linear systems have the tier 'optimal', not {env_name}; there is {env_name}/random.")
    return [(env, linear.make(env), ())]


def _navigate(env_name, env):
    return [(env, wanderer.make(env), ())]


def _stitch(env_name, env):
    return [(TimeLimit(env, STITCH), wanderer.make(env), ())]


def _rungs(*chosen):
    """Equal shares from rungs of the environment's ladder; None is random actions."""

    def parts(env_name, env):
        ladder = ladders.load(env_name, env.spec)
        of = lambda rung: (uniform(env), ()) if rung is None else (ladder.agent, parallel.select(ladder.states, rung))
        return [(env, *of(rung)) for rung in chosen]

    return parts


TIERS: dict[str, Callable] = {  # (name, environment) -> who acts where: [(environment, agent, its state)]
    "random": _random,
    "medium": _rungs(MEDIUM),
    "medium-replay": _rungs(None, *range(MEDIUM + 1)),
    "expert": _rungs(-1),
    "medium-expert": _rungs(MEDIUM, -1),
    "optimal": _optimal,
    "navigate": _navigate,
    "stitch": _stitch,
}
MADE = {"transitions": TRANSITIONS, "states": 0}  # options of data that are made, with their defaults
MAZES_ONLY = ("navigate", "stitch")


def of_env(name: str, env: Env) -> Dataset | Completions:
    """What an agent in `env` learns from by a name: completions of prompts, where these are its actions, or else steps.

    Raises:
      UserError: as `load`, or `jsonl.load`.
    """
    if not isinstance(env.spec.action, Tokens):
        return load(name, env.spec)
    for part in parts(name):
        if not part.endswith(jsonl.SUFFIX):
            raise UserError(f"Completions of tokens are read from a file NAME.jsonl, without options, not from {part}.")
    return jsonl.load(parts(name), env.spec, getattr(env, "encode", None))


def describe(data: Dataset | Completions) -> dict[str, Any]:
    """Counts and quartiles of what is in a dataset."""
    return jsonl.describe(data) if isinstance(data, Completions) else files.describe(data)


def load(name: str, spec: EnvSpec, required: Iterable[str] = files.REQUIRED) -> Dataset:
    """The dataset of a name, or of several joined by ` + `, held to `spec`.

    Args:
      required: arrays that a file must have.
    Raises:
      UserError: there is none of the name, it is not what it should be, or does not fit `spec`.
    """
    found = [_load(part, spec, required) for part in parts(name)]
    return found[0] if len(found) == 1 else dataset_lib.joined(found)


def parts(name: str) -> list[str]:
    """The names that a name joins."""
    return name.split(" + ")


def _load(name: str, spec: EnvSpec, required: Iterable[str]) -> Dataset:
    path, options = files.parse(name, extra=(*MADE, *judged.OPTIONS))
    env_name, _, tier = path.rpartition("/")
    asked = [option for option in judged.OPTIONS if option in options]
    if asked and "preferences" not in options:
        raise UserError(f"?{asked[0]} is of judgements: say how many by ?preferences=NUMBER.")
    if tier in TIERS and "/" in env_name:
        transitions, states = (int(files.number(options, name, default)) for name, default in MADE.items())
        by_regret = options.get("teacher") == "regret"
        steps, feedback = _make(env_name, tier, transitions, bool(states) or by_regret), ()
        env = make_env(env_name)
    else:
        if made := [option for option in MADE if option in options]:
            raise UserError(
                f"Only datasets that are made take `{made[0]}`, not the file {path}; there is ?episodes=NUMBER."
            )
        if not pathlib.Path(path).exists() and not pathlib.Path(path).suffix and env_name:
            raise UserError(
                f"There is no dataset {path}: no such folder, and no such tier of data; {nearest(tier, TIERS)}"
            )
        if path.endswith(jsonl.SUFFIX):
            raise UserError(f"{path} is a file of completions, which environments of tokens have, as tokens/sort-8.")
        steps, feedback, env = files.read(path, options, required), files.judgements(path), None
        if asked and jax.tree.leaves(feedback):
            raise UserError(f"{path} holds judgements already: leave out ?preferences.")
    dataset = files.finish(steps, path, options, spec, feedback)
    if asked:
        key = jax.random.fold_in(jax.random.key(JUDGEMENTS), zlib.crc32(path.encode()))
        dataset = dataset.replace(feedback=judged.feedback(dataset, options, env_name, env, key))
    return dataset


@functools.lru_cache(maxsize=1)  # the table of agents has many runs on one dataset
def _make(env_name: str, tier: str, transitions: int, with_states: bool) -> Transition:
    env = make_env(env_name)
    if tier in MAZES_ONLY and not isinstance(env, PointMaze):
        raise UserError(f"Only PointMazes have the tier {tier!r}, not {env_name}; there is {env_name}/random.")
    if transitions < NUM_ENVS:
        raise UserError(f"transitions={transitions} must be at least {NUM_ENVS}.")
    parts = TIERS[tier](env_name, env)
    num_envs = min(side_by_side(part, transitions // len(parts), NUM_ENVS // len(parts)) for part, *_ in parts)
    length = math.ceil(transitions / (num_envs * len(parts)))
    key = jax.random.fold_in(jax.random.key(DATA), zlib.crc32(f"{env_name}/{tier}".encode()))
    keys = [key] if len(parts) == 1 else jax.random.split(key, len(parts))
    programs = {}  # one for all rungs of a ladder

    def record(env, agent, state, key):
        run = lambda state, key: collect(env, agent, state, key, num_envs, length, True, with_states)
        return jax.device_get(programs.setdefault((id(env), id(agent)), jax.jit(run))(state, key))

    made = [record(*part, key) for part, key in zip(parts, keys)]
    return jax.tree.map(lambda *x: np.concatenate(x), *made)
