"""Evaluate what a run has learnt: the last checkpoint's agent of every seed and every point of its sweep.

  python -m rljax.experiments.evaluate --run_dir=runs/ppo-brax-hopper --episodes=1000 --seed=1
  python -m rljax.experiments.evaluate --run_dir=runs/ppo-brax-hopper --env='brax/hopper?backend=mjx'
  python -m rljax.experiments.evaluate --run_dir=runs/ppo-brax-hopper --env=gymnasium/Hopper-v5 --episodes=10
  python -m rljax.experiments.evaluate --policies='trpo_hopper.h5?rungs=20,40' --env=gymnasium/Hopper-v4 --episodes=10

On the run's own environment, another of ours, or one of Gymnasium, which is stepped on the host. Prints the table that training
ends with and writes evaluation-ENV.json into the run's folder, in the form of its summary.json. On the run's own environment,
--seed=0 gives the episodes of its own evaluations again, and another seed new ones.

Of the policies of a file (experiments/policies) the mean return and length are printed, and nothing is written; they explore unless
--noexplore is given.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from absl import app, flags

import rljax
from rljax.envs import make as make_env
from rljax.envs import on_host
from rljax.errors import UserError
from rljax.evaluate import Episodes, evaluate
from rljax.experiments import cli, policies
from rljax.experiments import on_host as host
from rljax.experiments.folder import Folder, Trained, device, load, write_json
from rljax.experiments.runner import EVALUATION, summarise
from rljax.types import EnvSpec

FLAGS = flags.FLAGS


def main(argv):
    cli.reject_arguments(argv)
    if FLAGS.policies:
        if FLAGS.run_dir or not FLAGS.env or FLAGS.episodes < 1:
            raise UserError("--policies=FILE.h5 wants an --env, at least one of --episodes, and no --run_dir.")
        explore = True if FLAGS.explore is None else FLAGS.explore
        evaluate_policies(FLAGS.policies, FLAGS.env, FLAGS.episodes, explore, FLAGS.seed)
        return
    folder = cli.run_folder()
    summary = evaluate_run(folder, FLAGS.env, FLAGS.episodes, FLAGS.explore, FLAGS.seed)
    cli.print_table(summary)
    print(folder.evaluation(summary["env"], summary["eval_explore"]))


def evaluate_run(
    folder: Folder, env: str | None = None, num_episodes: int = 100, explore: bool | None = None, seed: int = 0
) -> dict[str, Any]:
    """Evaluate all agents of a run; returns what it writes into the folder. Arguments are the flags.

    Raises:
      ValueError: no such run, checkpoint or environment, or the environment's shapes are not those of the agent.
    """
    if num_episodes < 1 or seed < 0:
        raise UserError(f"--episodes={num_episodes} must be at least 1 and --seed={seed} not negative.")
    trained = load(folder.path)
    plan = trained.program.plan
    env, explore = env or plan.env, plan.eval_explore if explore is None else explore
    if on_host(env):
        returns = host.evaluate_run(trained, env, num_episodes, explore, seed, quiet=False)
    else:
        returns = on_device(trained, env, num_episodes, explore, seed)
    plan = dataclasses.replace(plan, env=env, eval_episodes=num_episodes)
    summary = summarise(plan, trained.program, returns.mean(axis=1))
    summary |= {"steps": trained.steps, "eval_explore": explore, "eval_seed": seed, "device": device()}
    write_json(folder.evaluation(env, explore), summary)
    return summary


def on_device(trained: Trained, env_name: str, num_episodes: int, explore: bool, seed: int) -> np.ndarray:
    """Returns [S, num_episodes] in an environment of ours: all agents in one program, laid out as they were for training."""
    program, env = trained.program, make_env(env_name)
    check_fits(env_name, env.spec, program.env.spec)
    fleet = program.fleet
    states = fleet.fill(jax.device_put(trained.states, fleet.replicated))
    keys = fleet.keys([run_seed for _, run_seed in program.runs], EVALUATION + seed)
    _, points = program.inputs()

    def returns(state, point, key):
        return evaluate(env, program.agent(point), state, key, num_episodes, explore).returns

    return fleet.to_host(fleet.over(returns)(states, points, keys))


def evaluate_policies(
    names: list[str], env_name: str, num_episodes: int = 100, explore: bool = True, seed: int = 0
) -> dict[str, Episodes]:
    """Episodes in `env_name` of each policy of some files (see experiments/policies). Arguments are the flags.

    Raises:
      UserError: no such file, policy or environment, or they do not fit.
    """
    env, found = make_env(env_name), {}
    for name in names:
        for rung, (agent, state) in policies.load(name, env).items():
            key = jax.random.fold_in(jax.random.key(EVALUATION), seed)
            if on_host(env_name):
                found[rung] = host.evaluate(env.env_id, env.spec, agent, state, key, num_episodes, explore)
            else:
                run = jax.jit(lambda state, key, agent=agent: evaluate(env, agent, state, key, num_episodes, explore))
                found[rung] = jax.device_get(run(state, key))
            cli.print_episodes(rung, found[rung])
    return found


def check_fits(env_name: str, theirs: EnvSpec, ours: EnvSpec) -> None:
    """Raises ValueError where an agent for environments of the spec `ours` cannot act in `env_name`, whose spec is `theirs`."""
    for what, there, here in (
        ("observations of shape", theirs.observation_shape, ours.observation_shape),
        ("actions", theirs.action, ours.action),
    ):
        if there != here:
            raise UserError(f"{env_name} has {what} {there}, but the agent was trained with {here}.")


def entry(argv=None):
    """Parse flags, evaluate, and turn what a user can mend into one sentence and a non-zero exit."""
    flags.DEFINE_string(
        "env", None, "Environment, as FAMILY/NAME?OPTION=VALUE&... or gymnasium/ID; by default the run's own."
    )
    flags.DEFINE_multi_string("policies", [], "File of policies, FILE.h5?rungs=NUMBER,..., rather than a run.")
    flags.DEFINE_integer("episodes", 100, "Episodes of each agent.")
    cli.define_acting_flags()
    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    app.run(cli.guarded(main), argv)


if __name__ == "__main__":
    entry()
