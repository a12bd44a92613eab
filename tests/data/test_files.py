"""Files of data: what is read from them, and what is refused in one sentence."""

import pathlib

import h5py
import numpy as np
import pytest

from rljax.data import files
from rljax.envs import make
from rljax.errors import UserError
from rljax.types import Continuous, Discrete, EnvSpec

REAL = pathlib.Path(__file__).parents[3] / "shared" / "data"
SPEC = EnvSpec((2,), Continuous((1,)))


def arrays(**changes):
    """Two episodes of three steps: one terminated, one truncated."""
    row = np.arange(6.0)
    made = {
        "observations": np.stack([row, -row], 1),
        "actions": row[:, None] / 10.0,
        "rewards": row,
        "next_observations": np.stack([row, -row], 1) + 1.0,
        "terminated": row == 2,
        "truncated": row == 5,
    }
    made |= {"next_observations": made["next_observations"] + (row == 5)[:, None]}
    return {name: value for name, value in (made | changes).items() if value is not None}


def written(tmp_path, **changes):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays(**changes))
    return str(path)


def test_what_is_saved_is_read_again(tmp_path):
    data = files.load(written(tmp_path), SPEC)
    files.save(tmp_path / "again.npz", data.transition)
    again = files.load(str(tmp_path / "again.npz"), SPEC)
    for name in ("observation", "action", "reward", "terminated", "truncated", "next_observation"):
        np.testing.assert_array_equal(getattr(again.transition, name), getattr(data.transition, name))
    assert files.describe(data) == {
        "transitions": 6, "episodes": 2, "terminated": 1, "truncated": 1, "mean_return": 7.5,
        "return": [3.0, 5.25, 7.5, 9.75, 12.0], "length": [3.0, 3.0, 3.0, 3.0, 3.0],
    }  # fmt: skip


def test_d4rl_layout(tmp_path):
    names = {"terminated": "terminals", "truncated": "timeouts"}
    with h5py.File(tmp_path / "data.hdf5", "w") as file:
        for name, value in arrays().items():
            file[names.get(name, name)] = value
        file["infos/qpos"] = np.zeros((6, 3))
    data = files.load(str(tmp_path / "data.hdf5"), SPEC)
    assert data.start.tolist() == [0, 3] and data.transition.terminated.sum() == 1


@pytest.mark.parametrize("given", [None, "below"])
def test_what_followed_a_truncation_is_not_the_next_episode(tmp_path, given):
    """Where next observations are missing, or are the rows below, a truncated step is dropped and the one before ends."""
    observation, row = arrays()["observations"], np.arange(6)
    below = np.concatenate([observation[1:], observation[-1:]]) if given else None
    path = written(tmp_path, next_observations=below, terminated=row == 5, truncated=row == 2)
    data = files.load(path, SPEC)
    assert data.transition.reward.tolist() == [0, 1, 3, 4, 5]
    assert data.transition.truncated.tolist() == [False, True, False, False, False]
    assert data.transition.terminated.tolist() == [False, False, False, False, True]
    assert data.transition.next_observation[1].tolist() == observation[2].tolist()


def test_dones_must_be_given_a_meaning(tmp_path):
    path = written(tmp_path, terminated=None, truncated=None, dones=np.arange(6) % 3 == 2)
    with pytest.raises(UserError, match=r"says only `dones`: add \?dones=terminated or \?dones=truncated"):
        files.load(path, SPEC)
    assert files.load(path + "?dones=terminated", SPEC).transition.terminated.sum() == 2
    assert files.load(path + "?dones=truncated", SPEC).transition.truncated.sum() == 2


def test_options(tmp_path):
    path = written(tmp_path, actions=arrays()["actions"] * 4.0)
    assert float(files.load(path + "?action_scale=4", SPEC).transition.action.max()) == pytest.approx(0.5)
    path = written(tmp_path)
    assert files.load(path + "?top=0.5", SPEC).cumulative.tolist() == [0.0, 1.0]
    assert files.load(path + "?episodes=1", SPEC).size == 3
    low, high = files.load(path + "?temperature=1", SPEC).cumulative.tolist()
    assert low == pytest.approx(1 / (1 + np.e)) and high == 1.0


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"rewards": None}, "lacks rewards"),
        ({"actions": np.zeros((5, 1))}, "has 5 actions but 6 rewards"),
        ({"rewards": np.full(6, np.nan)}, "NaN or infinite numbers in rewards"),
        ({"actions": np.full((6, 1), 2.0)}, r"actions up to 2, out of \[-1, 1\]: add \?action_scale"),
        ({"terminated": None, "truncated": None}, "has no episode ends"),
        ({"observations": np.zeros((6, 3)), "next_observations": None}, r"observations of shape \(3,\)"),
        ({"actions": np.zeros(6, int)}, r"actions of shape \(\)"),
        ({"rewards": np.zeros((6, 2))}, r"rewards of shape \(6, 2\)"),
    ],
)
def test_bad_files_give_one_sentence(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        files.load(written(tmp_path, **changes), SPEC)


def test_pickles_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    np.savez(tmp_path / "bomb.npz", observations=np.array([Bomb()] * 6, object))
    with pytest.raises(UserError, match="cannot be read as npz"):
        files.load(str(tmp_path / "bomb.npz"), SPEC)


@pytest.mark.parametrize("name", ["missing.npz", "cut.npz", "cut.hdf5"])
def test_files_that_are_missing_or_cut_short(tmp_path, name):
    if name.startswith("cut"):
        whole = pathlib.Path(written(tmp_path)).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="There is no dataset|cannot be read"):
        files.load(str(tmp_path / name), SPEC)


def test_discrete_actions_must_exist(tmp_path):
    path = written(tmp_path, actions=np.arange(6))
    assert files.load(path, EnvSpec((2,), Discrete(6))).transition.action.dtype == np.int32
    with pytest.raises(UserError, match="actions from 0 to 5 of 4"):
        files.load(path, EnvSpec((2,), Discrete(4)))


def test_an_unknown_option_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match="no option 'tops'.*top"):
        files.load(written(tmp_path) + "?tops=1", SPEC)


def test_minari(tmp_path, monkeypatch):
    """A dataset made by Minari itself."""
    minari = pytest.importorskip("minari")
    gymnasium = pytest.importorskip("gymnasium")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    row = np.arange(4, dtype=np.float32)
    episodes = [
        minari.data_collector.EpisodeBuffer(
            id=i,
            seed=0,
            options=None,
            observations=np.stack([row, row], 1) + 10 * i,
            actions=np.full((3, 1), 0.05 * i, np.float32),
            rewards=[1.0, 2.0, 3.0],
            terminations=[False, False, i == 0],
            truncations=[False, False, i == 1],
            infos={},
        )
        for i in range(12)
    ]
    minari.create_dataset_from_buffers(
        "local/toy-v0",
        episodes,
        observation_space=gymnasium.spaces.Box(-100, 100, (2,), np.float32),
        action_space=gymnasium.spaces.Box(-1, 1, (1,), np.float32),
        data_format="hdf5",
    )
    data = files.load(str(tmp_path / "local" / "toy-v0"), SPEC)
    assert data.length.tolist() == [3] * 12 and data.transition.terminated.sum() == 1
    np.testing.assert_allclose(data.transition.action[::3, 0], 0.05 * np.arange(12), rtol=1e-6)  # 10 does not follow 1
    np.testing.assert_allclose(data.transition.next_observation[5], [13.0, 13.0])


@pytest.mark.skipif(not REAL.exists(), reason="the real data are not here")
def test_real_pendulum_data():
    """Its `dones` are time limits, and the observation after them is the next episode's: those steps are dropped."""
    spec = make("gymnax/Pendulum-v1").spec
    name = str(REAL / "pendulum_replay.npz")
    with pytest.raises(UserError, match="says only `dones`"):
        files.load(name, spec)
    data = files.load(name + "?dones=truncated&action_scale=2", spec)
    steps = data.transition
    assert data.size == 99_000 and not steps.terminated.any()
    angle = np.arctan2(steps.observation[:, 1], steps.observation[:, 0])
    speed = steps.observation[:, 2] + 0.05 * (15.0 * np.sin(angle) + 3.0 * 2.0 * steps.action[:, 0])
    np.testing.assert_allclose(steps.next_observation[:, 2], np.clip(speed, -8.0, 8.0), atol=0.05)
