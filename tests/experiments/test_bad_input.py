"""Whatever is wrong with what was asked for is said in one sentence before anything is compiled or written."""

import dataclasses
import errno
import math
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.online import ppo
from rljax.errors import UserError
from rljax.experiments import cli, runner
from rljax.experiments.folder import Folder
from rljax.experiments.plan import Plan, Program

GOOD = Plan("ppo", "gymnax/CartPole-v1", steps=4096, config={"num_envs": 4, "rollout_length": 16, "hidden": (8,)})


def with_(**changes):
    config = {**GOOD.config, **changes.pop("config", {})}
    return dataclasses.replace(GOOD, config=config, **changes)


@pytest.mark.parametrize(
    "plan, message",
    [
        (with_(agent="pop"), "Unknown agent 'pop'; nearest: ppo"),
        (with_(env="gymnax/CartPole"), "Unknown environment 'gymnax/CartPole'; nearest: gymnax/CartPole-v1"),
        (with_(steps=0), "--steps=0 must be at least 1."),
        (with_(num_seeds=0), "--num_seeds=0 must be at least 1."),
        (with_(eval_every=-1), "--eval_every=-1 must not be negative."),
        (
            with_(steps=63),
            "--steps=63 is less than one iteration of ppo, which takes 64 steps; raise --steps or lower num_envs.",
        ),
        (Plan("sac", "gymnax/Pendulum-v1", 5000), "after 10000 of warm-up; raise --steps or lower warmup or num_envs."),
        (Plan("bc", "gymnax/CartPole-v1", 4, dataset="some.npz"), "takes 8 steps; raise --steps or lower num_updates."),
        (with_(config={"learning_rat": 1.0}), "ppo has no config field 'learning_rat'; nearest: learning_rate"),
        (with_(config={"learning_rate": -1.0}), "ppo's learning_rate=-1.0 must be finite and not negative."),
        (Plan("sac", "gymnax/Pendulum-v1", 99999, config={"entropy_per_dimension": -math.inf}), "must be finite."),
        (with_(config={"gamma": math.nan}), "ppo's gamma=nan must be finite and not negative."),
        (with_(config={"gamma": "high"}), "ppo's gamma='high' must be a number."),
        (with_(config={"num_envs": 2.5}), "ppo's num_envs=2.5 must be a whole number."),
        (with_(config={"num_envs": 0}), "ppo's num_envs=0 must be at least 1."),
        (with_(config={"hidden": (8, -1)}), r"ppo's hidden=\(8, -1\) must be a tuple of positive whole numbers"),
        (with_(config={"activation": "rulu"}), "Unknown activation 'rulu'; nearest: relu"),
        (with_(config={"num_minibatches": 7}), "num_minibatches=7 must divide the 64 samples"),
        (with_(sweep={"gama": [0.9]}), "ppo has no config field 'gama' to sweep; nearest: gamma"),
        (with_(sweep={"num_envs": [4.0, 8.0]}), "num_envs shapes the program and cannot be swept"),
        (with_(sweep={"gamma": [0.9, -0.1]}), "ppo's gamma=-0.1 must be finite and not negative."),
        (Plan("grpo", "tokens/copy-4", 9999, sweep={"temperature": [1.0, 0.0]}), "temperature must be above 0"),
        (Plan("sft", "tokens/copy-4", 9999, reward_from="runs/reward"), "unless options or --reward_from hide it"),
        (
            Plan("grpo", "tokens/copy-4", 9999, config={"resets": "uniform"}, reward_from="runs/reward"),
            "Resets need asked .* or --reward_from hide it",
        ),
        (
            Plan("dpo", "tokens/copy-4", 9999, dataset="some.jsonl", reward_from="runs/reward"),
            "says itself what they were paid",
        ),
        (Plan("kto", "tokens/copy-4", 9), "takes 256 steps; raise --steps or lower num_prompts."),
        (with_(config={"ACTIVATION": "relu"}), "nearest: activation"),
        (with_(layout="pmap"), "Unknown layout 'pmap'"),
        (Plan("dqn", "gymnax/Pendulum-v1", steps=10_000), "(?i)dqn .*discrete"),
        (Plan("td3", "gymnax/CartPole-v1", steps=10_000), "(?i)td3 .*continuous"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_cannot_be_is_said(plan, message):
    with pytest.raises(ValueError, match=message) as caught:
        Program(plan)
    assert "\n" not in str(caught.value)


def test_nothing_is_written_for_a_plan_that_cannot_be(tmp_path):
    with pytest.raises(ValueError):
        runner.run(with_(steps=3), Folder(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files; choose another --run_dir"):
        runner.run(GOOD, Folder(tmp_path), quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def train(*flags):
    command = [sys.executable, "-m", "rljax.experiments.train", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--agent=pop"], "error: Unknown agent 'pop'; nearest: ppo, p3o, opo, epo."),
        (["--config.learning_rat=1"], "error: There is no config field 'learning_rat'; nearest: learning_rate"),
        (["--sweep=learning_rate"], "error: --sweep=learning_rate must look like --sweep=learning_rate=1e-4,3e-4."),
    ],
)
def test_the_binary_says_one_sentence_and_exits_with_2(flags, message, tmp_path):
    result = train(f"--run_dir={tmp_path / 'run'}", *flags)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith(message)
    assert "Traceback" not in result.stderr and not (tmp_path / "run").exists()


def test_an_unknown_flag_names_the_nearest():
    result = train("--num_seed=3")
    assert result.returncode != 0 and "num_seeds" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("flag", ["--config.learning_rate=fast", "--steps=many"])
def test_a_flag_of_the_wrong_type(flag):
    result = train(flag)
    assert result.returncode != 0 and "Traceback" not in result.stderr and flag.split("=")[1] in result.stderr


def test_a_full_disk_is_one_sentence(capsys):
    def main(argv):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x/metrics.csv")

    with pytest.raises(SystemExit) as caught:
        cli.guarded(main)([])
    assert caught.value.code == 2
    assert (
        "cannot write runs/x/metrics.csv: No space left on device; the last checkpoint stands."
        in capsys.readouterr().err
    )


def test_nan_in_one_seed_is_named_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    make = ppo.make

    def poisoned(spec, config):
        """PPO whose parameters become NaN where the learning rate is 0.5."""
        agent = make(spec, config)

        def update(state, batch, key):
            state, metrics = agent.update(state, batch, key)
            bad = config.learning_rate == 0.5
            return state, {name: jnp.where(bad, jnp.nan, x) for name, x in metrics.items()}

        return agent._replace(update=update)

    monkeypatch.setattr(ppo, "make", poisoned)
    plan = with_(steps=640, sweep={"learning_rate": [1e-3, 0.5]}, num_seeds=2, seed=4, eval_episodes=2)
    summary = runner.run(plan, Folder(tmp_path / "run"), quiet=True)
    assert "seed 4 (learning_rate=0.5): loss/policy is not finite at step" in capsys.readouterr().err
    assert {(entry["seed"], entry["point"]["learning_rate"]) for entry in summary["failures"]} == {(4, 0.5), (5, 0.5)}
    assert np.isfinite(summary["sweep"][0]["return"]["per_seed"]).all()
    plan = with_(steps=640, config={"learning_rate": 0.5}, num_seeds=1, seed=4, eval_episodes=2)
    runner.check_finite(summary, Folder(tmp_path / "run"))
    with pytest.raises(
        UserError, match="Every run had numbers that are not finite, first loss/policy of seed 4 at step"
    ):
        folder = Folder(tmp_path / "all")
        runner.check_finite(runner.run(plan, folder, quiet=True), folder)
