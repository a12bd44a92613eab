"""From a recorded file through an offline agent to an evaluation, and what is refused on the way."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from rljax import parallel
from rljax.data import files
from rljax.errors import UserError
from rljax.experiments import collect, folder, runner
from rljax.experiments.evaluate import evaluate_run
from rljax.experiments.folder import Folder
from rljax.experiments.plan import Plan, Program

SMALL = {"hidden": (8,), "batch_size": 16, "num_updates": 2}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """BC on random actions in CartPole."""
    path = tmp_path_factory.mktemp("data") / "random.npz"
    files.save(path, collect.record("gymnax/CartPole-v1", [], 1000, num_envs=8))
    return Plan("bc", "gymnax/CartPole-v1", 40, 2, config=SMALL, eval_episodes=4, log_every=10, dataset=str(path))


def test_an_offline_run_counts_updates_and_tells_its_data(plan, tmp_path):
    where = Folder(tmp_path / "run")
    summary = runner.run(plan, where, quiet=True)
    assert summary["steps"] == 40 and summary["env_steps_per_second"] == 0 and summary["updates_per_second"] > 0
    assert summary["dataset"]["transitions"] == 1000
    assert json.loads(where.config.read_text())["dataset"] == plan.dataset
    assert len(summary["return"]["per_seed"]) == 2


def test_demonstrations_are_told_beside_the_dataset(plan, tmp_path):
    """Of observations alone, for an agent that only watches."""
    watched = tmp_path / "watched.npz"
    ended = np.arange(20) == 19
    np.savez(watched, observations=np.zeros((20, 4)), next_observations=np.zeros((20, 4)), terminated=ended)
    given = dict(dataset=f"{plan.dataset} + {plan.dataset}", demonstrations=str(watched))
    where = Folder(tmp_path / "run")
    summary = runner.run(dataclasses.replace(plan, agent="smodice", **given), where, quiet=True)
    assert summary["dataset"]["transitions"] == 2000 and summary["demonstrations"]["transitions"] == 20
    assert where.plan().demonstrations == str(watched)
    with pytest.raises(UserError, match="These data hold no actions"):
        runner.run(dataclasses.replace(plan, agent="recoil", **given), Folder(tmp_path / "other"), quiet=True)


def test_an_agent_acts_without_its_data(plan, tmp_path):
    """Evaluation and `load` need the checkpoint alone."""
    data = pathlib.Path(plan.dataset)
    mine = tmp_path / "copy.npz"
    mine.write_bytes(data.read_bytes())
    where = Folder(tmp_path / "run")
    summary = runner.run(dataclasses.replace(plan, dataset=str(mine)), where, quiet=True)
    mine.unlink()
    again = evaluate_run(where, num_episodes=4)
    assert again["return"]["per_seed"] == summary["return"]["per_seed"]
    recorded = collect.record(None, [str(where.path)], 64, num_envs=4, explore=False)
    assert recorded.reward.shape == (64,)
    assert folder.load(where.path).steps == 40


@pytest.mark.parametrize("layout", ["vmap", "devices", "map", "data"])
def test_layouts_agree(plan, layout):
    """All runs see the same data, whole, however they are laid out."""
    program = Program(plan)
    fleet = parallel.fleet(2, layout)
    keys, points = fleet.keys([0, 1]), fleet.place({})

    def train(data, key, point):
        learner = program.learner(point, data)
        return learner.run(learner.init(key), 3)[0].agent

    states = fleet.to_host(fleet.over(train, num_shared=1)(program.given, keys, points))
    alone = jax.jit(train)(program.given, keys[1], {})
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[1], y, atol=1e-6), states, alone)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"dataset": ""}, "bc learns from data: give them by --dataset=PATH."),
        ({"dataset": "missing.npz"}, "There is no dataset missing.npz"),
        ({"demonstrations": "some.npz"}, "bc takes no --demonstrations; what it imitates is its --dataset"),
        (
            {"agent": "ppo", "config": {}, "dataset": "", "demonstrations": "some.npz"},
            r"ppo takes no --demonstrations\.",
        ),
        (
            {"agent": "recoil"},
            "recoil imitates some of the data: say which by --demonstrations=gymnax/CartPole-v1/expert",
        ),
        ({"agent": "ppo", "config": {}}, "ppo makes its own experience and takes no --dataset."),
        ({"env": "gymnax/Pendulum-v1"}, r"observations of shape \(4,\), but the environment's are \(3,\)"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(plan, tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        runner.run(dataclasses.replace(plan, **changes), Folder(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_recorded_is_said(tmp_path):
    with pytest.raises(UserError, match="Give runs by --run_dir, or an environment"):
        collect.record(None, [], 10)
    with pytest.raises(UserError, match="There is no run"):
        collect.record(None, [str(tmp_path)], 10)
