"""OGBench's npz files in the three forms that its README shows, and what is refused of them."""

import numpy as np
import pytest

from rljax.data import files
from rljax.errors import UserError
from rljax.types import Continuous, EnvSpec

SPEC = EnvSpec((2,), Continuous((1,)))
FOLLOWING = [1, 2, 3, 4, 11, 12, 13, 14]  # of two trajectories 0 1 2 3 4 and 10 11 12 13 14


def raw(**changes):
    """The form of a download, with the rewards and masks of a singletask variant: two trajectories of four transitions.

    The task is done in the second transition of the first and in the last of the second.
    """
    state = np.array([0, 1, 2, 3, 4, 10, 11, 12, 13, 14], np.float32)
    success = np.isin(state, [1, 13])
    made = {
        "observations": np.stack([state, -state], 1),
        "actions": state[:, None] / 100,
        "terminals": np.isin(state, [4, 14]).astype(np.float32),
        "rewards": success - np.float32(1.0),
        "masks": 1.0 - success.astype(np.float32),
        "qpos": np.zeros((10, 3)),
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


def regular(**changes):
    """As its loader gives it by default: without the last rows, with what followed."""
    made = {name: value[raw()["terminals"] == 0] for name, value in raw().items()}
    following = np.float32(FOLLOWING)
    made |= {
        "next_observations": np.stack([following, -following], 1),
        "terminals": np.float32([0, 0, 0, 1] * 2),
    }
    return made | changes


def compact(**changes):
    """As its loader gives it by compact_dataset=True: with the last rows, told by `valids`."""
    return raw(terminals=np.float32([0, 0, 0, 1, 1] * 2), valids=np.float32([1, 1, 1, 1, 0] * 2), **changes)


def load(tmp_path, arrays):
    np.savez(tmp_path / "play.npz", **arrays)
    return files.load(str(tmp_path / "play.npz"), SPEC)


@pytest.mark.parametrize("form", [raw, regular, compact])
def test_all_forms_hold_the_same_transitions(tmp_path, form):
    data = load(tmp_path, form())
    steps = data.transition
    np.testing.assert_array_equal(steps.observation[:, 0], [0, 1, 2, 3, 10, 11, 12, 13])
    np.testing.assert_array_equal(steps.next_observation[:, 0], FOLLOWING)
    np.testing.assert_array_equal(steps.next_observation[:, 1], -np.array(FOLLOWING))
    np.testing.assert_array_equal(steps.action[:, 0], np.float32([0, 1, 2, 3, 10, 11, 12, 13]) / np.float32(100))
    np.testing.assert_array_equal(steps.reward, [-1, 0, -1, -1, -1, -1, -1, 0])


@pytest.mark.parametrize("form", [raw, regular, compact])
def test_masks_terminate_and_the_end_of_a_recording_does_not(tmp_path, form):
    data = load(tmp_path, form())
    assert np.flatnonzero(data.transition.terminated).tolist() == [1, 7]
    assert np.flatnonzero(data.transition.truncated).tolist() == [3]
    assert data.length.tolist() == [2, 2, 4]  # what follows the goal is an episode of its own
    assert data.episode_return.tolist() == [-1, -2, -3]


def test_without_masks_nothing_terminates(tmp_path):
    data = load(tmp_path, raw(masks=None))
    assert not data.transition.terminated.any() and data.length.tolist() == [4, 4]
    np.testing.assert_array_equal(data.transition.next_observation[:, 0], FOLLOWING)


def test_a_recording_that_is_cut_ends_with_its_last_transition(tmp_path):
    data = load(tmp_path, {name: value[:-1] for name, value in raw().items()})
    assert data.length.tolist() == [2, 2, 3] and data.transition.next_observation[-1].tolist() == [13, -13]


def test_terminals_of_other_files_still_terminate(tmp_path):
    """`terminals` beside rewards, without any key of OGBench's, are D4RL's: the MDP ended there."""
    data = load(tmp_path, raw(masks=None, qpos=None))
    assert np.flatnonzero(data.transition.terminated).tolist() == [4, 9]


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"rewards": None}, r"has no rewards, as OGBench's files .* singletask variant .* np.savez"),
        ({"rewards": None, "masks": None, "qpos": None}, "has no rewards, as OGBench's files"),
        ({"actions": None}, "lacks actions"),
        ({"masks": np.ones(9)}, "has 9 masks but 10 rewards"),
        ({"terminals": np.float32(1)}, "has a single number of terminals but 10 rewards"),
        ({"masks": np.full(10, 0.5)}, "has masks that are neither 0 nor 1"),
        ({"terminals": np.full(10, np.nan)}, "has terminals that are neither 0 nor 1"),
        ({"observations": np.full((10, 2), np.nan)}, "NaN or infinite numbers in observations"),
        ({"actions": np.zeros((10, 2))}, r"actions of shape \(2,\), but the environment's are \(1,\)"),
        ({name: value[:0] for name, value in raw().items()}, "is empty"),
        ({"terminals": np.ones(10)}, "is empty"),
    ],
)
def test_bad_files_give_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        load(tmp_path, raw(**changes))


def test_objects_are_never_unpickled(tmp_path):
    with pytest.raises(UserError, match="cannot be read as npz: Object arrays cannot be loaded"):
        load(tmp_path, raw(observations=np.array([{}] * 10, object)))
