"""Ladders of skill: small policies that come with the package, from little better than random actions to the best there was.

Datasets are made with them on the device (experiments/datasets.py), and scores are normalised by them. They were chosen by
experiments/make_ladder.py: rungs/NAME.npz holds what acting needs of each rung, rungs/NAME.json the returns that were
measured, where the rungs come from, versions, and the hash of the former.
"""

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.errors import UserError
from rljax.experiments import catalog
from rljax.types import Agent, EnvSpec

FOLDER = pathlib.Path(__file__).with_name("rungs")


class Ladder(NamedTuple):
    """`agent` acts as rung r by the state parallel.select(states, r). returns: mean return of each exploring rung [R], in
    rising order; random: that of uniformly random actions."""

    agent: Agent
    states: Any
    returns: tuple[float, ...]
    random: float


def load(env_name: str, spec: EnvSpec) -> Ladder:
    """The ladder of an environment.

    Raises:
      UserError: there is none, or its file is not the one that was measured.
    """
    manifest, path = _manifest(env_name), path_of(env_name)
    if manifest is None:
        raise UserError(f"There are no policies of graded skill for {env_name}; there are for {', '.join(names())}.")
    if hashlib.sha256(path.read_bytes()).hexdigest() != manifest["sha256"]:
        raise UserError(f"{path} is not the file that its manifest describes; install the package anew.")
    config = {name: tuple(x) if isinstance(x, list) else x for name, x in manifest["config"].items()}
    agent = catalog.agent(manifest["agent"]).make(spec, catalog.configure(manifest["agent"], config))
    rungs = manifest["rungs"]
    with np.load(path) as kept:

        def fill(where, x):
            name = jax.tree_util.keystr(where)
            return jnp.asarray(kept[name] if name in kept else np.zeros((len(rungs), *x.shape)), x.dtype)

        states = jax.tree_util.tree_map_with_path(fill, jax.eval_shape(agent.init, jax.random.key(0)))
    return Ladder(agent, states, tuple(rung["exploring_return"] for rung in rungs), manifest["random_return"])


def names() -> list[str]:
    """Environments that have a ladder."""
    return sorted(json.loads(path.read_text())["env"] for path in FOLDER.glob("*.json"))


def references(env_name: str) -> tuple[float, float] | None:
    """Returns of random actions and of the best rung (not exploring), between which scores are normalised to 0 and 100; None
    where there is no ladder. They are this package's own, not those of any benchmark's datasets."""
    manifest = _manifest(env_name)
    return manifest and (manifest["random_return"], manifest["rungs"][-1]["return"])


def path_of(env_name: str) -> pathlib.Path:
    """Where the policies for an environment lie; the manifest beside them ends in .json."""
    return FOLDER / (env_name.replace("/", "-") + ".npz")


def _manifest(env_name: str) -> dict[str, Any] | None:
    path = path_of(env_name).with_suffix(".json")
    return json.loads(path.read_text()) if path.exists() else None
