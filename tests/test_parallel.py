"""One device or many, vectorised or one after another: the same runs to float tolerance, on one layout to the bit."""

import os

import jax
import numpy as np
import pytest

from rljax import envs, parallel, runtime, train
from rljax.agents.online import ppo
from rljax.errors import UserError
from rljax.evaluate import evaluate

ENV = envs.make("gymnax/CartPole-v1")
CONFIG = ppo.Config(num_envs=4, rollout_length=8, hidden=(8,), normalize_observations=True)
SEEDS = (5, 0, 7)


def learner(point):
    config = CONFIG.replace(**point)
    return train.make(ppo.make(ENV.spec, config), ppo.source(ENV, config))


def trained(layout, seeds=SEEDS, devices=None, iterations=3):
    """Parameters [S, ...] and metrics [S] after a few iterations; learning rates differ between runs."""
    fleet = parallel.fleet(len(seeds), layout, devices)
    points = fleet.place({"learning_rate": np.array([1e-3 * (1 + seed) for seed in seeds], np.float32)})
    run = fleet.over(lambda key, point: learner(point).run(learner(point).init(key), iterations))
    state, metrics = run(fleet.keys(seeds), points)
    return fleet.to_host((state.agent.model.params, metrics))


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-5), a, b)


@pytest.fixture(scope="module")
def reference():
    return trained("map", devices=jax.devices()[:1])


@pytest.mark.parametrize("layout, num_devices", [("vmap", 1), ("vmap", 8), ("devices", 2), ("devices", 8), ("data", 4)])
def test_layouts_agree(reference, layout, num_devices):
    assert_close(trained(layout, devices=jax.devices()[:num_devices]), reference)


def test_a_seed_does_not_depend_on_its_neighbours(reference):
    alone = trained("map", seeds=(7,))
    assert_close(alone, jax.tree.map(lambda x: x[2:], reference))


def test_seeds_and_points_differ(reference):
    first = jax.tree.leaves(reference[0])[-1]
    assert not np.allclose(first[0], first[1]) and not np.allclose(first[1], first[2])


@pytest.mark.parametrize("layout", ["vmap", "devices"])
def test_same_layout_same_bits(layout):
    jax.tree.map(np.testing.assert_array_equal, trained(layout), trained(layout))


def test_padding_comes_and_goes():
    fleet = parallel.fleet(3, "vmap", jax.devices()[:2])
    assert fleet.padded == 4
    placed = fleet.place(np.arange(3.0))
    assert placed.tolist() == [0.0, 1.0, 2.0, 0.0]
    trimmed = fleet.trim(placed)
    assert trimmed.tolist() == [0.0, 1.0, 2.0] and fleet.fill(trimmed).tolist() == placed.tolist()
    np.testing.assert_array_equal(fleet.to_host(placed), np.arange(3.0))


def test_select_takes_one_agent_out_of_a_sweep():
    fleet = parallel.fleet(2, "vmap")
    states = fleet.over(lambda key: learner({}).init(key))(fleet.keys([0, 1]))
    agent = ppo.make(ENV.spec, CONFIG)
    alone = parallel.select(states, 1).agent
    key = jax.random.key(9)
    together = fleet.over(lambda state, key: evaluate(ENV, agent, state.agent, key, 5).returns)(
        states, fleet.keys([3, 4])
    )
    alone_returns = jax.jit(lambda s, k: evaluate(ENV, agent, s, k, 5).returns)(
        alone, parallel.select(fleet.keys([3, 4]), 1)
    )
    np.testing.assert_array_equal(fleet.to_host(together)[1], alone_returns)
    action, _, _ = agent.act(alone, np.zeros((1, 4), np.float32), (), key, False)
    assert action.shape == (1,)


def test_the_layout_data_splits_environments_and_minibatches():
    fleet = parallel.fleet(1, "data", jax.devices()[:4])
    run = fleet.over(lambda key: learner({}).run(learner({}).init(key), 1)[0].agent)
    text = run.lower(fleet.keys([0])).compile().as_text()
    assert "all-reduce" in text  # of gradients and of the normaliser's sums
    with pytest.raises(ValueError, match="splits 4 environments or samples over 3 devices unevenly"):
        fleet = parallel.fleet(1, "data", jax.devices()[:3])
        fleet.over(lambda key: learner({}).init(key)).lower(fleet.keys([0]))


def test_unknown_layout():
    with pytest.raises(ValueError, match="Unknown layout 'pmap'; one of: auto, vmap, devices, map, data."):
        parallel.fleet(2, "pmap")


def test_a_pool_that_could_hang_is_refused(monkeypatch):
    monkeypatch.setenv("NPROC", "2")
    with pytest.raises(UserError, match="set NPROC=3 or more"):
        runtime.check_pool(2)
    runtime.check_pool(1)


@pytest.mark.parametrize(
    "cores, devices, flags, threads", [(2, 2, "", 3), (8, 2, "", 8), (1, 1, "", 1), (2, 2, "8", 9)]
)
def test_a_pool_has_a_thread_more_than_devices_and_no_more(monkeypatch, cores, devices, flags, threads):
    monkeypatch.delenv("NPROC")
    monkeypatch.setenv("XLA_FLAGS", f"{runtime.DEVICES_FLAG}={flags}" if flags else "")
    monkeypatch.setattr(runtime, "cpu_count", lambda: cores)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    runtime.prepare()
    runtime.use_cpu_devices(devices)
    assert os.environ["NPROC"] == str(threads)
    monkeypatch.setenv("NPROC", "5")
    runtime.use_cpu_devices(devices)
    assert os.environ["NPROC"] == "5"
