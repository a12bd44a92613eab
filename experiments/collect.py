"""Record data: roll out trained agents, policies of files or random actions, and write what happened for offline agents.

  python -m rljax.experiments.collect --run_dir=runs/ppo-brax-hopper --transitions=100000 --output=hopper.npz
  python -m rljax.experiments.collect --run_dir=runs/medium --run_dir=runs/expert --transitions=100000 --output=mixed.npz
  python -m rljax.experiments.collect --env=gymnax/Pendulum-v1 --transitions=100000 --output=random.npz
  python -m rljax.experiments.collect --run_dir=runs/clone --noise=0,0.25,0.5,0.75,1 --transitions=100000 --output=ranked.npz
  python -m rljax.experiments.collect --env=gymnasium/Hopper-v4 --policies='trpo_hopper.h5?rungs=20,40' --output=hopper-v0
  python -m rljax.experiments.collect --run_dir=runs/sft --transitions=8000 --group_size=8 --output=own.jsonl
  python -m rljax.experiments.collect --env=tokens/sort-8 --transitions=8000 --output=right.jsonl

Every agent of every run (all seeds and points of a sweep) and every policy takes an equal share. They explore unless --noexplore is
given. What is written is decided by the name: FILE.npz, FILE.hdf5 in D4RL's layout, or NAME-v0, a folder that Minari opens (see
rljax/data/files.py); train on each by --dataset=NAME. The first two hold the actions' log-likelihoods too where all agents know
them, for off-policy evaluation.

With --noise each acts again and again, and the given shares of actions are random instead. The less of it the better an episode
should be, so the data rank themselves: --dataset='ranked.npz?preferences=5000&teacher=noise' has judgements by it (D-REX).

Where actions are completions of tokens, FILE.jsonl (see rljax/data/jsonl.py) gets --group_size of them for each prompt, and what
they were paid; of an environment alone it gets the right answers, one a prompt.

Environments of Gymnasium are stepped on the host, one at a time, so their episodes are whole but for the last of each agent.
Elsewhere the last episode of each of --num_envs is cut; by default there are few enough for most to be whole.
"""

import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import rljax
from rljax import parallel
from rljax.agents.behaviour import noisy
from rljax.completions import Completions, examples, groups
from rljax.data import dataset, files, jsonl
from rljax.data.collect import collect, side_by_side, uniform
from rljax.envs import make as make_env
from rljax.envs import on_host
from rljax.errors import UserError
from rljax.experiments import cli, policies
from rljax.experiments import on_host as host
from rljax.experiments.folder import load
from rljax.types import Agent, Env, Tokens, Transition

FLAGS = flags.FLAGS
NUM_ENVS = 16
AT_ONCE = 256  # prompts that are answered together
DATA = 2  # base of the keys; 0 is training's, 1 evaluation's


def main(argv):
    cli.reject_arguments(argv)
    if not FLAGS.output:
        raise UserError("--output=NAME must name what to write: FILE.npz, FILE.hdf5 or, for Minari, NAME-v0.")
    if FLAGS.output.endswith(jsonl.SUFFIX):
        if FLAGS.noise or FLAGS.policies or FLAGS.num_envs or not FLAGS.explore:
            raise UserError(
                f"{FLAGS.output} takes completions that differ: no --noise, --policies, --num_envs or --noexplore."
            )
        written = write(FLAGS.env, FLAGS.run_dir, FLAGS.transitions, FLAGS.group_size, FLAGS.seed)
        jsonl.save(FLAGS.output, written)
        print(f"{FLAGS.output}: {jsonl.describe(written)}")
        return
    files.check_name(FLAGS.output)
    noise = cli.numbers("noise") if FLAGS.noise else []
    if noise and not pathlib.Path(FLAGS.output).suffix:
        raise UserError(
            "Only FILE.npz and FILE.hdf5 say how much --noise there was; Minari's layout has no place for it."
        )
    env_name, env, agents = actors(FLAGS.env, FLAGS.run_dir, FLAGS.policies)
    if isinstance(env.spec.action, Tokens):
        raise UserError(f"Completions of tokens are written to NAME{jsonl.SUFFIX}, not to {FLAGS.output}.")
    steps = roll(env_name, env, agents, FLAGS.transitions, FLAGS.num_envs, FLAGS.explore, FLAGS.seed, noise)
    files.save(FLAGS.output, steps, env.spec)
    print(f"{FLAGS.output}: {files.describe(dataset.from_transitions(steps))}")


def record(
    env_name: str | None,
    run_dirs: Sequence[str],
    transitions: int,
    num_envs: int | None = None,
    explore: bool = True,
    seed: int = 0,
    policy_names: Sequence[str] = (),
    noise: Sequence[float] = (),
) -> Transition:
    """About `transitions` steps [N] of all agents of some runs, of policies or of random actions in `env_name`; arguments are the
    flags.

    Raises:
      UserError: see `actors` and `roll`.
    """
    return roll(*actors(env_name, run_dirs, policy_names), transitions, num_envs, explore, seed, noise)


def actors(
    env_name: str | None, run_dirs: Sequence[str], policy_names: Sequence[str] = ()
) -> tuple[str, Env, list[tuple[Agent, Any]]]:
    """The environment by name and itself, and who acts in it: agents and their states.

    Raises:
      UserError: neither or both of environment and runs are given, policies without an environment or that do not fit it;
        the runs are of different environments.
    """
    if bool(env_name) == bool(run_dirs) or (policy_names and run_dirs):
        raise UserError(
            "Give runs by --run_dir, or an environment by --env: for random actions or, with --policies, for those of a file."
        )
    if env_name:
        env = make_env(env_name)
        found = [actor for name in policy_names for actor in policies.load(name, env).values()]
        return env_name, env, found or [(uniform(env), ())]
    runs = [load(path) for path in run_dirs]
    names = sorted({run.program.plan.env for run in runs})
    if len(names) > 1:
        raise UserError(f"The runs are of different environments: {' and '.join(names)}.")
    agents = [
        (run.program.agent(point), parallel.select(run.states, i))
        for run in runs
        for i, (point, _) in enumerate(run.program.runs)
    ]
    return names[0], runs[0].program.env, agents


def roll(
    env_name: str,
    env: Env,
    agents: list[tuple[Agent, Any]],
    transitions: int,
    num_envs: int | None = None,
    explore: bool = True,
    seed: int = 0,
    noise: Sequence[float] = (),
) -> Transition:
    """About `transitions` steps [N], those of one agent after those of another.

    Args:
      noise: shares of random actions, each of which every agent acts with; the steps tell it in their extras.
      num_envs: environments side by side; None: NUM_ENVS, fewer where episodes would be cut; on the host there is but one.
    Raises:
      UserError: no steps or environments are asked for, several environments on the host, or shares that are none.
    """
    if any(not 0.0 <= share <= 1.0 for share in noise):
        raise UserError(f"--noise={','.join(f'{share:g}' for share in noise)} must be shares of actions, from 0 to 1.")
    shares = [share for _ in agents for share in noise]
    if noise:
        agents = [(noisy.make(env.spec, agent), state) for agent, state in agents]
        agents = [(agent, noisy.State(jnp.float32(share), state)) for agent, state in agents for share in noise]
    many = 1 if on_host(env_name) else side_by_side(env, transitions // len(agents), NUM_ENVS)
    num_envs = many if num_envs is None else num_envs
    if transitions < 1 or num_envs < 1:
        raise UserError("--transitions and --num_envs must be at least 1.")
    if on_host(env_name) and num_envs > 1:
        raise UserError(f"{env_name} is stepped on the host, one environment at a time: leave out --num_envs.")
    length = math.ceil(transitions / (len(agents) * num_envs))
    parts = []
    programs: dict[int, Any] = {}  # one for all shares of noise
    for i, (agent, state) in enumerate(agents):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(DATA), seed), i)
        if on_host(env_name):
            parts.append(host.collect(env.env_id, env.spec, agent, state, key, length, explore))
        else:
            run = lambda state, key, agent=agent: collect(env, agent, state, key, num_envs, length, explore)
            parts.append(jax.tree.map(np.asarray, programs.setdefault(id(agent), jax.jit(run))(state, key)))
    if not all("log_prob" in steps.extras for steps in parts):
        parts = [steps.replace(extras={}) for steps in parts]
    for i, share in enumerate(shares):
        parts[i] = parts[i].replace(extras={"noise": np.full(len(parts[i].reward), share, np.float32)})
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def write(
    env_name: str | None, run_dirs: Sequence[str], transitions: int, group_size: int, seed: int = 0
) -> Completions:
    """About `transitions` completions, equally many by each agent of some runs, `group_size` for each prompt; or the right answers
    of an environment, one a prompt.

    Raises:
      UserError: as `actors`; actions are no completions, none are asked for, or nobody tells what would be right.
    """
    _, env, agents = actors(env_name, run_dirs)
    if transitions < 1 or group_size < 1:
        raise UserError("--transitions and --group_size must be at least 1.")
    group_size = 1 if env_name else group_size
    prompts = math.ceil(transitions / (len(agents) * group_size))
    source = examples(env, min(prompts, AT_ONCE)) if env_name else groups(env, min(prompts, AT_ONCE), group_size)
    parts = []
    for i, (agent, state) in enumerate(agents):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(DATA), seed), i)
        run = jax.jit(lambda state, key, agent=agent: source.next((), agent, state, key)[1])
        found = [run(state, key) for key in jax.random.split(key, math.ceil(prompts / AT_ONCE))]
        parts.append(jax.tree.map(lambda *x: np.concatenate(x)[:prompts], *found))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def entry(argv=None):
    """Parse flags, record, and turn what a user can mend into one sentence and a non-zero exit."""
    flags.DEFINE_string(
        "env", None, "Environment for random actions or --policies, as FAMILY/NAME?OPTION=VALUE&... or gymnasium/ID."
    )
    flags.DEFINE_multi_string("policies", [], "File of policies that act in --env, FILE.h5?rungs=NUMBER,...")
    flags.DEFINE_multi_string(
        "run_dir", [], "Folder of a run; given several times, their data stand one after another."
    )
    flags.DEFINE_integer("transitions", 100_000, "How many to record, rounded up to whole rows of environments.")
    flags.DEFINE_integer(
        "num_envs",
        None,
        f"Environments side by side: {NUM_ENVS} or fewer, so that most episodes are whole; 1 of Gymnasium's, stepped on the host.",
    )
    flags.DEFINE_bool("explore", True, "Act with exploration.")
    flags.DEFINE_list("noise", [], "Shares of actions that are random instead, each of which every agent acts with.")
    flags.DEFINE_integer("seed", 0, "Seed of the episodes.")
    flags.DEFINE_integer("group_size", 8, "Completions of each prompt, in FILE.jsonl.")
    flags.DEFINE_string(
        "output",
        None,
        "What to write: FILE.npz, FILE.hdf5 (D4RL's layout), NAME-v0 (Minari's) or FILE.jsonl (completions).",
    )
    cli.define_debug_flag()
    app.run(cli.guarded(main), list(sys.argv if argv is None else argv))


if __name__ == "__main__":
    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    entry()
