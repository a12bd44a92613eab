"""Minari's folders: NAME/data/main_data.hdf5 with a group for each episode, and NAME/data/metadata.json.

Of an episode's arrays `observations` have one row more than `actions`, `rewards`, `terminations` and `truncations`. The layout is
that of Minari 0.5; it is read and written by h5py alone.
"""

import json
import os
import pathlib

import numpy as np

from rljax.data import hdf5
from rljax.errors import UserError
from rljax.types import Discrete, EnvSpec, Transition

DATA, METADATA = "data/main_data.hdf5", "data/metadata.json"
VERSION = "0.5.0"  # of the layout, which later versions of Minari read
ARRAYS = {"actions": "actions", "rewards": "rewards", "terminated": "terminations", "truncated": "truncations"}


def read(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of rljax/data/files.py. An episode that just stops is truncated.

    Raises:
      UserError: there are no episodes, or one lacks an array or has another number of rows than it should.
    """
    path = folder / DATA
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("observations", "next_observations", *ARRAYS)}
    with hdf5.opened(path) as file:
        names = [name for name in file if name.startswith("episode_") and name.removeprefix("episode_").isdecimal()]
        for name in sorted(names, key=lambda name: int(name.removeprefix("episode_"))):
            episode = file[name]
            if any(hasattr(episode.get(what), "keys") for what in ("observations", "actions")):
                raise UserError(f"{path} has observations or actions of several parts; only plain arrays are read.")
            observation = hdf5.array(episode, "observations", path)
            found = {ours: hdf5.array(episode, theirs, path) for ours, theirs in ARRAYS.items()}
            size = len(found["rewards"])
            if len(observation) != size + 1 or any(len(x) != size for x in found.values()):
                raise UserError(
                    f"{path} has {len(observation)} observations in {name} of {size} rewards, not one more."
                )
            if not size:
                continue
            found["truncated"][-1] |= not found["terminated"][-1]
            for ours, x in {"observations": observation[:-1], "next_observations": observation[1:], **found}.items():
                parts[ours].append(x)
    if not parts["rewards"]:
        raise UserError(f"{path} has no episodes.")
    return {name: np.concatenate(pieces) for name, pieces in parts.items()}


def save(folder: pathlib.Path, steps: Transition, spec: EnvSpec | None = None) -> None:
    """Write transitions [N] in time order as a new folder that `minari.load_dataset(dataset_id(folder))` opens.

    Args:
      spec: of the environment; without it there are as many discrete actions as the data need.
    Raises:
      UserError: within an episode a step does not begin where the one before it led.
    """
    done = np.array(steps.terminated) | np.array(steps.truncated)
    done[-1] = True
    broken = ~done[:-1] & (steps.next_observation[:-1] != steps.observation[1:]).reshape(len(done) - 1, -1).any(1)
    if broken.any():
        raise UserError(
            f"{folder} cannot be Minari's: step {broken.argmax() + 1} does not begin where the one before it led."
        )
    ends = np.flatnonzero(done)
    (folder / DATA).parent.mkdir(parents=True)
    with hdf5.opened(folder / DATA, "w") as file:
        for i, (start, end) in enumerate(zip(np.append(0, ends[:-1] + 1), ends + 1)):
            rows = slice(start, end)
            episode = file.create_group(f"episode_{i}")
            episode.attrs["id"], episode.attrs["total_steps"] = i, end - start
            episode.create_group("infos")
            terminated = np.asarray(steps.terminated[rows], bool)
            truncated = done[rows] & ~terminated
            observation = np.concatenate([steps.observation[rows], steps.next_observation[end - 1 : end]])
            for name, x in (
                ("observations", observation.astype(np.float32)),
                ("actions", steps.action[rows]),
                ("rewards", np.asarray(steps.reward[rows], np.float64)),
                ("terminations", terminated),
                ("truncations", truncated),
            ):
                episode.create_dataset(name, data=x, compression="gzip")
    metadata = {
        "dataset_id": dataset_id(folder),
        "total_episodes": len(ends),
        "total_steps": len(done),
        "data_format": "hdf5",
        "observation_space": json.dumps(_box(steps.observation.shape[1:], np.inf)),
        "action_space": json.dumps(_action_space(steps.action, spec)),
        "dataset_size": round((folder / DATA).stat().st_size / 1e6, 1),
        "minari_version": VERSION,
    }
    (folder / METADATA).write_text(json.dumps(metadata, indent=2) + "\n")


def dataset_id(folder: pathlib.Path) -> str:
    """The name by which Minari finds a folder: its place under $MINARI_DATASETS_PATH (~/.minari/datasets where that is not set),
    or, if it lies elsewhere, its own name, to be found when that variable names the folder above."""
    root = pathlib.Path(
        os.environ.get("MINARI_DATASETS_PATH") or pathlib.Path.home() / ".minari" / "datasets"
    ).resolve()
    folder = folder.resolve()
    return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else folder.name


def _box(shape: tuple[int, ...], bound: float) -> dict:
    """Minari's description of a Box [-bound, bound]."""
    high = np.full(shape, bound)
    return {"type": "Box", "dtype": "float32", "shape": list(shape), "low": (-high).tolist(), "high": high.tolist()}


def _action_space(action: np.ndarray, spec: EnvSpec | None) -> dict:
    if np.issubdtype(action.dtype, np.floating):
        return _box(action.shape[1:], 1.0)
    count = spec.action.num_actions if spec and isinstance(spec.action, Discrete) else int(action.max()) + 1
    return {"type": "Discrete", "dtype": "int64", "start": 0, "n": count}
