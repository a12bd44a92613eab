"""Reports of runs: the numbers of their summaries, and their curves."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from rljax import plots
from rljax.errors import UserError
from rljax.experiments.report import report


def kept(folder, path, **changed):
    """A copy of what is kept of a run, without checkpoints, with changes to its config.json."""
    path.mkdir(parents=True)
    for file in (folder.config, folder.metrics, folder.summary):
        shutil.copy(file, path)
    config = json.loads(folder.config.read_text()) | changed
    (path / "config.json").write_text(json.dumps(config))
    return path


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, by picture: curves and label."""
    calls, draw = {}, plots.learning_curves

    def note(curves, path, title, ylabel):
        calls[path.name] = curves, ylabel
        draw(curves, path, title, ylabel)

    monkeypatch.setattr(plots, "learning_curves", note)
    return calls


def test_the_table_has_the_summarys_numbers(run, tmp_path, drawn):
    folder, summary = run
    text = report([kept(folder, tmp_path / "run")], tmp_path / "out")
    assert (tmp_path / "out" / "report.md").read_text() == text
    table = rows(text)
    assert [row[1] for row in table] == ["ppo learning_rate=0.001", "ppo learning_rate=0.1"]
    for row, entry in zip(table, summary["sweep"]):
        assert row[0] == "gymnax/CartPole-v1" and row[2:4] == ["640", "2"]
        score, interval = row[4].rstrip(")").split(" (")
        shown = [float(score), *map(float, interval.split(" to "))]
        np.testing.assert_allclose(shown, [entry["return"]["iqm"], *entry["return"]["ci95"]], rtol=0.01)
        assert row[5:] == [
            f"{summary['seconds']['compile']:.1f}",
            f"{summary['seconds']['train']:.1f}",
            f"{summary['env_steps_per_second']:,}",
            summary["device"],
        ]
    assert "![gymnax/CartPole-v1](gymnax-CartPole-v1.png)" in text
    assert Image.open(tmp_path / "out" / "gymnax-CartPole-v1.png").width > 300
    curves, label = drawn["gymnax-CartPole-v1.png"]
    assert list(curves) == [row[1] for row in table] and label == "evaluation return"
    steps, scores = curves["ppo learning_rate=0.1"]
    assert steps.tolist() == [320, 640]
    np.testing.assert_allclose(scores[:, -1], summary["sweep"][1]["return"]["per_seed"])


def test_runs_of_one_agent_are_told_apart_by_their_folders(run, tmp_path, drawn):
    a, b = kept(run[0], tmp_path / "a"), kept(run[0], tmp_path / "b")
    other = kept(run[0], tmp_path / "other", env="gymnax/Acrobot-v1")
    names = [row[1] for row in rows(report([a, b, other, a], tmp_path / "out", "episode/return"))]
    points = ["learning_rate=0.001", "learning_rate=0.1"]
    assert names == [f"{name} {point}" for name in ("ppo (a)", "ppo (b)", "ppo") for point in points]
    assert {path: label for path, (_, label) in drawn.items()} == {
        "gymnax-CartPole-v1.png": "training episode return",
        "gymnax-Acrobot-v1.png": "training episode return",
    }
    same = kept(run[0], tmp_path / "elsewhere" / "a")
    assert rows(report([a, same], tmp_path / "out"))[2][1].startswith(f"ppo ({same})")


def test_any_column_is_drawn_and_one_that_no_run_has_is_refused(run, tmp_path, drawn):
    folder = run[0]
    report([folder.path], tmp_path / "out", "policy/entropy")
    curves, label = drawn["gymnax-CartPole-v1.png"]
    steps, entropy = curves["ppo learning_rate=0.001"]
    assert label == "policy/entropy" and len(steps) == 10 and (entropy <= np.log(2.0) + 1e-4).all()
    with pytest.raises(UserError, match="These runs have no column 'policy/entrop'; nearest: policy/entropy"):
        report([folder.path], tmp_path / "none", "policy/entrop")
    assert not (tmp_path / "none").exists()


def test_an_unfinished_run_says_so(run, tmp_path, drawn):
    path = kept(run[0], tmp_path / "run")
    (path / "summary.json").unlink()
    lines = (path / "metrics.csv").read_bytes().splitlines(keepends=True)
    (path / "metrics.csv").write_bytes(b"".join(lines[:9]) + lines[9][:-5])  # two chunks of four runs, and a torn row
    assert rows(report([path], tmp_path / "out"))[0][1:5] == ["ppo", "128 of 640", "2", "unfinished"]
    assert [steps.tolist() for steps, _ in drawn["gymnax-CartPole-v1.png"][0].values()] == [[64, 128]] * 2
    text = report([path], tmp_path / "out", "evaluation/return")
    assert "no evaluation return of `ppo`" in text and "![" not in text
    (path / "metrics.csv").unlink()
    assert rows(report([path], tmp_path / "out"))[0][2] == "0 of 640"


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="There is no run in .*empty: it has no config.json"):
        report([tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json does not describe a run"):
        report([tmp_path], tmp_path / "out")
