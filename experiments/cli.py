"""What the binaries share: flags read early, errors in one sentence, the tables that people see."""

import contextlib
import errno
import json
import pathlib
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
from absl import flags, logging

from rljax.errors import UserError
from rljax.experiments import catalog
from rljax.experiments.folder import Folder, file_name
from rljax.experiments.plan import Plan
from rljax.names import nearest

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # what is defined here is the binary's own and stands in its --help
PLAN_FLAGS = (
    "agent",
    "env",
    "dataset",
    "demonstrations",
    "demonstrator",
    "steps",
    "num_seeds",
    "seed",
    "eval_episodes",
    "eval_every",
    "eval_explore",
    "log_every",
    "layout",
    "start_from",
    "reward_from",
)
INHERITED = (
    "agent",
    "env",
    "dataset",
    "demonstrations",
    "demonstrator",
    "num_seeds",
    "seed",
)  # by a run that starts from another's agents


def peek(argv: list[str], name: str) -> str | None:
    """The value of a string flag before flags are parsed."""
    for i, word in enumerate(argv):
        if word.lstrip("-") == name and word.startswith("-") and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith((f"--{name}=", f"-{name}=")):
            return word.split("=", 1)[1]
    return None


def defaults(argv: list[str]) -> dict[str, Any]:
    """The config that --config.NAME=VALUE changes: of the run to resume or start from, or the agent's, tuned for the environment.

    The other flags of a run to resume become defaults too, so that `--resume --run_dir=DIR` is enough. Of a run to start from
    those of INHERITED do, and what learnt from data goes on in the environment, so that `--start_from=DIR --steps=N` is.
    """
    folder, resume = peek(argv, "run_dir"), "--resume" in argv or "--resume=true" in argv
    saved_path = pathlib.Path(folder or ".") / "config.json"
    if folder and resume and saved_path.exists():
        saved = Plan.from_json(json.loads(saved_path.read_text()))
        for name in PLAN_FLAGS:
            FLAGS.set_default(name, getattr(saved, name))
        FLAGS.set_default("sweep", [f"{k}={','.join(map(str, v))}" for k, v in saved.sweep.items()])
        return saved.config
    if start_from := peek(argv, "start_from"):
        initial = Folder(start_from).plan()
        agent = peek(argv, "agent") or initial.agent
        for name in INHERITED:
            if name in catalog.GIVEN and not catalog.takes(agent, name):
                continue
            if name == "dataset" and agent != initial.agent and not catalog.needs_data(agent):
                continue  # another agent, which can do without
            FLAGS.set_default(name, getattr(initial, name))
        if peek(argv, "agent") in (None, initial.agent):
            config = catalog.fields(catalog.configure(initial.agent, initial.config))
            if catalog.needs_data(initial.agent) and "online" not in config and "num_envs" not in config:
                raise UserError(
                    f"--start_from={start_from} is a run of {initial.agent}, which learns from data alone and cannot go on in the "
                    "environment."
                )
            return config | ({"online": True} if "online" in config else {})
    agent, env = peek(argv, "agent") or FLAGS["agent"].default, peek(argv, "env") or FLAGS["env"].default
    config = catalog.agent(agent).Config()
    return catalog.fields(config.replace(**catalog.tuned(agent, env)))


def check_config_flags(argv: list[str], known: dict[str, Any]) -> None:
    """Raises ValueError for --config.NAME of a field that there is not."""
    for word in argv[1:]:
        if word.startswith(("--config.", "-config.")):
            name = word.lstrip("-").split("=")[0].removeprefix("config.")
            if name not in known:
                raise UserError(f"There is no config field {name!r}; {nearest(name, known)}")


def plan_from_flags() -> Plan:
    """The plan that the flags describe. Raises ValueError for a malformed --sweep."""
    sweep = {}
    for text in FLAGS.sweep:
        name, _, values = text.partition("=")
        try:
            sweep[name] = [float(value) for value in values.split(",")]
        except ValueError:
            raise UserError(f"--sweep={text} must look like --sweep=learning_rate=1e-4,3e-4.") from None
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in FLAGS.config.to_dict().items()}
    return Plan(config=config, sweep=sweep, **{name: getattr(FLAGS, name) for name in PLAN_FLAGS})


def default_run_dir(plan: Plan) -> str:
    """runs/AGENT-ENV, with what cannot be in a file's name replaced; another one for what takes something from a run."""
    taken = "-continued" * bool(plan.start_from) + "-by-learned-reward" * bool(plan.reward_from)
    return f"runs/{plan.agent}-{file_name(plan.env)}{taken}"


@contextlib.contextmanager
def one_sentence():
    """Turns what a user can mend into one sentence on stderr and exit status 2; a signal into 128 + its number."""
    from rljax.experiments.runner import Stopped

    try:
        yield
    except Stopped as stopped:
        print(f"\nStopped by {stopped}; everything so far is saved: add --resume to continue.", file=sys.stderr)
        sys.exit(128 + stopped.number)
    except KeyboardInterrupt:
        print("\nStopped before anything was trained.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except UserError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG):
            raise
        print(
            f"error: cannot write {error.filename or 'to disk'}: {error.strerror}; the last checkpoint stands.",
            file=sys.stderr,
        )
        sys.exit(2)


def guarded(main: Callable) -> Callable:
    """`main` with its errors in one sentence."""

    def run(argv):
        logging.set_verbosity(logging.WARNING)
        warnings.filterwarnings("ignore", category=UserWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        with one_sentence():
            main(argv)

    return run


def reject_arguments(argv: list[str]) -> None:
    """Raises ValueError where there is anything but flags."""
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}: flags are given as --name=value.")


def define_debug_flag() -> None:
    flags.DEFINE_bool("debug", False, "Show the traceback of errors.")


def numbers(name: str, kind: type = float, least: int = 1) -> list:
    """What a flag of a list says, `least` numbers or more. Raises UserError."""
    flag = FLAGS[name]
    try:
        found = [kind(text) for text in flag.value]
    except ValueError:
        found = []
    if len(found) < least:
        wanted = f"{least} or more {'whole ' * (kind is int)}numbers"
        example = f", as in --{name}={','.join(flag.default)}" if flag.default else ""
        raise UserError(f"--{name}={','.join(flag.value)} must be {wanted}{example}.")
    return found


def define_acting_flags() -> None:
    """Of the binaries that let a trained run act."""
    flags.DEFINE_string("run_dir", None, "Folder of the run.")
    flags.DEFINE_bool("explore", None, "Act with exploration or without; by default as the run's own evaluations did.")
    flags.DEFINE_integer("seed", 0, "Seed of the episodes.")
    define_debug_flag()


def run_folder() -> Folder:
    """The folder that --run_dir names, with a run in it. Raises ValueError."""
    if not FLAGS.run_dir:
        raise UserError("--run_dir=DIR must name the folder of a run.")
    folder = Folder(FLAGS.run_dir)
    folder.plan()
    return folder


def define_distributed_flags() -> None:
    define_debug_flag()
    flags.DEFINE_bool("distributed", False, "Join the hosts of a pod: run the same command on each.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of the first host, where JAX does not find it by itself.")
    flags.DEFINE_integer("num_processes", None, "Number of hosts, where JAX does not find it by itself.")
    flags.DEFINE_integer("process_id", None, "This host's number, where JAX does not find it by itself.")


def start_distributed() -> None:
    """Join the hosts, if asked to."""
    if FLAGS.distributed:
        jax.distributed.initialize(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)


def print_table(summary: dict[str, Any]) -> None:
    """The returns of each point of a sweep."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{summary['agent']} on {summary['env']}, {summary['steps']:,} steps, {summary['num_seeds']} seeds"
    )
    names = list(summary["sweep"][0]["point"])
    for name in [*names, "return (IQM)", "95 % interval", "mean", "std", "min", "max"]:
        table.add_column(name, justify="right")
    for entry in summary["sweep"]:
        result = entry["return"]
        seeds = [x for x in result["per_seed"] if x is not None]
        low, high = result["ci95"] or (None, None)
        numbers = [result["mean"], result["std"], min(seeds, default=None), max(seeds, default=None)]
        table.add_row(
            *(f"{entry['point'][name]:g}" for name in names),
            number(result["iqm"]),
            f"{number(low)} to {number(high)}" if result["ci95"] else "",
            *map(number, numbers),
        )
    Console().print(table)


def print_scores(title: str, scores: dict[str, Any]) -> None:
    """Of each name's scores, one for each seed: the IQM and its interval, the mean, and how many are finite."""
    from rich.console import Console
    from rich.table import Table

    from rljax.evaluate import interquartile_mean

    table = Table("", title=title)
    for name in ("IQM", "95 % interval", "mean", "seeds"):
        table.add_column(name, justify="right")
    for name, found in scores.items():
        found = interquartile_mean(found)
        interval = " to ".join(f"{x:.4g}" for x in found["ci95"] or ())
        centre = ["" if found[x] is None else f"{found[x]:.4g}" for x in ("iqm", "mean")]
        finite = len(found["per_seed"]) - found["failed"]
        table.add_row(name, centre[0], interval, centre[1], f"{finite} of {len(found['per_seed'])}")
    Console().print(table)


def print_summary(summary: dict[str, Any], folder: Folder) -> None:
    """The final table, what it took, and where the files are."""
    if jax.process_index() != 0:
        return
    print_table(summary)
    seconds, rate = summary["seconds"], summary["env_steps_per_second"]
    print(
        f"compile {seconds['compile']:.1f} s, train {seconds['train']:.1f} s, evaluate {seconds['evaluate']:.1f} s"
        + (f"; {rate:,} environment steps/s" if rate else "")
        + f" on {summary['device']}\n{folder.path}: {folder.curve.name}, {folder.metrics.name}, {folder.summary.name}, "
        f"{folder.checkpoints.name}/, {folder.tensorboard.name}/"
    )


def print_episodes(name: str, episodes: Any) -> None:
    """One line of what a policy reached: mean and standard deviation of returns, mean length."""
    returns, lengths = episodes.returns, episodes.lengths
    print(
        f"{name}: return {number(returns.mean())} +- {number(returns.std())}, length {number(lengths.mean())}",
        flush=True,
    )


def number(x: float | None) -> str:
    """A return as people read it: 1,234.5 or 0.972; nothing for None."""
    if x is None:
        return ""
    return f"{x:,.1f}" if abs(x) >= 10 else f"{x:.3g}"
