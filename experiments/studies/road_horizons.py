"""Which horizon fits drivers who plan so far and no further; how MaxEnt++ helps; and what several devices do.

  python -m rljax.experiments.studies.road_horizons --num_networks=5 --size=160

For each of several road networks: routes of drivers who weigh all ways for `--drivers` steps and follow a shortest one from there;
costs are learned from half of them under every horizon, and told is the log-likelihood of the other half, a step. Then, on
the last network, the sweeps that soft values need from nothing and from the values of shortest ways (MaxEnt++), and an
update's time with destinations on one device and spread over all. Barnes et al., 2023, arXiv:2305.11290.
"""

import functools
import json
import time

import jax
import numpy as np
from absl import app, flags
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import rljax
from rljax import train
from rljax.agents.inverse import rhip
from rljax.data import dataset as dataset_lib
from rljax.data.collect import collect
from rljax.envs import roads
from rljax.evaluate import interquartile_mean
from rljax.experiments import cli
from rljax.tabular import graphs, solvers

FLAGS = flags.FLAGS
SOFT = "without end"


def main(argv):
    cli.reject_arguments(argv)
    fits = []
    for seed in range(FLAGS.num_networks):
        env = roads.road_network(FLAGS.size, FLAGS.size, num_destinations=4, seed=seed, episode_length=4 * FLAGS.size)
        fits.append(by_horizon(env, jax.random.key(seed)))
        print(json.dumps({"network": seed, "edges": int(env.graph.open.sum()), **fits[-1]}), flush=True)
    for name in fits[0]:
        found = interquartile_mean(np.array([fit[name] for fit in fits]))
        low, high = found["ci95"]
        print(f"horizon {name}: {found['iqm']:.4f} ({low:.4f} to {high:.4f}) nats a step, held out")
    print(json.dumps(sweeps(env) | seconds(env)))


def planners() -> dict[str, dict]:
    """Settings of RHIP by the horizon's name."""
    receding = {str(horizon): {"planner": "receding", "horizon": horizon} for horizon in cli.numbers("horizons", int)}
    return receding | {SOFT: {"planner": "soft"}}


def by_horizon(env: roads.RoadNetwork, key) -> dict[str, float]:
    """Held-out log-likelihood a step of what drivers did, under costs learned for each horizon from others' routes."""
    true = rhip.Config(temperature=FLAGS.temperature, horizon=FLAGS.drivers)
    driver = rhip.make(env.spec, true)
    q = jax.vmap(lambda arrived: rhip.planned_q(true, env.graph, env.reward, arrived)[0])(env.arrived)
    state = driver.init(key)._replace(policy=solvers.soft_policy(q, true.temperature))
    drive = jax.jit(lambda key: collect(env, driver, state, key, 64, 8 * FLAGS.size, True))
    seen, held_out = (dataset_lib.from_transitions(drive(key)) for key in jax.random.split(key))
    return {name: fit(env, true.replace(**settings), seen, held_out) for name, settings in planners().items()}


def fit(env, config: rhip.Config, seen, held_out) -> float:
    agent = rhip.make(env.spec, config.replace(learning_rate=0.1))

    @jax.jit
    def learned(data, key):
        learner = train.make(agent, rhip.source(env, config, data))
        return learner.run(learner.init(key), FLAGS.updates)[0].agent

    steps = held_out.transition
    found = learned(seen, jax.random.key(0))
    return float(agent.log_prob(found, steps.observation, steps.action).mean())


def sweeps(env: roads.RoadNetwork) -> dict[str, int]:
    """Of soft values, by what they begin with."""
    rule = functools.partial(solvers.soft_value, temperature=FLAGS.temperature)
    hard, _ = graphs.values(env.graph, env.reward, env.arrived[0])
    return {
        "sweeps from nothing": int(graphs.values(env.graph, env.reward, env.arrived[0], rule)[1]),
        "sweeps from shortest ways": int(graphs.values(env.graph, env.reward, env.arrived[0], rule, hard)[1]),
    }


def seconds(env: roads.RoadNetwork, repetitions: int = 5) -> dict[str, float]:
    """Of the values of all destinations under the drivers' planner, on one device and on all."""
    config = rhip.Config(temperature=FLAGS.temperature, horizon=FLAGS.drivers)
    plan = jax.jit(jax.vmap(lambda arrived: rhip.planned_q(config, env.graph, env.reward, arrived)[0]))
    found = {}
    for devices in (jax.devices()[:1], jax.devices()):
        spread = NamedSharding(Mesh(np.array(devices), ("destination",)), PartitionSpec("destination"))
        arrived = jax.device_put(env.arrived, spread)
        jax.block_until_ready(plan(arrived))
        times = []
        for _ in range(repetitions):
            begin = time.perf_counter()
            jax.block_until_ready(plan(arrived))
            times.append(time.perf_counter() - begin)
        found[f"seconds on {len(devices)} device(s)"] = round(float(np.median(times)), 3)
    return found


def entry():
    flags.DEFINE_integer("num_networks", 5, "Road networks, each by a seed of its own.", lower_bound=2)
    flags.DEFINE_integer("size", 160, "Crossings of a network, either way.", lower_bound=2)
    flags.DEFINE_integer("drivers", 10, "Steps for which drivers weigh all ways.", lower_bound=1)
    flags.DEFINE_float("temperature", 1.0, "Of the drivers.")
    flags.DEFINE_list("horizons", ["1", "2", "5", "10", "20", "50"], "Horizons to fit, besides the one without end.")
    flags.DEFINE_integer("updates", 100, "Of each fit.", lower_bound=1)
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    entry()
