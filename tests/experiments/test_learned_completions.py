"""From demonstrations to a learned reward to PPO on it: what begins as what, who is paid by what, and by what all are judged."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.errors import UserError
from rljax.experiments import folder, runner
from rljax.experiments.export import export
from rljax.experiments.folder import Folder
from rljax.experiments.plan import Plan, Program
from rljax.networks import pretrained

ENV = "tokens/copy-2?dense=true"
SIZES = dict(width=16, num_layers=1, num_heads=2)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Runs of two seeds: supervised, and a reward from what the supervised write."""
    where = tmp_path_factory.mktemp("runs")
    shown, reward = Folder(where / "sft"), Folder(where / "reward")
    runner.run(
        Plan("sft", "tokens/copy-2", 32, 2, config=SIZES | {"num_prompts": 16}, eval_episodes=2), shown, quiet=True
    )
    config = SIZES | {"num_prompts": 8, "num_models": 2, "learning_rate": 0.0}
    plan = Plan("completion_reward", ENV, 32, 2, config=config, eval_episodes=2, start_from=str(shown.path))
    runner.run(plan, reward, quiet=True)
    return shown, reward


def ppo(learned, **changes) -> Plan:
    shown, reward = learned
    config = SIZES | {"num_prompts": 32, "learning_rate": 0.0, "critic_learning_rate": 0.0}
    given = {"start_from": str(shown.path), "reward_from": str(reward.path)}
    return Plan("rlhf_ppo", ENV, 64, 2, config=config, eval_episodes=8, **given | changes)


def test_each_begins_as_the_policy_that_was_shown_and_learns_besides(learned):
    states = [folder.load(run.path).states for run in learned]
    jax.tree.map(np.testing.assert_array_equal, states[0], states[1].policy)
    heads = states[1].reward.params["params"]["head"]["kernel"]
    assert heads.shape[:2] == (2, 2) and len(np.unique(np.asarray(heads[..., 0, 0]))) == 4


def test_training_pays_what_was_learned_and_evaluation_what_is_true(learned, tmp_path):
    """The chain as a whole: with rates of 0 PPO's policy stays the one shown, its critic is a new one, its returns in training are
    the learned reward's and its evaluation the task's."""
    where = Folder(tmp_path / "ppo")
    summary = runner.run(ppo(learned), where, quiet=True)
    after, shown = folder.load(where.path).states, folder.load(learned[0].path).states
    jax.tree.map(np.testing.assert_array_equal, after.policy.model.params, shown.model.params)
    assert jnp.abs(after.critic.params["params"]["head"]["kernel"]).min() > 0.0
    exported = export(where, tmp_path / "folder", index=1)
    assert "rlhf_ppo" in exported
    weights = pretrained.load(tmp_path / "folder")[1]["params"]["final_norm"]["scale"]
    np.testing.assert_array_equal(weights, after.policy.model.params["params"]["final_norm"]["scale"][1])
    thirds = 3.0 * 8.0 * np.array(summary["return"]["per_seed"])  # a share of three tokens, the mean of eight answers
    np.testing.assert_allclose(thirds, thirds.round(), atol=1e-4)
    returns = np.concatenate([scores.ravel() for _, scores in where.curves("episode/return").values()])
    returns = returns[np.isfinite(returns)]
    assert (
        len(returns)
        and (np.abs(returns) < 0.5).all()
        and (np.abs(96.0 * returns - (96.0 * returns).round()) > 1e-3).any()
    )


def test_a_run_that_writes_is_asked_beside_a_learned_reward(learned):
    """RTO: whose opinion of each token it has, which comes to that of whole completions, by policy and by reference."""
    shown, _ = learned
    program = Program(dataclasses.replace(ppo(learned), agent="rto", demonstrator=f"{shown.path}?index=1"))
    asked, state = program.given["demonstrator"], jax.tree.map(lambda x: x[1], folder.load(shown.path).states)
    jax.tree.map(np.testing.assert_array_equal, asked.state, state)
    prompt, answer = jax.vmap(program.env.example)(jax.random.split(jax.random.key(0), 4))
    other = state._replace(reference=jax.tree.map(lambda x: 2.0 * x, state.model.params))
    opinion, reference = jax.jit(asked.replace(state=other).read)(prompt, answer)
    shown_agent = Program(shown.plan()).agent({})
    of = lambda params: state._replace(model=state.model._replace(params=params))
    whole = jax.jit(lambda params: shown_agent.log_prob(of(params), prompt, answer))
    np.testing.assert_allclose(np.sum(opinion, axis=1), whole(state.model.params), rtol=1e-5)
    np.testing.assert_allclose(np.sum(reference, axis=1), whole(other.reference), rtol=1e-5)
    assert (np.abs(opinion - reference)[np.asarray(answer) > 0] > 1e-4).any()
    key, beginning = jax.random.key(1), answer.at[:, 1:].set(0)
    for begun in (None, beginning):
        own = shown_agent.act(state, prompt, (), key, True, begun)[0]
        np.testing.assert_array_equal(asked.write(prompt, key, begun), own)
    np.testing.assert_array_equal(asked.write(prompt, key, beginning)[:, 0], answer[:, 0])
    with pytest.raises(UserError, match="rto asks another .*: name a run that writes by --demonstrator=DIR"):
        Program(dataclasses.replace(ppo(learned), agent="rto"))


def test_what_has_no_policy_of_the_kind_is_refused(learned, tmp_path):
    _, reward = learned
    with pytest.raises(UserError, match="is a run of completion_reward on .*; it cannot go on as rlhf_ppo"):
        runner.run(ppo(learned, start_from=str(reward.path)), Folder(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()
