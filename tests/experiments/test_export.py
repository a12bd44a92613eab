"""Runs that begin from a model's folder, and the folders that runs are written to."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from rljax import envs
from rljax.agents.alignment import completion_reward, grpo, phf, rlhf_ppo, sft, writer
from rljax.errors import UserError
from rljax.experiments import folder, runner
from rljax.experiments.export import export
from rljax.experiments.folder import Folder
from rljax.experiments.plan import Plan
from rljax.networks import pretrained

MODELS = pathlib.Path(__file__).parents[1] / "networks" / "pretrained"
STILL = dict(num_prompts=4, learning_rate=0.0)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Two seeds that begin from a model's folder and learn nothing."""
    where = Folder(tmp_path_factory.mktemp("runs") / "begun")
    config = STILL | dict(model=str(MODELS / "llama"))
    runner.run(Plan("sft", "tokens/copy-2", 8, 2, 3, config, eval_episodes=2), where, quiet=True)
    return where


def test_all_seeds_begin_as_the_model_and_so_does_the_reference(begun):
    states = folder.load(begun.path).states
    _, params = pretrained.load(MODELS / "llama")
    twice = jax.tree.map(lambda x: np.stack([x, x]), params)
    jax.tree.map(np.testing.assert_array_equal, states.model.params, twice)
    jax.tree.map(np.testing.assert_array_equal, states.reference, twice)


def test_critics_and_rewards_begin_as_the_model_but_for_their_heads():
    env, config = envs.make("tokens/copy-2"), dict(model=str(MODELS / "llama"))
    _, params = pretrained.load(MODELS / "llama")
    trunk = {name: x for name, x in params["params"].items() if name != "head"}
    critic = jax.jit(rlhf_ppo.make(env.spec, rlhf_ppo.Config(**config)).init)(jax.random.key(0)).critic
    reward = completion_reward.make(env.spec, completion_reward.Config(num_models=2, **config))
    reward = jax.jit(reward.init)(jax.random.key(0)).reward
    for found, first in ((critic, lambda x: x), (reward, lambda x: x[0])):
        found = dict(jax.tree.map(first, found.params["params"]))
        assert found.pop("head")["kernel"].shape == (16, 1)
        jax.tree.map(np.testing.assert_array_equal, found, trunk)
    heads = reward.params["params"]["head"]["kernel"]
    assert np.abs(heads[0] - heads[1]).min() > 0.0


def test_what_began_from_a_folder_keeps_its_tokens_numbers(begun, tmp_path):
    said = export(begun, tmp_path / "out", index=1)
    assert said == f"{tmp_path / 'out'}: 5,712 parameters of sft after 8 steps, seed 4"
    before, after = ((where / "config.json").read_text() for where in (MODELS / "llama", tmp_path / "out"))
    assert json.loads(before) == json.loads(after)
    before, after = (load_file(where / "model.safetensors") for where in (MODELS / "llama", tmp_path / "out"))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_there_and_back(tmp_path, plain):
    """What a run has learned, written by the binary, is what another begins with."""
    small, first = dict(width=16, num_layers=1, num_heads=2), Folder(tmp_path / "first")
    runner.run(Plan("sft", "tokens/copy-2", 128, 2, config=small, eval_episodes=2), first, quiet=True)
    binary = [sys.executable, "-m", "rljax.experiments.export", f"--run_dir={first.path}", "--index=1"]
    command = [*binary, f"--output={tmp_path / 'model'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=plain)
    assert done.returncode == 0 and "of sft after 128 steps, seed 1" in done.stdout, done.stderr
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "llama"
    agent = grpo.make(envs.make("tokens/copy-2").spec, grpo.Config(model=str(tmp_path / "model")))
    state = jax.jit(agent.init)(jax.random.key(0))
    learned = jax.tree.map(lambda x: x[1], folder.load(first.path).states)
    jax.tree.map(np.testing.assert_array_equal, state.model.params, learned.model.params)
    jax.tree.map(np.testing.assert_array_equal, state.reference, learned.model.params)
    done = subprocess.run(binary, capture_output=True, text=True, check=False, env=plain)
    assert done.returncode == 2 and "--output=FOLDER must name" in done.stderr


def test_tokens_that_the_environment_does_not_know_are_never_written():
    """The model has 41 of them, the environment 13."""
    spec = envs.make("tokens/copy-2").spec
    agent = sft.make(spec, sft.Config(model=str(MODELS / "gpt2"), temperature=100.0))
    state = jax.jit(agent.init)(jax.random.key(0))
    prompt = np.full((200, 3), 5, np.int32)
    tokens, *_ = jax.jit(agent.act)(state, prompt, (), jax.random.key(1))
    assert set(np.unique(tokens)) == set(range(13))
    scored = jax.jit(agent.log_prob)(state, prompt, tokens)
    assert np.isfinite(scored).all() and np.asarray(scored).mean() > -3 * np.log(13)


def test_what_does_not_fit_is_said(begun, tmp_path):
    for name, changes, sentence in (
        ("tokens/modular-97", {}, "llama knows 40 tokens, fewer than the 100 of the environment"),
        ("tokens/copy-16", {}, "may have 34 tokens here, but the model reads 32 at most"),
        ("tokens/copy-2", dict(model="nowhere"), "There is no folder nowhere"),
    ):
        config = writer.Config(**dict(model=str(MODELS / "llama")) | changes)
        with pytest.raises(UserError, match=sentence):
            writer.make(envs.make(name).spec, config)
    with pytest.raises(UserError, match="llama knows 40 tokens, fewer than the 102 of the environment and of control"):
        phf.make(envs.make("tokens/modular-97").spec, phf.Config(model=str(MODELS / "llama")))
    silent = Folder(tmp_path / "ppo")
    silent.begin(Plan("ppo", "gymnax/CartPole-v1", 100))
    with pytest.raises(UserError, match="is a run of ppo, which writes no tokens"):
        export(silent, tmp_path / "out")
    with pytest.raises(UserError, match="--index=2: .* has 2 agents, from 0"):
        export(begun, tmp_path / "out", index=2)
    assert not (tmp_path / "out").exists()
