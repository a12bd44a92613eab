"""Record data: roll out trained agents, or random actions, and write what happened as a dataset for offline agents.

  python -m rljax.experiments.collect --run_dir=runs/ppo-brax-hopper --transitions=100000 --output=hopper.npz
  python -m rljax.experiments.collect --run_dir=runs/medium --run_dir=runs/expert --transitions=100000 --output=mixed.npz
  python -m rljax.experiments.collect --env=gymnax/Pendulum-v1 --transitions=100000 --output=random.npz

Every agent of every run (all seeds and points of a sweep) takes an equal share. Agents explore unless --noexplore is given. The
file is npz as rljax/data/files.py describes it; train on it by --dataset=FILE.
"""

import math
import pathlib
import sys

import jax
import numpy as np
from absl import app, flags

import rljax
from rljax import parallel
from rljax.data import dataset, files
from rljax.data.collect import collect, uniform
from rljax.envs import make as make_env
from rljax.errors import UserError
from rljax.experiments import cli
from rljax.experiments.folder import load
from rljax.types import Transition

FLAGS = flags.FLAGS
DATA = 2  # base of the keys; 0 is training's, 1 evaluation's


def main(argv):
    cli.reject_arguments(argv)
    if not FLAGS.output or pathlib.Path(FLAGS.output).suffix != ".npz":
        raise UserError("--output=FILE.npz must name the file to write.")
    if FLAGS.transitions < 1 or FLAGS.num_envs < 1:
        raise UserError("--transitions and --num_envs must be at least 1.")
    steps = record(FLAGS.env, FLAGS.run_dir, FLAGS.transitions, FLAGS.num_envs, FLAGS.explore, FLAGS.seed)
    pathlib.Path(FLAGS.output).parent.mkdir(parents=True, exist_ok=True)
    files.save(FLAGS.output, steps)
    print(f"{FLAGS.output}: {files.describe(dataset.from_transitions(steps))}")


def record(
    env_name: str | None, run_dirs: list[str], transitions: int, num_envs: int = 16, explore: bool = True, seed: int = 0
) -> Transition:
    """About `transitions` steps [N] of all agents of some runs, or of random actions in `env_name`; arguments are the flags.

    Raises:
      UserError: neither or both of environment and runs are given; the runs are of different environments.
    """
    if bool(env_name) == bool(run_dirs):
        raise UserError("Give runs by --run_dir, or an environment for random actions by --env.")
    if env_name:
        env = make_env(env_name)
        agents = [(uniform(env), ())]
    else:
        runs = [load(path) for path in run_dirs]
        names = sorted({run.program.plan.env for run in runs})
        if len(names) > 1:
            raise UserError(f"The runs are of different environments: {' and '.join(names)}.")
        env = runs[0].program.env
        agents = [
            (run.program.agent(point), parallel.select(run.states, i))
            for run in runs
            for i, (point, _) in enumerate(run.program.runs)
        ]
    length = math.ceil(transitions / (len(agents) * num_envs))
    parts = []
    for i, (agent, state) in enumerate(agents):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(DATA), seed), i)
        run = jax.jit(lambda state, key, agent=agent: collect(env, agent, state, key, num_envs, length, explore))
        parts.append(jax.tree.map(np.asarray, run(state, key)))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def entry(argv=None):
    """Parse flags, record, and turn what a user can mend into one sentence and a non-zero exit."""
    flags.DEFINE_string("env", None, "Environment for random actions, as FAMILY/NAME?OPTION=VALUE&...")
    flags.DEFINE_multi_string(
        "run_dir", [], "Folder of a run; given several times, their data stand one after another."
    )
    flags.DEFINE_integer("transitions", 100_000, "How many to record, rounded up to whole rows of environments.")
    flags.DEFINE_integer("num_envs", 16, "Environments side by side.")
    flags.DEFINE_bool("explore", True, "Act with exploration.")
    flags.DEFINE_integer("seed", 0, "Seed of the episodes.")
    flags.DEFINE_string("output", None, "File to write, FILE.npz.")
    cli.define_debug_flag()
    app.run(cli.guarded(main), list(sys.argv if argv is None else argv))


if __name__ == "__main__":
    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    entry()
