"""Evaluating and acting with what a run has saved."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import parallel
from rljax.evaluate import evaluate
from rljax.experiments.evaluate import evaluate_run
from rljax.experiments.folder import Folder, load
from rljax.experiments.runner import EVALUATION
from rljax.types import initial_memory


def scores(summary):
    return [entry["return"]["per_seed"] for entry in summary["sweep"]]


def test_the_checkpoint_plays_the_episodes_of_the_agent_that_was_saved(run):
    folder, summary = run
    again = evaluate_run(folder, num_episodes=4)
    assert scores(again) == scores(summary) and len(set(sum(scores(summary), []))) > 1
    assert again["return"] == summary["return"] and again["steps"] == summary["steps"] == 640
    assert json.loads((folder.path / "evaluation-gymnax-CartPole-v1.json").read_text()) == again
    assert scores(evaluate_run(folder, num_episodes=4, seed=1)) != scores(summary)


def test_exploring_and_another_environment_make_a_difference(run):
    folder, summary = run
    assert scores(evaluate_run(folder, num_episodes=4, explore=True)) != scores(summary)
    shorter = evaluate_run(folder, "gymnax/CartPole-v1?max_steps_in_episode=5", num_episodes=4)
    assert scores(shorter) == [[5.0] * 2] * 2


def test_a_loaded_agent_acts_alone_in_plain_python(run):
    folder, summary = run
    program, states, steps = load(folder.path)
    assert steps == 640 and program.runs[3] == ({"learning_rate": 0.1}, 6)
    agent, state = program.agent(program.runs[3][0]), parallel.select(states, 3)
    key = parallel.select(program.fleet.keys([seed for _, seed in program.runs], EVALUATION), 3)
    assert evaluate(program.env, agent, state, key, 4).returns.mean() == pytest.approx(scores(summary)[1][1])
    before = initial_memory(agent, 1)
    action, after, _ = agent.act(state, jnp.ones((1, 4)), before, jax.random.key(0), False)
    assert action.shape == (1,) and before.shape == after.shape == (1, 3) and (before != after).any()


def test_a_policy_remembers_and_is_that_of_its_run(run):
    trained = load(run[0].path)
    act, memory = trained.policy(3)
    agent, state = trained.program.agent(trained.program.runs[3][0]), parallel.select(trained.states, 3)
    observation, together = np.ones(4, np.float32), initial_memory(agent, 1)
    for i in range(3):
        key = jax.random.key(i)
        action, memory = act(observation, memory, key)
        expected, together, _ = agent.act(state, observation[None], together, key, False)
        assert action == expected[0]
        np.testing.assert_allclose(memory, together[0], rtol=1e-5)
    assert (load(run[0].path).policy(0)[0](observation, memory, jax.random.key(0))[1] != memory).any()


def test_only_the_agents_are_read(run, monkeypatch):
    import orbax.checkpoint as ocp

    asked = []
    restore = ocp.CheckpointManager.restore
    monkeypatch.setattr(
        ocp.CheckpointManager, "restore", lambda self, step, args: asked.append(args) or restore(self, step, args=args)
    )
    states = load(run[0].path).states
    (args,) = asked
    assert list(args.item) == ["agent"] and args.partial_restore
    assert all(x.shape[0] == 4 for x in jax.tree.leaves(states))


def test_in_gymnasium_a_recurrent_agent_keeps_its_memory(run, monkeypatch):
    gymnasium_env = pytest.importorskip("rljax.envs.gymnasium")
    folder, _ = run
    memories, play = [], gymnasium_env.evaluate_in_gymnasium

    def watched(act, *arguments):
        def watch(observation, memory, key):
            memories.append(np.asarray(memory))
            return act(observation, memory, key)

        return play(watch, *arguments)

    monkeypatch.setattr(gymnasium_env, "evaluate_in_gymnasium", watched)
    summary = evaluate_run(folder, "gymnasium/CartPole-v1", num_episodes=2)
    returns = np.array(scores(summary))
    assert returns.shape == (2, 2) and (returns >= 8).all() and 2 * returns.sum() == len(memories)
    assert sum(not memory.any() for memory in memories) == 2 * 4  # only an episode's first is empty
    assert folder.evaluation("gymnasium/CartPole-v1", False).name == "evaluation-gymnasium-CartPole-v1.json"


@pytest.mark.parametrize(
    "env, message",
    [
        ("gymnax/Acrobot-v1", r"Acrobot-v1 has observations of shape \(6,\), .* \(4,\)"),
        ("rljax/Probe-Memory", r"Probe-Memory has observations of shape \(1,\), .* \(4,\)"),
        ("gymnax/CartPole", "nearest: gymnax/CartPole-v1"),
        ("gymnasium/Acrobot-v1", r"Acrobot-v1 has observations of shape \(6,\), .* \(4,\)"),
        ("gymnasium/Nowhere-v1", "Gymnasium cannot make 'Nowhere-v1'"),
    ],
)
def test_an_environment_that_does_not_fit_is_named(run, env, message):
    with pytest.raises(ValueError, match=message):
        evaluate_run(run[0], env, num_episodes=1)


def test_a_missing_run_or_checkpoint_is_named(run, tmp_path):
    with pytest.raises(ValueError, match="There is no run in .*: it has no config.json"):
        load(tmp_path)
    shutil.copy(run[0].config, tmp_path)
    with pytest.raises(ValueError, match="There is no checkpoint in .*: it has no folder checkpoints"):
        load(tmp_path)
    Folder(tmp_path).checkpoints.mkdir()
    with pytest.raises(ValueError, match="the run has not saved any yet"):
        load(tmp_path)
