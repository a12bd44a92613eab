"""Train an agent: many seeds, and every point of a sweep, in one compiled program.

  python -m rljax.experiments.train --agent=ppo --env=gymnax/CartPole-v1 --steps=500000 --num_seeds=16

Settings of the agent are --config.NAME=VALUE; their defaults are the agent's own, or those tuned for the environment where
experiments/configs has any. The run's folder gets config.json, metrics.csv, tb/, checkpoints/, curve.png and summary.json.
"""

import sys

from absl import app, flags
from ml_collections import ConfigDict, config_flags

import rljax
from rljax import parallel
from rljax.experiments import cli

FLAGS = flags.FLAGS


def define_flags():
    flags.DEFINE_string("agent", "ppo", "Agent to train.")
    flags.DEFINE_string("env", "gymnax/CartPole-v1", "Environment, as FAMILY/NAME?OPTION=VALUE&...")
    flags.DEFINE_string(
        "dataset",
        "",
        "What an offline agent learns from: a file or ENV/TIER, ?OPTION=VALUE&...; several, joined by ' + ' (see "
        "experiments/datasets.py).",
    )
    flags.DEFINE_string(
        "demonstrations",
        "",
        "What an agent imitates that learns how from a --dataset of all kinds of behaviour; named like that.",
    )
    flags.DEFINE_string(
        "demonstrator",
        "",
        "Whom an agent asks that learns by asking: ENV/TIER, DIR?index=NUMBER of a run, or FILE.h5?rungs=NUMBER.",
    )
    flags.DEFINE_string(
        "start_from",
        "",
        "Folder of a run whose agents, seed by seed, this one begins with; what learnt from data goes on in the environment.",
    )
    flags.DEFINE_string(
        "reward_from",
        "",
        "Folder of a run that learned a reward, which these agents are trained on, seed by seed; they are evaluated by the "
        "environment's own.",
    )
    flags.DEFINE_integer("steps", 500_000, "Environment steps of each run; updates, for an offline agent.")
    flags.DEFINE_integer("num_seeds", 1, "Seeds, run side by side.")
    flags.DEFINE_integer("seed", 0, "The first seed.")
    flags.DEFINE_string("run_dir", None, "Folder of the run; runs/AGENT-ENV by default.")
    flags.DEFINE_multi_string(
        "sweep", [], "NAME=VALUE,VALUE,... of a config field; given several times, all combinations run."
    )
    flags.DEFINE_bool(
        "resume", False, "Continue the run in --run_dir from its last checkpoint; begin it if there is none."
    )
    flags.DEFINE_integer("eval_episodes", 100, "Episodes of each evaluation, in environments of their own.")
    flags.DEFINE_integer("eval_every", 0, "Environment steps between evaluations; 0: only at the end.")
    flags.DEFINE_bool("eval_explore", False, "Evaluate the exploring policy rather than the deterministic one.")
    flags.DEFINE_integer(
        "log_every", 0, "Environment steps of a chunk, after which is logged; 0: about a fiftieth of the run."
    )
    flags.DEFINE_integer("checkpoint_every", 1, "Chunks between checkpoints.", lower_bound=1)
    flags.DEFINE_integer("keep_checkpoints", 2, "How many of the last checkpoints are kept; 0: all.", lower_bound=0)
    flags.DEFINE_enum("layout", "auto", list(parallel.LAYOUTS), "How runs share devices (see rljax/parallel.py).")
    flags.DEFINE_string("wandb", "", "Weights & Biases project to log to.")
    flags.DEFINE_bool("quiet", False, "No progress.")
    cli.define_distributed_flags()


def main(argv):
    cli.reject_arguments(argv)
    cli.start_distributed()
    from rljax.experiments import runner
    from rljax.experiments.folder import Folder

    plan = cli.plan_from_flags()
    folder = Folder(FLAGS.run_dir or cli.default_run_dir(plan))
    summary = runner.run(
        plan, folder, FLAGS.resume, FLAGS.checkpoint_every, FLAGS.keep_checkpoints, FLAGS.quiet, FLAGS.wandb
    )
    if not FLAGS.quiet:
        cli.print_summary(summary, folder)
    runner.check_finite(summary, folder)


def entry(argv=None):
    """Parse flags, run, and turn what a user can mend into one sentence and a non-zero exit."""
    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    argv = list(sys.argv if argv is None else argv)
    define_flags()
    with cli.one_sentence():
        defaults = cli.defaults(argv)
        cli.check_config_flags(argv, defaults)
        config_flags.DEFINE_config_dict("config", ConfigDict(defaults), "Settings of the agent.")
    app.run(cli.guarded(main), argv)


if __name__ == "__main__":
    entry()
