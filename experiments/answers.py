"""What runs that write tokens answer: pass@k, the chance that one of k drawn answers is right, and the answers themselves.

  python -m rljax.experiments.answers --run_dir=runs/grpo --k=1,8,32 --prompts=200
  python -m rljax.experiments.answers --run_dir=runs/grpo --show=5

Answers are drawn, at the run's temperature, the most of --k for each prompt; right is what the environment pays 1 or more. Prints
the interquartile mean over seeds with its interval, a table for each point of a sweep, and writes answers.json into the run's
folder. With --show nothing is measured: of the first seed, so many prompts are printed, each with its likeliest answer and the
reward of that.
"""

import sys
from typing import Any

import jax
import numpy as np
from absl import app, flags

import rljax
from rljax import completions, logging, parallel
from rljax.errors import UserError
from rljax.evaluate import interquartile_mean
from rljax.experiments import cli
from rljax.experiments.folder import Folder, device, load, write_json
from rljax.losses import outcome
from rljax.tokens import PAD
from rljax.types import initial_memory

FLAGS = flags.FLAGS
ANSWERS = 6  # base of the keys; experiments/ope.py has those before


def main(argv):
    cli.reject_arguments(argv)
    folder = cli.run_folder()
    if FLAGS.show:
        for prompt, answer, reward in first_answers(folder, FLAGS.show, FLAGS.seed):
            print(f"{prompt} {answer}   {reward:g}")
        return
    found = measure(folder, cli.numbers("k", int), FLAGS.prompts, FLAGS.seed)
    for entry in found["sweep"]:
        point = f", {logging.name_of(entry['point'])}" if entry["point"] else ""
        title = f"{found['agent']} on {found['env']}, {found['prompts']} prompts{point}"
        cli.print_scores(title, {f"pass@{k}": result["per_seed"] for k, result in entry["pass_at"].items()})


def measure(folder: Folder, ks: list[int], num_prompts: int = 200, seed: int = 0) -> dict[str, Any]:
    """pass@k of each agent of a run, for each of `ks`; returns what it writes into the folder.

    Raises:
      UserError: there is no such run, it does not write tokens, or there is a k or a number of prompts below 1.
    """
    if min(ks) < 1 or num_prompts < 1 or seed < 0:
        raise UserError("--k and --prompts must be at least 1, and --seed not negative.")
    trained = load(folder.path)
    program = trained.program
    source = completions.groups(program.env, num_prompts, max(ks))
    fleet = program.fleet
    _, points = program.inputs()

    def passes(state, point, key):
        _, batch, _ = source.next((), program.agent(point), state, jax.random.fold_in(key, seed))
        return {k: outcome.pass_at_k(batch.reward >= 1.0, k).mean() for k in ks}

    states = fleet.fill(jax.device_put(trained.states, fleet.replicated))
    keys = fleet.keys([run_seed for _, run_seed in program.runs], ANSWERS)
    found = fleet.to_host(fleet.over(passes)(states, points, keys))
    rows = logging.group(program.runs).values()
    result = {
        "agent": program.plan.agent,
        "env": program.plan.env,
        "steps": trained.steps,
        "prompts": num_prompts,
        "samples": max(ks),
        "seed": seed,
        "sweep": [
            {"point": program.runs[row[0]][0], "pass_at": {k: interquartile_mean(found[k][np.array(row)]) for k in ks}}
            for row in rows
        ],
        "device": device(),
    }
    write_json(folder.path / "answers.json", result)
    return result


def first_answers(folder: Folder, count: int, seed: int = 0) -> list[tuple[str, str, float]]:
    """Prompts, the likeliest answers of a run's first agent to them, and what these are paid.

    Raises:
      UserError: there is no such run, or it does not write tokens.
    """
    trained = load(folder.path)
    env, (point, run_seed) = trained.program.env, trained.program.runs[0]
    completions.check(env.spec)
    agent, state = trained.program.agent(point), parallel.select(trained.states, 0)

    @jax.jit
    def answered(state, key):
        reset_key, act_key, step_key = jax.random.split(key, 3)
        env_state, prompt = jax.vmap(env.reset)(jax.random.split(reset_key, count))
        tokens, *_ = agent.act(state, prompt, initial_memory(agent, count), act_key, False)
        _, following = jax.vmap(env.step)(env_state, tokens, jax.random.split(step_key, count))
        return prompt, tokens, following.reward

    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(ANSWERS), run_seed), seed)  # as the first of `measure`
    readable = getattr(env, "decode", lambda tokens: " ".join(str(x) for x in tokens if x != PAD))
    prompts, tokens, rewards = jax.device_get(answered(state, key))
    return [(readable(prompt), readable(answer), float(paid)) for prompt, answer, paid in zip(prompts, tokens, rewards)]


def entry(argv=None):
    """Parse flags, measure or print, and turn what a user can mend into one sentence and a non-zero exit."""
    flags.DEFINE_list("k", ["1", "8"], "Of pass@k, for each.")
    flags.DEFINE_integer("prompts", 200, "Prompts that each agent is asked.")
    flags.DEFINE_integer("show", 0, "Prompts to print with their answers, rather than measure.", lower_bound=0)
    flags.DEFINE_string("run_dir", None, "Folder of the run.")
    flags.DEFINE_integer("seed", 0, "Seed of prompts and answers.", lower_bound=0)
    cli.define_debug_flag()
    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    app.run(cli.guarded(main), list(sys.argv if argv is None else argv))


if __name__ == "__main__":
    entry()
