"""Evaluate what a run has learnt: the last checkpoint's agent of every seed and every point of its sweep.

  python -m rljax.experiments.evaluate --run_dir=runs/ppo-brax-hopper --episodes=1000 --seed=1
  python -m rljax.experiments.evaluate --run_dir=runs/ppo-brax-hopper --env='brax/hopper?backend=mjx'
  python -m rljax.experiments.evaluate --run_dir=runs/ppo-brax-hopper --env=gymnasium/Hopper-v5 --episodes=10

On the run's own environment, another of ours, or one of Gymnasium, which is stepped on the host. Prints the table that training
ends with and writes evaluation-ENV.json into the run's folder, in the form of its summary.json. On the run's own environment,
--seed=0 gives the episodes of its own evaluations again, and another seed new ones.
"""

import dataclasses
import functools
import sys
from typing import Any

import jax
import numpy as np
from absl import app, flags

import rljax
from rljax import parallel
from rljax.envs import make as make_env
from rljax.errors import UserError
from rljax.evaluate import evaluate
from rljax.experiments import cli
from rljax.experiments.folder import Folder, Trained, device, load, write_json
from rljax.experiments.runner import EVALUATION, summarise
from rljax.types import EnvSpec, initial_memory

FLAGS = flags.FLAGS
GYMNASIUM = "gymnasium/"


def main(argv):
    cli.reject_arguments(argv)
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
    if env.startswith(GYMNASIUM):
        returns = in_gymnasium(trained, env.removeprefix(GYMNASIUM), num_episodes, explore, seed)
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


def in_gymnasium(trained: Trained, env_id: str, num_episodes: int, explore: bool, seed: int) -> np.ndarray:
    """Returns [S, num_episodes] in an environment of Gymnasium, one agent after another."""
    try:
        from gymnasium.error import Error

        from rljax.envs.gymnasium import evaluate_in_gymnasium
    except ImportError as error:
        raise UserError(str(error)) from error
    program, returns = trained.program, []

    @jax.jit
    def act(state, point, observation, memory, key):
        return program.agent(point).act(state, observation, memory, key, explore)[:2]

    for i, (point, run_seed) in enumerate(program.runs):
        policy = functools.partial(act, parallel.select(trained.states, i), point)
        memory = initial_memory(program.agent(point), 1)
        try:
            receive = program.agent(point).receive
            scores = evaluate_in_gymnasium(
                policy, env_id, num_episodes, seed + run_seed, memory, program.env.spec, receive
            )
        except (Error, ImportError) as error:  # no such environment, or what it needs is not installed
            raise UserError(f"Gymnasium cannot make {env_id!r}: {error}") from error
        print(f"agent {i + 1} of {len(program.runs)}: {cli.number(scores.mean())}", file=sys.stderr)
        returns.append(scores)
    return np.stack(returns)


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
    flags.DEFINE_integer("episodes", 100, "Episodes of each agent.")
    cli.define_acting_flags()
    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    app.run(cli.guarded(main), argv)


if __name__ == "__main__":
    entry()
