"""pass@k of runs that write, and what they write."""

import json
import subprocess
import sys

import pytest

from rljax.errors import UserError
from rljax.experiments import answers, runner
from rljax.experiments.folder import Folder
from rljax.experiments.plan import Plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of two seeds at two temperatures, taught to copy two digits a little."""
    folder = Folder(tmp_path_factory.mktemp("answers") / "run")
    config = {"width": 16, "num_layers": 1, "num_heads": 2, "num_prompts": 32}
    sweep = {"temperature": [0.5, 4.0]}
    runner.run(Plan("sft", "tokens/copy-2", 6400, 2, config=config, sweep=sweep, eval_episodes=2), folder, quiet=True)
    return folder


def test_more_answers_have_more_right_ones_and_colder_ones_are_better(folder):
    found = answers.measure(folder, [1, 4, 16], num_prompts=64)
    assert json.loads((folder.path / "answers.json").read_text())["sweep"][0]["point"] == {"temperature": 0.5}
    cold, hot = ([entry["pass_at"][k]["mean"] for k in (1, 4, 16)] for entry in found["sweep"])
    assert 0.0 < cold[0] < cold[1] < cold[2] < 1.0 and hot[0] < cold[0] and hot[0] < hot[2]
    assert answers.measure(folder, [1, 4, 16], num_prompts=64) == found
    assert answers.measure(folder, [1, 4, 16], num_prompts=64, seed=1) != found


def test_answers_are_shown_with_what_they_are_paid(folder):
    shown = answers.first_answers(folder, 20)
    assert len(shown) == 20
    for prompt, answer, reward in shown:
        assert prompt.endswith("=") and reward == (answer == prompt.replace("=", "."))


def test_what_cannot_be_is_said(folder, run):
    with pytest.raises(UserError, match="must be at least 1"):
        answers.measure(folder, [0])
    for function in (lambda: answers.measure(run[0], [1]), lambda: answers.first_answers(run[0], 1)):
        with pytest.raises(UserError, match="Who writes tokens needs an environment of them"):
            function()


def test_the_binary_prints(folder, plain):
    command = [sys.executable, "-m", "rljax.experiments.answers", f"--run_dir={folder.path}"]
    shown = subprocess.run([*command, "--show=2"], capture_output=True, text=True, check=True, env=plain).stdout
    assert len(shown.splitlines()) == 2 and "=" in shown
    measured = subprocess.run(
        [*command, "--k=2", "--prompts=8"], capture_output=True, text=True, check=True, env=plain
    ).stdout
    assert "pass@2" in measured and "temperature=4" in measured
