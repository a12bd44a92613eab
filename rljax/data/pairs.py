"""Files of judged pairs, as those who ask people keep them: NAME.npz with

  obs_1, obs_2 [P, K, ...]        observations of the first and of the second segment of each pair
  action_1, action_2 [P, K, ...]  what was done
  label [P]                       1: the second is better, 0: the first is, 0.5: a tie; between them: how sure it is

Nothing says what followed the last step of a segment, so that step is left out, and nothing was paid: rewards are 0.
"""

import pathlib

import numpy as np

from rljax.data import feedback as feedback_lib
from rljax.data.feedback import Feedback
from rljax.errors import UserError

ARRAYS = ("obs_1", "obs_2", "action_1", "action_2", "label")


def is_layout(names) -> bool:
    return "obs_1" in names and "label" in names


def to_arrays(found: dict[str, np.ndarray], path: str) -> dict[str, np.ndarray]:
    """The segments as episodes, first and second of each pair in turn, by the names of rljax/data/files.py.

    Raises:
      UserError: arrays are missing or do not fit together.
    """
    missing = [name for name in ARRAYS if name not in found]
    if missing:
        raise UserError(f"{path} is a file of pairs but lacks {' and '.join(missing)}.")
    for name in ARRAYS:
        if found[name].dtype.kind not in "biuf":
            raise UserError(
                f"{path} holds {name} as {found[name].dtype} rather than numbers; nothing is ever unpickled."
            )
        if not np.isfinite(found[name].astype(np.float64)).all():
            raise UserError(f"{path} has NaN or infinite numbers in {name}.")
    obs_1, obs_2, action_1, action_2, label = (found[name] for name in ARRAYS)
    for first, second, one, two in (("obs_1", "obs_2", obs_1, obs_2), ("action_1", "action_2", action_1, action_2)):
        if one.shape != two.shape:
            raise UserError(
                f"{path} has {first} of shape {one.shape} but {second} of {two.shape}: segments must be equally long."
            )
    if obs_1.ndim < 2 or action_1.ndim < 2 or obs_1.shape[:2] != action_1.shape[:2]:
        raise UserError(
            f"{path} has obs_1 of shape {obs_1.shape} but action_1 of {action_1.shape}; both begin with [P, K]."
        )
    if label.shape != obs_1.shape[:1]:
        raise UserError(f"{path} has labels of shape {label.shape} for {len(obs_1)} pairs.")
    if obs_1.shape[1] < 2:
        raise UserError(f"{path} has segments of a single step, of which nobody knows what followed.")

    def in_turn(one, two, steps):
        return np.stack([one[:, steps], two[:, steps]], 1).reshape(-1, *one.shape[2:])

    last = np.zeros((2 * len(label), obs_1.shape[1] - 1), bool)
    last[:, -1] = True
    return {
        "observations": in_turn(obs_1, obs_2, slice(None, -1)),
        "actions": in_turn(action_1, action_2, slice(None, -1)),
        "rewards": np.zeros(last.size),
        "next_observations": in_turn(obs_1, obs_2, slice(1, None)),
        "terminated": np.zeros(last.size, bool),
        "truncated": last.reshape(-1),
    }


def judgements(label: np.ndarray, length: int) -> Feedback:
    """Those of pairs that lie in turn, `length` steps each. Raises UserError for labels outside of 0 to 1."""
    starts = length * np.arange(2 * len(label)).reshape(-1, 2)
    return feedback_lib.pairs(starts, np.full(starts.shape, length), label)


def save(path: str | pathlib.Path, dataset) -> None:
    """Write the pairs of a dataset's judgements, of segments that are equally long, one step longer than these: the last one ends
    with what followed, and repeats its action.

    Raises:
      UserError: there are none, or their segments differ in length.
    """
    told = dataset.feedback
    if not isinstance(told, Feedback):
        raise UserError("The dataset has no judgements to write.")
    label = feedback_lib.labels(told)
    if (np.asarray(told.length) != told.longest).any():
        raise UserError("Only segments of one length can be written to a file of pairs.")
    rows = np.asarray(told.start)[..., None] + np.arange(told.longest)
    observation, following, action = (
        np.asarray(x)
        for x in (dataset.transition.observation, dataset.transition.next_observation, dataset.transition.action)
    )
    observations = np.concatenate([observation[rows], following[rows[..., -1:]]], 2)
    actions = action[np.concatenate([rows, rows[..., -1:]], 2)]
    arrays = {f"{name}_{i + 1}": x[:, i] for name, x in (("obs", observations), ("action", actions)) for i in (0, 1)}
    np.savez_compressed(path, **arrays, label=label)
