"""Datasets from files, and into them. Nothing is unpickled and no code of the data's own runs.

What is written is decided by the name:

  NAME.npz               our own layout, which is read best: observations [N, ...], actions [N, ...], rewards [N],
                         next_observations [N, ...], terminated [N], truncated [N], in time order; actions lie in [-1, 1] or are
                         indices
  NAME.hdf5, NAME.h5     the same arrays by D4RL's names: `terminals` and `timeouts` say how an episode ended
  NAME-vNUMBER           a folder that Minari opens (rljax/data/minari.py)

All of these are read, other spellings of the arrays' names too (see NAMES), OGBench's npz files (rljax/data/ogbench.py) and
judged pairs of segments (rljax/data/pairs.py). The first two may also hold log_probs [N], of the actions for who took them,
and noise [N], the share of actions that were random while the episode was made.
"""

import pathlib
import re
import urllib.parse
import zipfile
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from rljax.data import dataset as dataset_lib
from rljax.data import feedback as feedback_lib
from rljax.data import hdf5, minari, ogbench, pairs
from rljax.data.dataset import Dataset
from rljax.errors import UserError
from rljax.names import nearest
from rljax.types import Continuous, EnvSpec, Transition

NAMES = {
    "observations": ("observations", "observation", "obs"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "next_observations": ("next_observations", "next_observation", "new_obs", "next_obs"),
    "terminated": ("terminated", "terminations", "terminals", "terminal"),
    "truncated": ("truncated", "truncations", "timeouts"),
    "dones": ("dones", "done"),
    "log_probs": ("log_probs", "log_prob"),
    "noise": ("noise",),
}
EXTRAS = {"log_probs": "log_prob", "noise": "noise"}  # by the names that transitions have for them
REQUIRED = ("observations", "actions", "rewards")
WATCHED = ("observations",)  # of demonstrations that may be only watched: what was done and paid need not be known
WEIGHTS = {
    "top": dataset_lib.top_weights,
    "temperature": dataset_lib.return_weights,
    "advantage_temperature": dataset_lib.advantage_weights,
}
OPTIONS = ("dones", "action_scale", "episodes", "every", *WEIGHTS)
D4RL = {"terminated": "terminals", "truncated": "timeouts"}  # where its names are not ours
HDF5 = (".hdf5", ".h5")


def load(name: str, spec: EnvSpec | None = None) -> Dataset:
    """A dataset by the name of its file: PATH?OPTION=VALUE&...

    Options:
      dones: `terminated` or `truncated`, what the file's `dones` mean, where it has no better names for them.
      action_scale: what the file's actions are divided by to lie in [-1, 1].
      top: keep to the episodes of highest return that hold this share of all steps (0.1: the 10 % of 10 %BC).
      temperature: draw episodes in proportion to exp(scaled return / temperature).
      advantage_temperature: the same by how much more they earned than was to be expected of their start.
      episodes: only the first so many of those that came to their end; where the recording stopped before, it does not count.
      every: only each so-manieth step of each episode, each of them an episode of its own: demonstrations thinned out, for agents
        that read single steps. Where in its episode the first of them lies is drawn, always in the same way.

    Args:
      spec: of the environment that the data must fit, or None.
    Raises:
      UserError: there is no such file, it cannot be what it should, or it does not fit `spec`.
    """
    path, options = parse(name)
    return finish(read(path, options), path, options, spec, judgements(path))


def parse(name: str, extra: Iterable[str] = ()) -> tuple[str, dict[str, str]]:
    """PATH?OPTION=VALUE&... as the path and its options; those of OPTIONS and `extra` are known."""
    path, _, query = name.partition("?")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    for option in options:
        if option not in (*OPTIONS, *extra):
            raise UserError(f"A dataset has no option {option!r}; {nearest(option, (*OPTIONS, *extra))}")
    return path, options


def read(path: str, options: dict[str, str], required: Iterable[str] = REQUIRED) -> Transition:
    """The transitions [N] of a file; their action is None where none were recorded and `required` does not ask for them."""
    scale = number(options, "action_scale", 1.0)
    return to_transitions(_read(pathlib.Path(path)), path, options.get("dones"), scale, required)


def judgements(path: str) -> Any:
    """The `Feedback` that a file holds of the steps that `read` finds in it, or ()."""
    if pathlib.Path(path).suffix != ".npz":
        return ()
    with np.load(path, allow_pickle=False) as file:
        return pairs.judgements(file["label"], file["obs_1"].shape[1] - 1) if pairs.is_layout(file.files) else ()


def finish(steps: Transition, path: str, options: dict[str, str], spec: EnvSpec | None, feedback: Any = ()) -> Dataset:
    """Transitions as the dataset that the options ask for, held to `spec`; `feedback` is of these transitions."""
    if jax.tree.leaves(feedback) and (cut := [name for name in ("episodes", "every") if name in options]):
        raise UserError(f"{path} holds judgements of its segments: ?{cut[0]} cannot take steps out.")
    if spec is not None:
        _check_fits(steps, spec, path)
    data = dataset_lib.from_transitions(steps).replace(feedback=feedback)
    if "episodes" in options:
        whole = _whole(data)
        count = int(number(options, "episodes", 0))
        if not 0 < count <= len(whole):
            raise UserError(f"episodes={options['episodes']} must be from 1 to the {len(whole)} whole ones of {path}.")
        rows = np.isin(np.asarray(data.episode), whole[:count])
        data = dataset_lib.from_transitions(_rows(steps, rows))
    if "every" in options:
        data = dataset_lib.from_transitions(_thinned(data, int(number(options, "every", 0)), path))
    asked = [name for name in WEIGHTS if name in options]
    if len(asked) > 1:
        raise UserError(f"{path} can be weighted in one way at a time, not by {' and '.join(asked)}.")
    for name in asked:
        data = dataset_lib.weighted(data, WEIGHTS[name](data, number(options, name, 1.0)))
    return data


def _whole(data: Dataset) -> np.ndarray:
    """Which episodes were recorded to their end: those that terminated, and those as long as the longest that did not (the time
    limit's length, if any came to it)."""
    end, length = np.asarray(data.start + data.length) - 1, np.asarray(data.length)
    terminated = np.asarray(data.transition.terminated)[end]
    limit = length[~terminated].max(initial=0)
    return np.flatnonzero(terminated | (length == limit))


def _thinned(data: Dataset, every: int, path: str) -> Transition:
    """Each `every`-th step of each episode, from one drawn among its first `every` on, every step truncated or terminated."""
    if every < 1:
        raise UserError(f"every={every} must be at least 1.")
    first = np.random.default_rng(0).integers(0, every, len(data.start))
    time = np.arange(data.size) - np.asarray(data.start)[np.asarray(data.episode)]
    rows = time % every == first[np.asarray(data.episode)]
    if not rows.any():
        raise UserError(f"every={every} leaves none of the {data.size} steps of {path}; lower it.")
    steps, states = jax.tree.map(lambda x: np.asarray(x)[rows], (data.transition, data.env_state))
    extras = steps.extras | ({"env_state": states} if jax.tree.leaves(states) else {})
    return steps.replace(truncated=~steps.terminated, extras=extras)


def describe(data: Dataset) -> dict[str, Any]:
    """Counts of what is in a dataset, and quartiles of its episodes' returns and lengths; of judgements the share of ties too."""
    quartiles = lambda x: [float(q) for q in np.quantile(np.asarray(x), [0.0, 0.25, 0.5, 0.75, 1.0])]
    told = data.feedback
    judged = {"judgements": told.size, "ties": float(feedback_lib.ties(told).mean())} if jax.tree.leaves(told) else {}
    return judged | {
        "transitions": data.size,
        "episodes": len(data.start),
        "terminated": int(data.transition.terminated.sum()),
        "truncated": int(data.transition.truncated.sum()),
        "return": quartiles(data.episode_return),
        "length": quartiles(data.length),
        "mean_return": float(data.episode_return.mean()),
    }


def save(path: str | pathlib.Path, steps: Transition, spec: EnvSpec | None = None) -> None:
    """Write transitions [N] in time order, in the layout that the name asks for (see the top of this file).

    Args:
      spec: of the environment; Minari's layout says how many discrete actions there are.
    Raises:
      UserError: the name asks for no layout, or for one that cannot hold these steps.
    """
    check_name(path)
    path = pathlib.Path(path)
    steps = jax.tree.map(np.asarray, steps)
    if not path.suffix:
        return minari.save(path, steps.replace(extras={}), spec)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        "observations": steps.observation,
        "actions": steps.action,
        "rewards": steps.reward,
        "next_observations": steps.next_observation,
        "terminated": steps.terminated,
        "truncated": steps.truncated,
    }
    arrays |= {name: steps.extras[extra] for name, extra in EXTRAS.items() if extra in steps.extras}
    if path.suffix == ".npz":
        return np.savez_compressed(path, **arrays)
    with hdf5.opened(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(D4RL.get(name, name), data=array, compression="gzip")


def check_name(path: str | pathlib.Path) -> None:
    """Whether `save` can write to `path`: ask before the data are made. Raises UserError."""
    path = pathlib.Path(path)
    if path.suffix not in (".npz", *HDF5) and not re.fullmatch(r"[-\w]+-v\d+", path.name):
        raise UserError(
            f"{path} must be named FILE.npz, FILE.hdf5 (D4RL's layout) or, for a folder that Minari opens, NAME-v0."
        )
    if not path.suffix and path.exists():
        raise UserError(f"{path} is there already; choose another name, such as {path.name.rpartition('-v')[0]}-v1.")


def to_transitions(
    arrays: dict[str, np.ndarray],
    path: str,
    dones: str | None = None,
    action_scale: float = 1.0,
    required: Iterable[str] = REQUIRED,
) -> Transition:
    """Named arrays as transitions [N] that can be trusted: checked, and with the right next observations. What is missing
    without being `required` is None (actions) or 0 (rewards).

    A file that gives no next observations, or gives the row below as that of the last step of an episode too, knows nothing of
    what followed a truncation: that step is dropped and the one before it is the episode's last.
    """
    found: dict[str, np.ndarray] = {}
    for name, spellings in NAMES.items():
        for spelling in spellings:
            if spelling in arrays:
                found.setdefault(name, np.asarray(arrays[spelling]))
    if "observations" in found and "rewards" not in required:
        found.setdefault("rewards", np.zeros(np.shape(found["observations"])[:1]))
    _check_arrays(found, path, required)
    size = len(found["rewards"])
    terminated, truncated = (found.get(name, np.zeros(size)).astype(bool) for name in ("terminated", "truncated"))
    if "dones" in found and "terminated" not in found and "truncated" not in found:
        if dones not in ("terminated", "truncated"):
            raise UserError(
                f"{path} says only `dones`: add ?dones=terminated or ?dones=truncated (the end of a time limit) to its name."
            )
        ended = found["dones"].astype(bool)
        terminated, truncated = (ended, truncated) if dones == "terminated" else (terminated, ended)
    if not (terminated | truncated).any():
        raise UserError(f"{path} has no episode ends: neither terminated nor truncated is ever true.")
    observation = found["observations"].astype(np.float32)
    below = np.concatenate([observation[1:], observation[-1:]])
    given = found.get("next_observations")
    next_observation = below if given is None else given.astype(np.float32)
    last = truncated & ~terminated
    last[-1] |= not terminated[-1] and given is None
    same = (next_observation == below).reshape(size, -1).all(1)
    unknown = (
        last if same[last].sum() >= max(1, 0.5 * last.sum()) else np.zeros(size, bool)
    )  # the way of the file, or chance
    action = found.get("actions")
    extras = {extra: found[name].astype(np.float32) for name, extra in EXTRAS.items() if name in found}
    if action is not None and np.issubdtype(action.dtype, np.floating):
        action = (action / action_scale).astype(np.float32)
        if np.abs(action).max() > 1.0 + 1e-4:
            raise UserError(
                f"{path} has actions up to {np.abs(action).max():.4g}, out of [-1, 1]: add ?action_scale=NUMBER to its name."
            )
        action = np.clip(action, -1.0, 1.0)
        if "log_prob" in extras:  # the density of what is scaled
            extras["log_prob"] += np.float32(action.reshape(size, -1).shape[1] * np.log(action_scale))
    elif action is not None:
        action = action.astype(np.int32)
    truncated = truncated & ~terminated
    truncated[:-1] |= unknown[1:] & ~(terminated | truncated)[:-1]
    steps = Transition(
        observation, action, found["rewards"].astype(np.float32), terminated, truncated, next_observation, extras
    )
    steps = _rows(steps, ~unknown)
    if not len(steps.reward):
        raise UserError(f"{path} has no step of which it is known what followed.")
    return steps


def _check_arrays(found: dict[str, np.ndarray], path: str, required: Iterable[str]) -> None:
    missing = [name for name in required if name not in found]
    if missing:
        raise UserError(f"{path} lacks {' and '.join(missing)}; rljax/data/files.py lists the names that are known.")
    if found["rewards"].ndim != 1:
        raise UserError(f"{path} has rewards of shape {found['rewards'].shape}, not one number a step.")
    size = len(found["rewards"])
    if not size:
        raise UserError(f"{path} is empty.")
    for name, array in found.items():
        if array.dtype.kind not in "biuf":
            what = "objects" if array.dtype == object else array.dtype
            raise UserError(f"{path} holds {name} as {what} rather than numbers; nothing is ever unpickled.")
        if not array.ndim or len(array) != size:
            raise UserError(
                f"{path} has {len(array) if array.ndim else 'a single number of'} {name} but {size} rewards."
            )
        if not np.isfinite(array.astype(np.float64)).all():
            raise UserError(f"{path} has NaN or infinite numbers in {name}.")
        if name in ("terminated", "truncated", "dones", *EXTRAS) and array.ndim != 1:
            raise UserError(f"{path} has {name} of shape {array.shape}, not one a step.")
    shapes = {name: found[name].shape for name in ("observations", "next_observations") if name in found}
    if len(set(shapes.values())) > 1:
        raise UserError(
            f"{path} has observations and next_observations of unequal shapes {' and '.join(map(str, shapes.values()))}."
        )


def _check_fits(steps: Transition, spec: EnvSpec, path: str) -> None:
    kind = "continuous" if isinstance(spec.action, Continuous) else "discrete"
    compared = [("observations of shape", steps.observation.shape[1:], tuple(spec.observation_shape))]
    if steps.action is not None:
        recorded = "continuous" if np.issubdtype(steps.action.dtype, np.floating) else "discrete"
        compared.append(("actions of shape", steps.action.shape[1:], tuple(spec.action.shape)))
        compared.append(("actions that are", recorded, kind))
    for what, there, here in compared:
        if there != here:
            raise UserError(f"{path} has {what} {there}, but the environment's are {here}.")
    if steps.action is None:
        return
    if kind == "discrete" and not 0 <= steps.action.min() <= steps.action.max() < spec.action.num_actions:
        raise UserError(
            f"{path} has actions from {steps.action.min()} to {steps.action.max()} of {spec.action.num_actions}."
        )


def _rows(steps: Transition, rows) -> Transition:
    return jax.tree.map(lambda x: x[rows], steps)


def number(options: dict[str, str], name: str, default: float) -> float:
    try:
        return float(options.get(name, default))
    except ValueError:
        raise UserError(f"{name}={options[name]} must be a number.") from None


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    if (path / minari.DATA).exists():
        return minari.read(path)
    if not path.is_file():
        raise UserError(f"There is no dataset {path}: neither a file nor a Minari folder with {minari.DATA}.")
    known = {spelling for spellings in NAMES.values() for spelling in spellings}
    if path.suffix in HDF5:
        with hdf5.opened(path) as file:
            return {name: hdf5.array(file, name, path) for name in file if name in known}
    try:
        with np.load(path, allow_pickle=False) as file:
            if ogbench.is_layout(file.files):
                found = {name: file[name] for name in file.files if name in ogbench.ARRAYS + ogbench.FLAGS}
                return ogbench.to_arrays(found, str(path))
            if pairs.is_layout(file.files):
                return pairs.to_arrays({name: file[name] for name in file.files if name in pairs.ARRAYS}, str(path))
            return {name: file[name] for name in file.files if name in known}
    except UserError:
        raise
    except (ValueError, TypeError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} cannot be read as npz: {error}") from error
