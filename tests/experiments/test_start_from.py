"""Agents that go on: from data in the environment, seed by seed, and what is refused."""

import dataclasses
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from rljax.data import files
from rljax.errors import UserError
from rljax.experiments import collect, folder, runner
from rljax.experiments.folder import Folder, initial_agents
from rljax.experiments.plan import Plan, Program

SMALL = {"hidden": (8,), "batch_size": 16, "num_updates": 2}
ONLINE = SMALL | {"online": True, "num_envs": 4, "warmup": 40, "capacity": 400}


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """IQL on random actions in CartPole: seeds 3, 4 and 5."""
    path = tmp_path_factory.mktemp("data") / "random.npz"
    files.save(path, collect.record("gymnax/CartPole-v1", [], 1000, num_envs=8))
    plan = Plan("iql", "gymnax/CartPole-v1", 40, 3, 3, SMALL, eval_episodes=4, log_every=20, dataset=str(path))
    where = Folder(tmp_path_factory.mktemp("runs") / "offline")
    runner.run(plan, where, quiet=True)
    return where, plan


def going_on(offline, **changes) -> Plan:
    where, plan = offline
    new = {"steps": 80, "config": ONLINE, "num_seeds": 2, "seed": 4, "log_every": 20, "start_from": str(where.path)}
    return dataclasses.replace(plan, **(new | changes))


def test_each_seed_begins_as_its_own(offline):
    before = folder.load(offline[0].path).states
    assert len(np.unique(np.asarray(jax.tree.leaves(before.policy.params)[-1])[:, 0, 0])) == 3  # they differ
    after = initial_agents(offline[0].path, Program(going_on(offline)))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x)[1:], y), before, after)


def test_a_run_goes_on_from_them_and_counts_the_environments_steps(offline, tmp_path):
    """With learning rates of 0 it ends as it began: what it starts from is what was trained, not new networks."""
    still = ONLINE | {"learning_rate": 0.0}
    summary = runner.run(going_on(offline, config=still), Folder(tmp_path / "run"), quiet=True)
    assert summary["steps"] >= 80 and summary["env_steps_per_second"] > 0
    before, after = folder.load(offline[0].path).states, folder.load(tmp_path / "run").states
    for name in ("policy", "critic", "value"):
        old, new = getattr(before, name).params, getattr(after, name).params
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x)[1:], y), old, new)


def test_stopped_and_resumed_it_equals_never_stopped_without_what_it_began_from(offline, tmp_path):
    plan, whole, halved = going_on(offline), Folder(tmp_path / "whole"), Folder(tmp_path / "halved")
    runner.run(plan, whole, quiet=True)
    runner.run(plan, halved, quiet=True)
    halved.summary.unlink()  # as if it had stopped before its last chunk
    shutil.rmtree(max(halved.checkpoints.iterdir(), key=lambda path: int(path.name) if path.name.isdecimal() else -1))
    offline[0].path.rename(offline[0].path.with_name("elsewhere"))
    try:
        runner.run(plan, halved, resume=True, quiet=True)
    finally:
        offline[0].path.with_name("elsewhere").rename(offline[0].path)
    assert halved.metrics.read_bytes() == whole.metrics.read_bytes()
    jax.tree.map(np.testing.assert_array_equal, folder.load(whole.path).states, folder.load(halved.path).states)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"agent": "bc", "config": SMALL}, "is a run of iql on gymnax/CartPole-v1; it cannot go on as bc"),
        ({"seed": 5}, "has the seeds 3 to 5, not 6"),
        ({"config": ONLINE | {"hidden": (16,)}}, "has agents of another shape than iql has with these settings"),
        ({"start_from": "nowhere"}, "There is no run in nowhere"),
        ({"config": ONLINE | {"data_share": 1.0}}, "data_share=1.0 of a batch of 16 leaves nothing"),
    ],
)
def test_what_cannot_go_on_is_said_before_anything_is_written(offline, tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        runner.run(going_on(offline, **changes), Folder(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()


def test_what_knows_the_data_alone_is_not_sent_into_the_environment(offline, tmp_path):
    where = Folder(tmp_path / "bc")
    runner.run(dataclasses.replace(offline[1], agent="bc"), where, quiet=True)
    command = [sys.executable, "-m", "rljax.experiments.train", f"--start_from={where.path}", "--steps=80"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2 and "learns from data alone and cannot go on in the environment" in done.stderr
    with pytest.raises(UserError, match="index=3 must be from 0 to 2"):
        folder.load(where.path).policy(index=3)


def test_agents_that_write_go_on_as_each_other(tmp_path):
    """Supervised first, then by reward, also where rewards are dense; not where the same numbers would mean something else."""
    small = dict(width=16, num_layers=1, num_heads=2, num_prompts=8)
    shown = Folder(tmp_path / "shown")
    runner.run(Plan("sft", "tokens/copy-2", 64, 2, config=small, eval_episodes=2), shown, quiet=True)
    plan = Plan("grpo", "tokens/copy-2?dense=true", 64, 2, config=small, eval_episodes=2, start_from=str(shown.path))
    learned = folder.initial_agents(plan.start_from, Program(plan))
    jax.tree.map(np.testing.assert_array_equal, learned, folder.load(shown.path).states)
    for changes, sentence in (
        (dict(config=small | dict(num_heads=4)), "agents with other num_heads: give --config.num_heads=2"),
        (dict(env="tokens/copy-3"), "it cannot go on as grpo on tokens/copy-3"),
    ):
        changed = dataclasses.replace(plan, **changes)
        with pytest.raises(UserError, match=sentence):
            folder.initial_agents(plan.start_from, Program(changed))
