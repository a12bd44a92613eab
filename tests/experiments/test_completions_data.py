"""From a run that wrote, over a file of what it wrote and was paid, to a run that learned from the file."""

import dataclasses
import json
import shutil
import types

import jax
import numpy as np
import pytest

from rljax import envs
from rljax.data import jsonl
from rljax.errors import UserError
from rljax.experiments import cli, collect, datasets, folder, runner
from rljax.experiments.folder import Folder
from rljax.experiments.plan import Plan, Program

NAME = "tokens/copy-2?dense=true"
SMALL = {"width": 8, "num_layers": 1, "num_heads": 1, "num_prompts": 4}


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory):
    """The folder of a run, and its plan: SFT on a file of right answers; two seeds at two points of a sweep."""
    where = tmp_path_factory.mktemp("runs")
    path = where / "right.jsonl"
    jsonl.save(path, collect.write(NAME, [], 300, 8))
    assert set(json.loads(path.read_text().split("\n")[0])) == {"prompt", "completion"}
    sweep = {"learning_rate": [1e-3, 1e-2]}
    plan = Plan("sft", NAME, 20, 2, 0, SMALL, sweep, eval_episodes=4, log_every=10, layout="map", dataset=str(path))
    summary = runner.run(plan, Folder(where / "sft"), quiet=True)
    assert summary["steps"] == 20 and summary["env_steps_per_second"] == 0 and len(summary["sweep"]) == 2
    assert summary["dataset"]["prompts"] == 300 and summary["dataset"]["completions"] == 1
    return where / "sft", plan


@pytest.fixture(scope="module")
def own(demonstrated):
    """A file of what the run's agents wrote: 60 groups of 3, a quarter by each."""
    path = demonstrated[0].parent / "own.jsonl"
    jsonl.save(path, collect.write(None, [str(demonstrated[0])], 180, 3, seed=1))
    return path


def test_right_answers_are_right(demonstrated):
    env = envs.make(NAME)
    data = datasets.of_env(demonstrated[1].dataset, env)
    np.testing.assert_array_equal(data.tokens[:, 0, :2], data.prompt[:, :2])
    assert (data.tokens[:, 0, 2] == 1).all() and len(np.unique(data.prompt, axis=0)) > 80


def test_what_was_written_was_paid(own):
    env = envs.make(NAME)
    data = datasets.of_env(f"{own} + {own}", env)
    assert data.tokens.shape == (120, 3, 3)
    right = np.concatenate([data.prompt[:, :2], np.ones((120, 1))], axis=1)[:, None]
    np.testing.assert_allclose(data.reward, np.cumprod(data.tokens == right, axis=-1).mean(-1), atol=1e-6)
    assert len(np.unique(data.prompt[:60], axis=0)) > 35  # each agent was asked by keys of its own
    np.testing.assert_array_equal(data.prompt[60:], data.prompt[:60])


def test_stopped_and_resumed_it_equals_never_stopped(demonstrated, tmp_path):
    whole, halved = Folder(demonstrated[0]), Folder(tmp_path / "halved")
    shutil.copytree(whole.path, halved.path)
    halved.summary.unlink()  # as if it had stopped before its last chunk
    shutil.rmtree(max(halved.checkpoints.iterdir(), key=lambda path: int(path.name) if path.name.isdecimal() else -1))
    runner.run(demonstrated[1], halved, resume=True, quiet=True)
    assert halved.metrics.read_bytes() == whole.metrics.read_bytes()
    jax.tree.map(np.testing.assert_array_equal, folder.load(whole.path).states, folder.load(halved.path).states)


def test_who_begins_as_the_data_do(demonstrated, own):
    """By tracing alone; its steps are its own completions."""
    config = {"resets": "curriculum", "num_prompts": 2}
    program = Program(dataclasses.replace(demonstrated[1], agent="max_rl", config=config, dataset=str(own)))
    assert program.given["dataset"].tokens.shape == (60, 3, 3) and program.steps_per_iteration == 16


@pytest.mark.parametrize("agent", ["dpo", "kto", "sft"])
def test_who_learns_from_what_was_written(demonstrated, own, agent):
    """By tracing alone."""
    program = Program(dataclasses.replace(demonstrated[1], agent=agent, dataset=str(own)))
    assert program.given["dataset"].tokens.shape == (60, 3, 3) and program.steps_per_iteration == 1


def test_another_agent_that_begins_as_this_one_needs_no_data(demonstrated, monkeypatch):
    """It reads its own completions, unless a file is named; the same agent reads the same data."""
    given, where = {}, f"--start_from={demonstrated[0]}"
    monkeypatch.setattr(cli, "FLAGS", types.SimpleNamespace(set_default=given.__setitem__))
    cli.defaults(["train", where, "--agent=dpo", f"--env={NAME}"])
    assert "dataset" not in given and given["num_seeds"] == 2
    cli.defaults(["train", where])
    assert given["dataset"] == demonstrated[1].dataset


def test_data_that_do_not_go_with_agent_or_environment_are_refused(demonstrated, own, tmp_path):
    plan = demonstrated[1]

    def refused(sentence, **changes):
        with pytest.raises(UserError, match=sentence):
            Program(dataclasses.replace(plan, **changes)).given  # noqa: B018

    refused("one completion a prompt, and DPO compares several", agent="dpo")
    refused("may begin them as those of a --dataset: say how by --config.resets", agent="grpo", config={})
    refused("right.jsonl is a file of completions, which environments", agent="bc", env="gymnax/CartPole-v1", config={})
    refused(
        "read from a file NAME.jsonl, without options, not from tokens/copy-2/random", dataset="tokens/copy-2/random"
    )
    refused("without options, not from .*top=0.5", dataset=f"{plan.dataset}?top=0.5")
    with pytest.raises(UserError, match="--transitions and --group_size must be at least 1"):
        collect.write(NAME, [], 10, 0)
    with pytest.raises(UserError, match="Who writes tokens needs an environment of them"):
        collect.write("gymnax/CartPole-v1", [], 10, 2)
