"""Updates per second of one agent with laws of returns by a named library, in whatever Python runs this file; prints them as JSON.

  python law_peers.py sb3-contrib qr_dqn

The same for both, on one thread: a replay of 10,000 random steps, Adam. QR-DQN has 50 quantiles on CartPole, two layers of 64 and
batches of 32 (`qr_dqn_small`: what a library costs beside its products) or two of 256 and batches of 256; TQC has two critics of
25 quantiles on Pendulum, the highest two of each dropped, two layers of 256, batches of 256. An update is a gradient step with
its draw from the replay. Here each comes with a step in an environment, which the other one's figure leaves out; compiling is
left out of ours.
"""

import json
import os
import sys
import time

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NPROC": "1"}

CASES = {  # case: agent, environment, hidden units, batch
    "qr_dqn_small": ("qr_dqn", "CartPole-v1", 64, 32),
    "qr_dqn": ("qr_dqn", "CartPole-v1", 256, 256),
    "tqc": ("tqc", "Pendulum-v1", 256, 256),
}
STEPS, SECONDS = 10_000, 10.0
SIZES = {"qr_dqn": {"num_atoms": 50}, "tqc": {"num_atoms": 25, "num_critics": 2, "num_dropped": 2}}


def rljax_updates(case: str) -> float:
    import jax

    import rljax
    from rljax import envs, train
    from rljax.experiments import catalog
    from rljax.experiments.benchmarks.rate import iterations_per_second

    rljax.runtime.use_cpu_devices(1)
    name, env_name, width, batch = CASES[case]
    module, env = catalog.agent(name), envs.make(f"gymnax/{env_name}")
    config = module.Config(
        num_envs=1, hidden=(width, width), batch_size=batch, capacity=STEPS, warmup=STEPS, **SIZES[name]
    )
    learner = train.make(module.make(env.spec, config), module.source(env, config))
    state = jax.jit(learner.init)(jax.random.key(0))
    return iterations_per_second(learner.run, state, seconds=SECONDS)


def sb3_updates(case: str) -> float:
    import torch
    from sb3_contrib import QRDQN, TQC

    torch.set_num_threads(1)
    name, env_name, width, batch = CASES[case]
    shared = {"buffer_size": STEPS, "learning_starts": STEPS, "batch_size": batch, "device": "cpu"}
    if name == "qr_dqn":
        model = QRDQN("MlpPolicy", env_name, policy_kwargs={"net_arch": [width, width], "n_quantiles": 50}, **shared)
    else:
        kwargs = {"net_arch": [width, width], "n_critics": 2, "n_quantiles": 25}
        model = TQC("MlpPolicy", env_name, policy_kwargs=kwargs, top_quantiles_to_drop_per_net=2, **shared)
    model.learn(STEPS)
    model.train(gradient_steps=20, batch_size=batch)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        model.train(gradient_steps=20, batch_size=batch)
        count += 20
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    library, asked = sys.argv[1:]
    found = {"rljax": rljax_updates, "sb3-contrib": sb3_updates}[library](asked)
    print(json.dumps({"updates_per_second": found}))
