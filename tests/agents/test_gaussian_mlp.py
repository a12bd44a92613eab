"""Policies from files: what they do against numpy, what is refused, and that real ones walk."""

import json
import pathlib

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.behaviour import gaussian_mlp
from rljax.errors import UserError
from rljax.types import Continuous, Discrete, EnvSpec

REAL = pathlib.Path(__file__).parents[3] / "shared" / "data" / "trpo_hopper.h5"
SPEC = EnvSpec((3,), Continuous((2,)))
ROOT = "snapshots/iter0000020/GaussianPolicy"


def arrays(rung=20):
    rng = np.random.default_rng(rung)
    layer = lambda m, n: {"W": rng.normal(size=(m, n)), "b": 0.1 * rng.normal(size=(1, n))}
    found = {"obsnorm/Standardizer": {"mean_1_D": rng.normal(size=(1, 3)), "meansq_1_D": np.full((1, 3), 9.0)}}
    for name, m, n in (
        ("hidden/FeedforwardNet/layer_0", 3, 5),
        ("hidden/FeedforwardNet/layer_10", 4, 4),
        ("out", 4, 2),
    ):
        found[f"{name}/AffineLayer"] = layer(m, n)
    found["hidden/FeedforwardNet/layer_2/AffineLayer"] = layer(5, 4)
    found[""] = {"logstdevs_1_Da": np.log([[0.1, 0.3]])}
    return {f"{group}/{name}".strip("/"): x for group, part in found.items() for name, x in part.items()}


def write(path, activation="tanh"):
    """A ladder of two rungs, with hidden layers 0, 2 and 10, which are not in the order of their names."""
    with h5py.File(path, "w") as file:
        layers = [{"type": "fc", "n": 5}, {"type": "nonlin", "func": activation}]
        file.attrs["args"] = np.bytes_(json.dumps({"policy_hidden_spec": json.dumps(layers)}))
        for rung in (20, 40):
            for name, x in arrays(rung).items():
                file[f"snapshots/iter{rung:07d}/GaussianPolicy/{name}"] = x
    return str(path)


def mean_action(x, found):
    std = np.sqrt(found["obsnorm/Standardizer/meansq_1_D"] - found["obsnorm/Standardizer/mean_1_D"] ** 2)
    x = (x - found["obsnorm/Standardizer/mean_1_D"]) / (std + 1e-6)
    for layer in (0, 2, 10):
        name = f"hidden/FeedforwardNet/layer_{layer}/AffineLayer"
        x = np.tanh(x @ found[f"{name}/W"] + found[f"{name}/b"])
    return x @ found["out/AffineLayer/W"] + found["out/AffineLayer/b"]


def test_the_mean_is_that_of_the_network_in_numpy(tmp_path):
    ladder = gaussian_mlp.read(write(tmp_path / "ladder.h5"))
    assert list(ladder) == [20, 40]
    observation = np.random.default_rng(1).normal(size=(200, 3))
    for rung, policy in ladder.items():
        agent = gaussian_mlp.make(policy, SPEC)
        state = agent.init(jax.random.key(0))
        action, _, _ = agent.act(state, jnp.float32(observation), (), jax.random.key(0), False)
        expected = mean_action(observation, arrays(rung))
        assert (np.abs(expected) > 1).any() and (np.abs(expected) < 1).any()
        np.testing.assert_allclose(action, np.clip(expected, -1, 1), atol=2e-5)


def test_exploring_adds_noise_of_its_own_size(tmp_path):
    """Around a mean that is far from the bounds, so that nothing is clipped."""
    policy = gaussian_mlp.read(write(tmp_path / "ladder.h5"), [20])[20]
    policy = policy.replace(
        weights=tuple(0.0 * w for w in policy.weights), biases=tuple(0.0 * b for b in policy.biases)
    )
    agent = gaussian_mlp.make(policy, SPEC)
    action, _, _ = agent.act(policy, jnp.ones((20_000, 3)), (), jax.random.key(2), True)
    np.testing.assert_allclose(action.std(0), [0.1, 0.3 * 0.998], rtol=0.02)  # 0.1 % of the second are clipped
    np.testing.assert_allclose(action.mean(0), 0.0, atol=0.01)
    assert np.abs(np.corrcoef(action.T)[0, 1]) < 0.03


def test_rungs_are_chosen(tmp_path):
    path = write(tmp_path / "ladder.h5")
    assert list(gaussian_mlp.read(path, [40])) == [40] and list(gaussian_mlp.read(path, [40, 20])) == [40, 20]
    with pytest.raises(UserError, match="has no rung 30; there are 20, 40"):
        gaussian_mlp.read(path, [20, 30])


@pytest.mark.parametrize(
    "spec", [EnvSpec((4,), Continuous((2,))), EnvSpec((3,), Continuous((1,))), EnvSpec((3,), Discrete(2))]
)
def test_a_policy_must_fit(tmp_path, spec):
    policy = gaussian_mlp.read(write(tmp_path / "ladder.h5"), [20])[20]
    with pytest.raises(UserError, match=r"observations of shape \(3,\) and continuous actions of shape \(2,\), but"):
        gaussian_mlp.make(policy, spec)


@pytest.mark.parametrize(
    "name, value, sentence",
    [
        ("out/AffineLayer/W", None, "has no array GaussianPolicy/out/AffineLayer/W in /snapshots/iter0000020"),
        ("out/AffineLayer/W", np.zeros((5, 2)), "has layers in /snapshots/iter0000020 that do not fit each other"),
        ("out/AffineLayer/b", np.zeros(2), "that do not fit each other"),
        ("logstdevs_1_Da", np.zeros((1, 3)), "that do not fit each other"),
        ("logstdevs_1_Da", np.full((1, 2), np.nan), "NaN or infinite numbers in /snapshots/iter0000020"),
        ("obsnorm/Standardizer/mean_1_D", np.float64(0), "that do not fit each other"),
        ("obsnorm/Standardizer/mean_1_D", np.bytes_("cos"), "as .S3 rather than numbers"),
        ("obsnorm/Standardizer", None, "has no array GaussianPolicy/obsnorm/Standardizer/mean_1_D"),
    ],
)
def test_bad_policies_give_one_sentence(tmp_path, name, value, sentence):
    path = write(tmp_path / "ladder.h5")
    with h5py.File(path, "a") as file:
        del file[f"{ROOT}/{name}"]
        if value is not None:
            file[f"{ROOT}/{name}"] = value
    with pytest.raises(UserError, match=sentence):
        gaussian_mlp.read(path)
    assert list(gaussian_mlp.read(path, [40])) == [40]


def test_files_that_hold_no_policies(tmp_path):
    with pytest.raises(UserError, match="There is no file of policies"):
        gaussian_mlp.read(tmp_path / "missing.h5")
    (tmp_path / "policy.pkl").write_bytes(b"\x80\x04N.")
    with pytest.raises(UserError, match="cannot be read as HDF5"):
        gaussian_mlp.read(tmp_path / "policy.pkl")
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["observations"] = np.zeros(3)
    with pytest.raises(UserError, match="has no snapshots/iterNNNNNNN"):
        gaussian_mlp.read(tmp_path / "data.h5")
    with pytest.raises(UserError, match="has policies with relu units; only tanh is read"):
        gaussian_mlp.read(write(tmp_path / "ladder.h5", "relu"))
    with h5py.File(tmp_path / "ladder.h5", "a") as file:
        file.attrs["args"] = "not JSON"
    with pytest.raises(UserError, match="does not say what its policies' layers are"):
        gaussian_mlp.read(tmp_path / "ladder.h5")


@pytest.mark.skipif(not REAL.exists(), reason="the real policies are not here")
def test_a_real_ladder_climbs():
    """Its own log says about 15, 554 and 2,593 at the first three rungs."""
    pytest.importorskip("mujoco", reason="gymnasium[mujoco]")
    from rljax.experiments import evaluate

    found = evaluate.evaluate_policies([f"{REAL}?rungs=0,20,40"], "gymnasium/Hopper-v5", num_episodes=3)
    first, second, third = (episodes.returns.mean() for episodes in found.values())
    assert first < 100 and 300 < second < 900 and third > 1500
