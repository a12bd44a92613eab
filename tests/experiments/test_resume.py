"""A run that is killed and resumed is the run that was never stopped, to the bit: its table and its parameters."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from rljax.checkpoint import Checkpoints
from rljax.experiments import runner
from rljax.experiments.folder import Folder
from rljax.experiments.plan import Plan

FLAGS = (
    "--agent=ppo --env=gymnax/CartPole-v1 --num_seeds=3 --steps=3840 --log_every=64 --eval_every=1920 --eval_episodes=3 --quiet "
    "--config.num_envs=4 --config.rollout_length=16 --config.hidden=(8,) --config.normalize_observations=True "
    "--sweep=learning_rate=1e-3,3e-3"
).split()


def command(folder, *flags):
    return [sys.executable, "-m", "rljax.experiments.train", f"--run_dir={folder}", *flags]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, environment):
    folder = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(command(folder, *FLAGS), check=True, env=environment)
    return folder


def final_state(folder):
    """Every array of the last checkpoint, by its path in the tree."""
    import orbax.checkpoint as ocp

    manager = ocp.CheckpointManager(folder / "checkpoints")
    tree = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore())
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def rows(folder):
    path = folder / "metrics.csv"
    return path.read_text().count("\n") if path.exists() else 0


def interrupted(folder, environment, number, after):
    """Begin a run and send it a signal once its table has `after` rows; its exit status."""
    process = subprocess.Popen(command(folder, *FLAGS), env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while rows(folder) < after and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert rows(folder) < 6 * 60, "the run was over before the signal came"
    return process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_killed_and_resumed_equals_never_stopped(tmp_path, uninterrupted, environment, number):
    folder = tmp_path / "run"
    status, errors = interrupted(folder, environment, number, after=60)
    if number == signal.SIGKILL:
        assert status == -signal.SIGKILL
    else:
        assert status == 128 + number and "--resume" in errors
    subprocess.run(command(folder, "--resume", "--quiet"), check=True, env=environment)  # the folder knows the rest

    assert (folder / "metrics.csv").read_bytes() == (uninterrupted / "metrics.csv").read_bytes()
    ours, theirs = final_state(folder), final_state(uninterrupted)
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert summary(folder)["return"] == summary(uninterrupted)["return"]


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_a_finished_run_resumes_to_nothing(uninterrupted, environment, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(uninterrupted, folder)
    (folder / "summary.json").unlink()  # stopped between the last checkpoint and the summary
    subprocess.run(command(folder, "--resume", "--quiet"), check=True, env=environment)
    assert (folder / "metrics.csv").read_bytes() == (uninterrupted / "metrics.csv").read_bytes()
    assert summary(folder)["return"] == summary(uninterrupted)["return"]
    before = (folder / "summary.json").read_bytes()
    subprocess.run(command(folder, "--resume", "--quiet"), check=True, env=environment)
    assert (folder / "summary.json").read_bytes() == before


def test_the_folder_holds_what_it_should(uninterrupted):
    names = {path.name for path in uninterrupted.iterdir()}
    assert names == {"config.json", "metrics.csv", "tb", "checkpoints", "curve.png", "summary.json"}
    config = json.loads((uninterrupted / "config.json").read_text())
    assert config["config"]["num_envs"] == 4 and config["versions"]["jax"] and config["device"]
    assert rows(uninterrupted) == 1 + 6 * 60  # 3,840 steps in chunks of 64, two points by three seeds
    found = summary(uninterrupted)
    assert [entry["point"] for entry in found["sweep"]] == [{"learning_rate": 1e-3}, {"learning_rate": 3e-3}]
    assert all(len(entry["return"]["per_seed"]) == 3 for entry in found["sweep"])
    assert found["return"] in [entry["return"] for entry in found["sweep"]]
    assert set(found["seconds"]) == {"compile", "train", "evaluate"} and found["env_steps_per_second"] > 0
    assert len(list((uninterrupted / "checkpoints").iterdir())) == 2
    assert len(list((uninterrupted / "tb").iterdir())) == 2


PLAN = Plan(
    "ppo",
    "gymnax/CartPole-v1",
    steps=256,
    log_every=64,
    eval_episodes=2,
    config=dict(num_envs=4, rollout_length=16, hidden=(8,)),
)


def test_resume_refuses_other_settings(tmp_path):
    runner.run(PLAN, Folder(tmp_path / "run"), quiet=True)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    changed = dataclasses.replace(PLAN, seed=3, config={**PLAN.config, "gamma": 0.5})
    with pytest.raises(ValueError, match=r"begun with other settings \(seed, config.gamma\)"):
        runner.run(changed, Folder(tmp_path / "run"), resume=True, quiet=True)
    with pytest.raises(ValueError, match="holds this run already; choose another --run_dir"):
        runner.run(PLAN, Folder(tmp_path / "run"), quiet=True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_settings_that_are_newer_than_a_run_count_as_their_defaults(tmp_path):
    folder = Folder(tmp_path / "run")
    summary = runner.run(PLAN, folder, quiet=True)
    written = json.loads(folder.config.read_text())
    assert written["config"].pop("clip_value") is False
    folder.config.write_text(json.dumps(written))
    assert runner.run(PLAN, folder, resume=True, quiet=True) == summary
    changed = dataclasses.replace(PLAN, config={**PLAN.config, "clip_value": True})
    with pytest.raises(ValueError, match=r"other settings \(config.clip_value\)"):
        runner.run(changed, folder, resume=True, quiet=True)


def test_a_run_that_never_came_to_its_first_chunk_begins_afresh(tmp_path):
    folder = Folder(tmp_path / "run")
    runner.run(PLAN, folder, quiet=True)
    table = folder.metrics.read_bytes()
    for path in folder.path.iterdir():
        if path != folder.config:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match=r"holds a run with other settings \(seed\); choose"):
        runner.run(dataclasses.replace(PLAN, seed=1), folder, quiet=True)
    runner.run(PLAN, folder, quiet=True)
    assert folder.metrics.read_bytes() == table


def test_a_damaged_checkpoint_is_named_and_the_older_one_serves(tmp_path):
    folder = Folder(tmp_path / "run")
    runner.run(PLAN, folder, quiet=True)
    folder.summary.unlink()
    table = folder.metrics.read_bytes()
    newest = folder.checkpoints / str(Checkpoints(folder.checkpoints).latest)
    for path in newest.rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{newest} cannot be read .* delete that folder"):
        runner.run(PLAN, folder, resume=True, quiet=True)
    assert folder.metrics.read_bytes() == table
    shutil.rmtree(newest)
    runner.run(PLAN, folder, resume=True, quiet=True)
    assert folder.metrics.read_bytes() == table


def test_a_table_cut_short_in_a_row_is_mended(tmp_path):
    folder = Folder(tmp_path / "run")
    runner.run(PLAN, folder, quiet=True)
    table = folder.metrics.read_bytes()
    folder.summary.unlink()
    shutil.rmtree(folder.checkpoints / "4")
    folder.metrics.write_bytes(table[:-7])
    runner.run(PLAN, folder, resume=True, quiet=True)
    assert folder.metrics.read_bytes() == table


def test_paths_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner.run(PLAN, Folder("here"), quiet=True)
    assert pathlib.Path("here/summary.json").exists()
