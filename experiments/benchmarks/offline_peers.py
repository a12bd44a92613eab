"""Updates per second of one offline agent by a named library, in whatever Python runs this file; prints them as JSON.

  python offline_peers.py d3rlpy iql

The same for all: 100,000 random transitions of the hopper's shape in episodes of 500 steps, one thread, one process; networks of
two layers of 256, batches of 256 (`dt`: 64 segments of 20 steps, 3 layers, one head, width 128). Drawing the batches counts;
compiling, loading and logging do not. Of TD3+BC an update is a step of the critics, with one of the policy every second time.
"""

import json
import os
import sys
import time

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NPROC": "1"}

import numpy as np

SIZE, LENGTH, OBSERVATION, ACTION, BATCH, SECONDS = 100_000, 500, 11, 3, 256, 10.0


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ends = np.arange(SIZE) % LENGTH == LENGTH - 1
    return {
        "observations": rng.normal(size=(SIZE, OBSERVATION)).astype(np.float32),
        "actions": rng.uniform(-1.0, 1.0, (SIZE, ACTION)).astype(np.float32),
        "rewards": rng.normal(size=SIZE).astype(np.float32),
        "terminals": ends.astype(np.float32),
    }


def rljax_updates(agent: str) -> dict[str, float]:
    """The agent in one compiled program of many updates."""
    import jax

    from rljax import train
    from rljax.data import dataset
    from rljax.experiments import catalog
    from rljax.experiments.benchmarks.rate import iterations_per_second
    from rljax.types import Continuous, EnvSpec, Transition

    found = arrays()
    observation = found["observations"]
    steps = Transition(
        observation,
        found["actions"],
        found["rewards"],
        found["terminals"] > 0,
        np.zeros(SIZE, bool),
        np.concatenate([observation[1:], observation[-1:]]),
    )
    module, spec, data = (
        catalog.agent(agent),
        EnvSpec((OBSERVATION,), Continuous((ACTION,)), LENGTH),
        dataset.from_transitions(steps),
    )
    sizes = {"batch_size": 64, "context": 20} if agent == "dt" else {"batch_size": BATCH, "hidden": (256, 256)}
    config = module.Config(**sizes)
    learner_of = lambda data: train.make(module.make(spec, config), module.source(None, config, data))
    state = jax.jit(lambda data, key: learner_of(data).init(key))(data, jax.random.key(0))
    run = lambda state, count, data: learner_of(data).run(state, count)
    rate = iterations_per_second(run, state, data, seconds=SECONDS)
    return {"updates_per_second": rate * config.num_updates * getattr(config, "policy_delay", 1)}


def d3rlpy_updates(agent: str) -> dict[str, float]:
    """d3rlpy's own update on batches drawn by its own buffer."""
    import d3rlpy
    import torch

    torch.set_num_threads(1)
    d3rlpy.seed(0)
    data = d3rlpy.dataset.MDPDataset(**arrays())
    two = d3rlpy.models.encoders.VectorEncoderFactory([256, 256])
    both = {"actor_encoder_factory": two, "critic_encoder_factory": two, "batch_size": BATCH}
    if agent == "dt":
        algorithm = d3rlpy.algos.DecisionTransformerConfig(
            batch_size=64, context_size=20, num_layers=3, num_heads=1, max_timestep=LENGTH + 1
        ).create(device="cpu:0")
        draw = lambda: data.sample_trajectory_batch(64, 20)
    else:
        algorithm = {
            "iql": lambda: d3rlpy.algos.IQLConfig(value_encoder_factory=two, **both),
            "cql": lambda: d3rlpy.algos.CQLConfig(n_action_samples=10, **both),
            "td3_bc": lambda: d3rlpy.algos.TD3PlusBCConfig(**both),
        }[agent]().create(device="cpu:0")
        draw = lambda: data.sample_transition_batch(BATCH)
    algorithm.build_with_dataset(data)
    for _ in range(10):
        algorithm.update(draw())
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        algorithm.update(draw())
        count += 1
    return {"updates_per_second": count / (time.perf_counter() - start)}


if __name__ == "__main__":
    library, agent = sys.argv[1:]
    print(json.dumps({"rljax": rljax_updates, "d3rlpy": d3rlpy_updates}[library](agent)))
