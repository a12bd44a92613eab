"""Datasets by name: of a file (see rljax/data/files.py), or ENVIRONMENT/TIER, which is made on the device, always the same.

  random     uniformly random actions, in any environment: gymnax/CartPole-v1/random
  navigate   rljax/PointMaze-medium/navigate: a wanderer between random cells, until it happens on the goal or time is up
  stitch     the same in episodes of STITCH steps, about five cells: no episode shows the whole way from afar to the goal

Names take the options of files, and `transitions`: how many are made (100,000).
"""

import math
import zlib
from collections.abc import Callable

import jax

from rljax.agents.behaviour import wanderer
from rljax.data import files
from rljax.data.collect import collect, uniform
from rljax.data.dataset import Dataset
from rljax.envs import make as make_env
from rljax.envs.pointmaze import PointMaze
from rljax.envs.wrappers import TimeLimit
from rljax.errors import UserError
from rljax.types import EnvSpec, Transition

TRANSITIONS = 100_000
NUM_ENVS = 50
STITCH = 100
DATA = 3  # base of the keys; 0 is training's, 1 evaluation's, 2 that of recorded data


def _random(env, key, length):
    return collect(env, uniform(env), (), key, NUM_ENVS, length, True)


def _navigate(env, key, length):
    return collect(env, wanderer.make(env), (), key, NUM_ENVS, length, True)


def _stitch(env, key, length):
    return collect(TimeLimit(env, STITCH), wanderer.make(env), (), key, NUM_ENVS, length, True)


TIERS: dict[str, Callable] = {"random": _random, "navigate": _navigate, "stitch": _stitch}
MAZES_ONLY = ("navigate", "stitch")


def load(name: str, spec: EnvSpec) -> Dataset:
    """The dataset of a name, held to `spec`.

    Raises:
      UserError: there is none of the name, it is not what it should be, or does not fit `spec`.
    """
    path, options = files.parse(name, extra=("transitions",))
    env_name, _, tier = path.rpartition("/")
    if tier in TIERS and "/" in env_name:
        steps = _make(env_name, tier, int(files.number(options, "transitions", TRANSITIONS)))
    else:
        if "transitions" in options:
            raise UserError(
                f"Only datasets that are made take `transitions`; of the file {path} take ?episodes=NUMBER."
            )
        steps = files.read(path, options)
    return files.finish(steps, path, options, spec)


def _make(env_name: str, tier: str, transitions: int) -> Transition:
    env = make_env(env_name)
    if tier in MAZES_ONLY and not isinstance(env, PointMaze):
        raise UserError(f"Only PointMazes have the tier {tier!r}, not {env_name}; there is {env_name}/random.")
    if transitions < NUM_ENVS:
        raise UserError(f"transitions={transitions} must be at least {NUM_ENVS}.")
    length = math.ceil(transitions / NUM_ENVS)
    key = jax.random.fold_in(jax.random.key(DATA), zlib.crc32(f"{env_name}/{tier}".encode()))
    return jax.device_get(jax.jit(lambda key: TIERS[tier](env, key, length))(key))
