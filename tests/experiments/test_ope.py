"""Off-policy evaluation of saved runs, from data that were recorded and from data that were not, and what is refused."""

import dataclasses
import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from rljax import estimators
from rljax.agents.offline import bc, fqe
from rljax.data import dataset as dataset_lib
from rljax.data import files
from rljax.errors import UserError
from rljax.experiments import collect, datasets, ope, runner
from rljax.experiments.folder import Folder, Trained, load
from rljax.experiments.plan import Plan, Program
from rljax.types import Continuous, Discrete, EnvSpec, Transition

SMALL = {"hidden": (8,), "batch_size": 16, "num_updates": 2}
CONFIG = {**SMALL, "gamma": 0.95}
ENV = "gymnax/CartPole-v1?max_steps_in_episode=30"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Random actions in CartPole, with their likelihoods."""
    path = tmp_path_factory.mktemp("data") / "random.npz"
    files.save(path, collect.record(ENV, [], 600, num_envs=8))
    return str(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    """A clone of it with two seeds, and one that learns faster."""
    folders = []
    for name, seeds, rate in (("slow", 2, 1e-3), ("fast", 1, 1e-1)):
        config = {**SMALL, "learning_rate": rate}
        plan = Plan("bc", ENV, 20, seeds, config=config, eval_episodes=2, log_every=10, dataset=data, layout="map")
        folder = Folder(tmp_path_factory.mktemp("runs") / name)
        runner.run(plan, folder, quiet=True)
        folders.append(str(folder.path))
    return folders


def test_estimates_of_all_agents_and_how_they_rank(data, runs):
    result = ope.evaluate_offline(data, runs, 40, num_seeds=2, num_episodes=16, explore=True, config=CONFIG)
    assert result["behaviour"] == "recorded" and len(result["policies"]) == 3
    assert [policy["seed"] for policy in result["policies"]] == [0, 1, 0]
    for policy in result["policies"]:
        assert policy["fqe"] == pytest.approx(np.mean(policy["fqe_per_seed"])) and len(policy["fqe_per_seed"]) == 2
        assert policy["fqe_per_seed"][0] != policy["fqe_per_seed"][1]
        assert 1.0 < policy["effective_sample_size"] < 40.0 and policy["no_wis"] is None
        assert (
            4.0 < policy["true"] < 16.0 and 4.0 < policy["wis"] < 16.0
        )  # of at most 15.7, by the discount and the limit
    table = {name: jnp.array([policy[name] for policy in result["policies"]]) for name in ("true", *ope.ESTIMATES)}
    for name in ope.ESTIMATES:
        ranks, cost = result["ranking"][name]["rank_correlation"], result["ranking"][name]["regret_at_1"]
        assert ranks == pytest.approx(float(estimators.rank_correlation(table[name], table["true"])))
        assert cost == pytest.approx(float(estimators.regret(table[name], table["true"]))) and cost >= 0.0
    json.dumps(result, allow_nan=False)


def test_the_policy_that_made_the_data_has_equal_weights(runs, tmp_path):
    """Of its own recorded data, importance sampling gives the mean discounted return, whole as per decision."""
    steps = collect.record(None, runs[1:], 400, num_envs=8)
    assert steps.extras["log_prob"].shape == (400,)
    files.save(tmp_path / "own.npz", steps)
    result = ope.evaluate_offline(str(tmp_path / "own.npz"), runs[1:], 2, explore=True, num_episodes=2, config=CONFIG)
    data = dataset_lib.from_transitions(steps)
    reward, mask = dataset_lib.by_episode(data, data.transition.reward, 30)
    mean = float(estimators.discounted_returns(reward, mask, 0.95).mean())
    (policy,) = result["policies"]
    assert policy["wis"] == pytest.approx(mean, rel=1e-4) and policy["wpdis"] == pytest.approx(mean, rel=1e-4)
    assert policy["effective_sample_size"] == pytest.approx(len(data.start), rel=1e-3)
    assert result["ranking"] is None


def test_the_truth_is_the_discounted_return(runs):
    """With gamma 1 that of the run's own evaluation; with gamma 0 the first reward; else (1 - gamma^length) / (1 - gamma)."""
    trained = ope.of_run(runs[1], load(runs[1]))
    returns = lambda gamma: ope.true_returns(trained, gamma, 2)[0][0]
    summary = json.loads(Folder(runs[1]).summary.read_text())
    length = returns(1.0)
    assert length.mean() == summary["return"]["per_seed"][0]
    np.testing.assert_array_equal(returns(0.0), [1.0, 1.0])
    np.testing.assert_allclose(returns(0.9), (1 - 0.9**length) / 0.1, rtol=1e-5)


def test_who_made_the_data_is_cloned_where_nothing_was_recorded(data, runs, tmp_path):
    plain = str(tmp_path / "plain.npz")
    loaded = files.load(data)
    files.save(plain, loaded.transition.replace(extras={}))
    result = ope.evaluate_offline(plain, runs[1:], 16, num_episodes=2, explore=True, config=CONFIG)
    assert result["behaviour"] == "cloned" and np.isfinite(result["policies"][0]["wis"])


def test_the_clone_finds_the_likelihoods():
    """Of actions that are 1 with the chance 0.8 where the observation is positive, else 0.3; recorded ones stay as they are."""
    rng = np.random.default_rng(0)
    sign = rng.choice([-1.0, 1.0], 4000).astype(np.float32)
    chance = np.where(sign > 0, 0.8, 0.3)
    action = (rng.random(4000) < chance).astype(np.int32)
    no = np.zeros(4000, bool)
    steps = Transition(sign[:, None], action, sign, no, no, sign[:, None])
    config = bc.Config(hidden=(8,), batch_size=128, learning_rate=1e-2)
    spec = EnvSpec((1,), Discrete(2))
    found = ope.behaviour_log_prob(spec, dataset_lib.from_transitions(steps), 800, 0, config)
    np.testing.assert_allclose(np.exp(found), np.where(action == 1, chance, 1 - chance), atol=0.05)
    recorded = dataset_lib.from_transitions(steps.replace(extras={"log_prob": -sign}))
    np.testing.assert_array_equal(ope.behaviour_log_prob(spec, recorded, 800, 0, config), -sign)


def test_the_clone_knows_how_likely_the_border_is():
    """Half of the actions are clipped to it."""
    action = np.clip(np.random.default_rng(0).normal(1.0, 0.5, (4000, 1)), -1.0, 1.0).astype(np.float32)
    nothing, never = np.zeros((4000, 3), np.float32), np.zeros(4000, bool)
    data = dataset_lib.from_transitions(Transition(nothing, action, nothing[:, 0], never, never, nothing))
    config = bc.Config(hidden=(8,), learning_rate=1e-2, clipped=True)
    found = np.exp(ope.behaviour_log_prob(EnvSpec((3,), Continuous((1,))), data, 800, 0, config))
    assert found[action[:, 0] == 1.0] == pytest.approx(0.5, abs=0.05)


def test_where_there_are_no_weights_the_reason_is_told(data):
    env = "rljax/Probe-ObservationActionReward?continuous=True"
    plan = Plan("bc", env, 4, config=SMALL, dataset=data, layout="map")
    clone = ope.of_run("clone", Trained(Program(plan), None, 4))
    assert ope.why_not(clone).startswith("A deterministic policy of continuous actions has no density")
    assert ope.why_not(clone._replace(explore=True)) is None
    other = ope.of_run("other", Trained(Program(dataclasses.replace(plan, agent="td3_bc")), None, 4))
    other = other._replace(explore=True)
    assert ope.why_not(other) == "td3_bc does not know the likelihoods of its actions."
    found = ope.importance_sampling(other, files.load(data), None, 0.9)
    assert all(np.isnan(x).tolist() == [True] for x in found.values()) and set(found) > {"wis", "wpdis"}


def test_the_rungs_of_a_ladder_are_policies():
    """Of data that its second rung made, the weights of that rung are equal."""
    found = ope.evaluate_offline(
        "gymnax/CartPole-v1/medium?transitions=500", [], 2, num_episodes=4, config=CONFIG, ladder="gymnax/CartPole-v1"
    )
    assert [policy["point"] for policy in found["policies"]] == [{"rung": i} for i in range(5)]
    episodes = len(datasets.load("gymnax/CartPole-v1/medium?transitions=500", EnvSpec((4,), Discrete(2))).length)
    assert found["policies"][1]["effective_sample_size"] == pytest.approx(episodes, rel=1e-3)
    assert found["policies"][4]["effective_sample_size"] < 0.9 * episodes
    assert found["policies"][4]["true"] > found["policies"][0]["true"]


def test_a_ranking_needs_an_estimate_for_each():
    policies = [{"true": 1.0, "fqe": 3.0, "wis": None}, {"true": 2.0, "fqe": 1.0, "wis": 1.0}]
    assert ope.ranking(policies, "fqe") == {"rank_correlation": -1.0, "regret_at_1": 1.0}
    assert ope.ranking(policies, "wis") == {"rank_correlation": None, "regret_at_1": None}


def test_rewards_are_scaled_by_the_data(data):
    loaded = files.load(data)
    config = ope.scaled(fqe.Config(gamma=0.9, reward_scale=0.0), loaded)
    mean = np.mean([(1 - 0.9**length) / (1 - 0.9) for length in np.asarray(loaded.length)])
    assert config.reward_scale == pytest.approx(1.0 / mean, rel=1e-5)
    assert ope.scaled(fqe.Config(reward_scale=3.0), loaded).reward_scale == 3.0


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"dataset": ""}, "--dataset must name the data"),
        ({"dataset": "missing.npz"}, "There is no dataset missing.npz"),
        ({"run_dirs": []}, "--run_dir=DIR must name the folder of a run"),
        ({"run_dirs": ["nowhere"]}, "There is no run in nowhere"),
        ({"steps": 0}, "--steps=0 must be at least 1."),
        ({"num_seeds": 0}, "--num_seeds=0 must be at least 1."),
        ({"seed": -1}, "--seed=-1 must be at least 0."),
        ({"num_episodes": 0}, "--episodes=0 must be at least 1."),
        ({"config": {"gama": 0.9}}, "has no config field 'gama'; nearest: gamma"),
    ],
)
def test_what_cannot_be_is_said(data, runs, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        ope.evaluate_offline(**({"dataset": data, "run_dirs": runs, "steps": 4} | changes))


def test_episodes_chosen_by_return_and_policies_with_a_memory_are_refused(data, runs, run):
    with pytest.raises(UserError, match=r"\?top chooses episodes by their return"):
        ope.evaluate_offline(data + "?top=0.5", runs, 4)
    with pytest.raises(UserError, match="Fitted Q evaluation is for policies without a memory"):
        ope.evaluate_offline(data, [str(run[0].path)], 4)
    with pytest.raises(
        UserError, match="The policies are of different environments: gymnax/CartPole-v1 and gymnax/CartPole-v1?"
    ):
        ope.evaluate_offline(data, [runs[0], str(run[0].path)], 4)


def test_the_binary_writes_and_prints(data, runs, tmp_path, plain):
    output = tmp_path / "ope.json"
    flags = [f"--dataset={data}", f"--output={output}", *(f"--run_dir={path}" for path in runs)]
    flags += ["--steps=4", "--episodes=2", "--config.gamma=0.9", "--config.hidden=(8,)", "--explore"]
    command = [sys.executable, "-m", "rljax.experiments.ope", *flags]
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=plain)
    assert found.returncode == 0, found.stderr
    written = json.loads(output.read_text())
    assert written["config"]["gamma"] == 0.9 and written["config"]["hidden"] == [8] and len(written["policies"]) == 3
    assert "rank_correlation" in found.stdout and found.stdout.strip().endswith(str(output))
