"""The npz files of OGBench (Park et al., 2024, arXiv:2410.20092), as its README and its loader describe them.

A recording as it is downloaded has `observations`, `actions` and `terminals` (and `qpos`, `qvel`, `button_states`, which are not
read). Each trajectory has one row more than it has transitions: `terminals` is 1 at its last row, whose action led nowhere, and
what follows a row is the row below it. What its loader gives, saved by np.savez, is read as well: with `next_observations` the last
rows are gone and `terminals` marks the last transition; with `valids` (the compact form) they are marked by 0.

`terminals` says where a recording ends, never that the task was done: that is where `masks` is 0, and only singletask variants
have `masks` and `rewards`. There the value of what follows is 0, so the step terminates its episode; what the recording shows
after it is an episode of its own.
"""

from collections.abc import Collection

import numpy as np

from rljax.errors import UserError

MARKS = ("masks", "valids", "qpos", "qvel", "button_states")
FLAGS = ("terminals", "masks", "valids")
ARRAYS = ("observations", "actions", "rewards", "next_observations")


def is_layout(names: Collection[str]) -> bool:
    """Whether arrays of these names are OGBench's: `terminals` with one of MARKS, or with neither rewards nor timeouts."""
    return "terminals" in names and (any(mark in names for mark in MARKS) or not {"rewards", "timeouts"} & set(names))


def to_arrays(found: dict[str, np.ndarray], path: str) -> dict[str, np.ndarray]:
    """Arrays of an OGBench file as those of our own layout (rljax/data/files.py).

    Raises:
      UserError: there are no rewards, an array is missing or of the wrong length, or a flag is neither 0 nor 1.
    """
    if "rewards" not in found:
        raise UserError(
            f"{path} has no rewards, as OGBench's files for reaching goals: load the task's singletask variant by "
            "ogbench.make_env_and_datasets and save what it gives, rewards and masks, by np.savez(FILE, **train_dataset)."
        )
    for name in ("observations", "actions"):
        if name not in found:
            raise UserError(f"{path} lacks {name}.")
    size = len(found["rewards"])
    for name, array in found.items():
        if not array.ndim or len(array) != size:
            raise UserError(
                f"{path} has {len(array) if array.ndim else 'a single number of'} {name} but {size} rewards."
            )
        if name in FLAGS and not np.isin(array, (0, 1)).all():
            raise UserError(f"{path} has {name} that are neither 0 nor 1.")
    if not size:
        raise UserError(f"{path} is empty.")
    ends = found["terminals"].astype(bool)
    terminated = found["masks"] == 0 if "masks" in found else np.zeros(size, bool)
    if "next_observations" in found:
        kept, last, following = np.ones(size, bool), ends, found["next_observations"]
    else:
        following = np.concatenate([found["observations"][1:], found["observations"][-1:]])
        if "valids" in found:
            kept, last = found["valids"] == 1, ends
        else:
            ends[-1] = True
            kept, last = ~ends, np.append(ends[1:], True)
    return {
        "observations": found["observations"][kept],
        "actions": found["actions"][kept],
        "rewards": found["rewards"][kept],
        "next_observations": following[kept],
        "terminated": terminated[kept],
        "truncated": (last & ~terminated)[kept],
    }
