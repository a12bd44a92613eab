"""One device or many, vectorised or one after another: the same runs to float tolerance, on one layout to the bit."""

import os

import jax
import numpy as np
import pytest

from rljax import envs, parallel, runtime, train
from rljax.agents.alignment import grpo
from rljax.agents.online import ppo
from rljax.checkpoint import Checkpoints
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
    with pytest.raises(ValueError, match="split 4 environments or samples over 3 devices unevenly"):
        fleet = parallel.fleet(1, "data", jax.devices()[:3])
        fleet.over(lambda key: learner({}).init(key)).lower(fleet.keys([0]))


def test_large_states_are_split_over_the_devices(tmp_path):
    """Each of four keeps a quarter of what is large, through updates and a checkpoint; and the runs are those of one device."""
    env = envs.make("tokens/copy-4")
    config = grpo.Config(width=64, num_layers=1, num_heads=2, num_prompts=4, group_size=4, learning_rate=1e-3)
    learner = train.make(grpo.make(env.spec, config), grpo.source(env, config))
    run = lambda state: learner.run(state, 2)
    after = {}
    for layout, devices in ("map", jax.devices()[:1]), ("fsdp", jax.devices()[:4]):
        fleet = parallel.fleet(2, layout, devices)
        state = fleet.over(learner.init)(fleet.keys([0, 1]))
        chunk = fleet.over(run).lower(fleet.placed(jax.eval_shape(lambda state: state, state))).compile()
        state, metrics = chunk(chunk(state)[0])
        after[layout] = state, metrics
    split, _ = after["fsdp"]
    parts = {x.shape: x.addressable_shards[0].data.size / x.size for x in jax.tree.leaves(split.agent)}
    assert parts[2, 64, 170] == parts[2, 170, 64] == 0.25 and parts[2, 64] == 1.0
    assert "all-gather" in chunk.as_text()
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, after["map"][0].agent.model.params, split.agent.model.params)

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, fleet.trim(split))
    checkpoints.wait()
    again = fleet.fill(checkpoints.restore(jax.eval_shape(fleet.trim, split), fleet.sharding_of))
    same = lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim) and (a == b).all()
    assert jax.tree.all(jax.tree.map(same, split.agent, again.agent))


def test_unknown_layout():
    with pytest.raises(ValueError, match="Unknown layout 'pmap'; one of: auto, vmap, devices, map, data, fsdp."):
        parallel.fleet(2, "pmap")


def test_a_pool_that_could_hang_is_refused(monkeypatch):
    monkeypatch.setenv("NPROC", "2")
    with pytest.raises(UserError, match="set NPROC=3 or more"):
        runtime.check_pool(2)
    runtime.check_pool(1)


@pytest.mark.parametrize(
    "cores, devices, flags, threads", [(2, 2, "", "18"), (64, 64, "", "66"), (1, 1, "", None), (2, 1, "20", "22")]
)
def test_the_pool_of_several_devices_is_large(monkeypatch, cores, devices, flags, threads):
    monkeypatch.delenv("NPROC")
    monkeypatch.setenv("XLA_FLAGS", f"{runtime.DEVICES_FLAG}={flags}" if flags else "")
    monkeypatch.setattr(runtime, "cpu_count", lambda: cores)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    runtime.prepare()
    runtime.use_cpu_devices(devices)
    assert os.environ.get("NPROC") == threads
    monkeypatch.setenv("NPROC", "5")
    runtime.use_cpu_devices(devices)
    assert os.environ["NPROC"] == "5"
