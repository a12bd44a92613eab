"""Choose a ladder of policies among the checkpoints of PPO runs, measure it, and put it into the package (see ladders.py).

  python -m rljax.experiments.train --env=brax/hopper --steps=4000000 --num_seeds=2 --keep_checkpoints=0 --run_dir=runs/hopper
  python -m rljax.experiments.make_ladder --run_dir=runs/hopper

Several --run_dir are one pool. The rungs are those whose training returns came nearest to FRACTIONS of the way from random
actions to the best of the pool. Weights are kept in half precision, and measured so.
"""

import contextlib
import hashlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import rljax
from rljax import logging, parallel
from rljax.checkpoint import Checkpoints
from rljax.data.collect import uniform
from rljax.envs import make as make_env
from rljax.errors import UserError
from rljax.evaluate import evaluate
from rljax.experiments import catalog, cli, ladders
from rljax.experiments.folder import Folder, load, provenance, write_json
from rljax.experiments.plan import Program

FLAGS = flags.FLAGS
FRACTIONS = (0.2, 0.4, 0.6, 0.8, 1.0)
NOT_ACTING = ("value", "opt_state")  # parts of PPO's state that acting does not read
EVALUATION = 4  # base of the keys; 0 is training's, 1 evaluation's, 2 and 3 those of data
EPISODES = 100


def main(argv):
    cli.reject_arguments(argv)
    manifest = build(FLAGS.run_dir)
    for rung in manifest["rungs"]:
        print(rung)
    print(ladders.path_of(manifest["env"]))


def build(run_dirs: list[str]) -> dict[str, Any]:
    """Choose, measure and write; returns the manifest.

    Raises:
      UserError: no runs, or not runs of PPO in one environment with one network.
    """
    if not run_dirs:
        raise UserError("Give the runs whose checkpoints become rungs by --run_dir.")
    plans = [Folder(path).plan() for path in run_dirs]
    if any(plan.agent != "ppo" or plan.sweep for plan in plans):
        raise UserError("Ladders are made of runs of ppo without a sweep.")
    network = [{k: v for k, v in plan.config.items() if not catalog.is_swept("ppo", k)} for plan in plans]
    if any(plan.env != plans[0].env or theirs != network[0] for plan, theirs in zip(plans, network)):
        raise UserError("The runs of a ladder must be of one environment and of one network.")
    env = make_env(plans[0].env)
    agent = catalog.agent("ppo").make(env.spec, catalog.configure("ppo", network[0]))

    def measure(agent, explore):
        run = lambda state: evaluate(env, agent, state, jax.random.key(EVALUATION), EPISODES, explore).returns.mean()
        return jax.jit(run)

    random = float(measure(uniform(env), True)(()))
    pool = [candidate for path in run_dirs for candidate in candidates(path)]
    best = max(score for score, *_ in pool)
    deterministic, exploring, rungs, kept = measure(agent, False), measure(agent, True), [], []
    for fraction in FRACTIONS:
        target = random + fraction * (best - random)
        _, path, checkpoint, index = min(pool, key=lambda candidate: abs(candidate[0] - target))
        trained = load(path, checkpoint)
        state = halved(parallel.select(trained.states, index))
        rungs.append(
            {
                "steps": trained.steps,
                "seed": trained.program.runs[index][1],
                "return": float(deterministic(state)),
                "exploring_return": float(exploring(state)),
            }
        )
        kept.append(acting(state))
    order = sorted(range(len(rungs)), key=lambda i: rungs[i]["exploring_return"])
    rungs, kept = [rungs[i] for i in order], [kept[i] for i in order]
    file = ladders.path_of(plans[0].env)
    file.parent.mkdir(exist_ok=True)
    np.savez_compressed(file, **{name: np.stack([rung[name] for rung in kept]) for name in kept[0]})
    manifest = {
        "env": plans[0].env,
        "agent": "ppo",
        "config": network[0],
        "random_return": random,
        "rungs": rungs,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        **provenance(),
    }
    write_json(file.with_suffix(".json"), manifest)
    return manifest


def candidates(run_dir: str) -> list[tuple[float, str, int, int]]:
    """(training return, run_dir, checkpoint, index of the agent) of every agent at every checkpoint of a run."""
    folder = Folder(run_dir)
    program, table = Program(folder.plan()), logging.read_table(folder.metrics)
    with contextlib.closing(Checkpoints(folder.checkpoints)) as checkpoints:
        chunk_at = {program.steps(chunk): chunk for chunk in checkpoints.all}
    return [
        (score, run_dir, chunk_at[int(step)], int(seed) - program.plan.seed)
        for step, seed, score in zip(table["step"], table["seed"], table["episode/return"])
        if int(step) in chunk_at and np.isfinite(score)
    ]


def halved(state: Any) -> Any:
    """`state` as it is after its parameters were stored in half precision."""
    params = jax.tree.map(lambda x: x.astype(jnp.float16).astype(x.dtype), state.model.params)
    return state._replace(model=state.model._replace(params=params))


def acting(state: Any) -> dict[str, np.ndarray]:
    """The arrays that acting reads, by their place in the state; parameters in half precision."""
    found = {}
    for where, x in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(where)
        if not any(part in name for part in NOT_ACTING):
            found[name] = np.asarray(x, np.float16 if "params" in name else x.dtype)
    return found


def entry(argv=None):
    """Parse flags, choose, and turn what a user can mend into one sentence and a non-zero exit."""
    flags.DEFINE_multi_string("run_dir", [], "Folder of a run of PPO that kept its checkpoints.")
    cli.define_debug_flag()
    app.run(cli.guarded(main), list(sys.argv if argv is None else argv))


if __name__ == "__main__":
    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    entry()
