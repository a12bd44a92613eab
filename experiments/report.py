"""Compare runs: learning curves, one picture for each environment, and a Markdown table of what they reached.

  python -m rljax.experiments.report runs/ppo-* runs/sac-* --out=docs/results/hopper

Reads config.json, metrics.csv and summary.json of each folder, so that runs whose checkpoints were thrown away, and those still
under way, can be reported too. Prints the table and writes it as report.md next to the pictures.
"""

import collections
import json
import pathlib
from collections.abc import Iterable

import numpy as np
from absl import app, flags

from rljax import logging, plots
from rljax.errors import UserError
from rljax.experiments import cli
from rljax.experiments.folder import COLUMNS, Folder, file_name
from rljax.experiments.plan import Plan
from rljax.names import nearest

FLAGS = flags.FLAGS
HEADER = ("environment", "agent", "steps", "seeds", "return: IQM (95 %)", "compile s", "train s", "steps/s", "device")


def main(argv):
    if len(argv) < 2:
        raise UserError("Give the folders of runs: python -m rljax.experiments.report DIR...")
    print(report(argv[1:], FLAGS.out, FLAGS.column))


def report(folders: Iterable[str | pathlib.Path], out: str | pathlib.Path, column: str | None = None) -> str:
    """Write report.md and the pictures into `out`; returns the text.

    Args:
      column: of metrics.csv, what the curves show; None: evaluations where all runs have them, else the episodes of training.
    Raises:
      ValueError: a folder that holds no run, or no run has such a column.
    """
    plans = {folder: folder.plan() for folder in map(Folder, dict.fromkeys(map(pathlib.Path, folders)))}
    known = {*COLUMNS, *(name for folder in plans for name in folder.columns())}
    if column is not None and column not in known:
        raise UserError(f"These runs have no column {column!r}; {nearest(column, known)}")
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    names = run_names(plans)
    rows, pictures = [HEADER, ("---",) * len(HEADER)], []
    for env in dict.fromkeys(plan.env for plan in plans.values()):
        runs = {folder: plan for folder, plan in plans.items() if plan.env == env}
        for folder, plan in runs.items():
            rows += table_rows(folder, plan, names[folder])
        pictures += draw(env, runs, names, out / f"{file_name(env)}.png", column)
    text = "\n".join(["| " + " | ".join(row) + " |" for row in rows] + [""] + pictures) + "\n"
    (out / "report.md").write_text(text)
    return text


def run_names(plans: dict[Folder, Plan]) -> dict[Folder, str]:
    """The name of each run: its agent's, with the folder where another run of that agent in that environment is reported."""
    runs = collections.Counter((plan.env, plan.agent) for plan in plans.values())
    folders = collections.Counter(folder.path.name for folder in plans)
    where = {folder: folder.path.name if folders[folder.path.name] == 1 else folder.path for folder in plans}
    return {
        folder: plan.agent if runs[plan.env, plan.agent] == 1 else f"{plan.agent} ({where[folder]})"
        for folder, plan in plans.items()
    }


def named(run_name: str, point_name: str) -> str:
    """The name of a point of a run's sweep."""
    return run_name if point_name == logging.name_of({}) else f"{run_name} {point_name}"


def table_rows(folder: Folder, plan: Plan, name: str) -> list[tuple[str, ...]]:
    """One row for each point of the run's sweep; one that says so for a run that has not finished."""
    if not folder.summary.exists():
        step = int(max(logging.read_table(folder.metrics).get("step", np.zeros(0)), default=0))
        return [(plan.env, name, f"{step:,} of {plan.steps:,}", str(plan.num_seeds), "unfinished", "", "", "", "")]
    summary = json.loads(folder.summary.read_text())
    seconds, rate = summary["seconds"], summary["env_steps_per_second"]
    speed = f"{seconds['compile']:.1f}", f"{seconds['train']:.1f}", f"{rate:,}" if rate else "", summary["device"]
    rows = []
    for entry in summary["sweep"]:
        result, steps = entry["return"], f"{summary['steps']:,}"
        seeds = f"{plan.num_seeds}" + (f" ({result['failed']} failed)" if result["failed"] else "")
        interval = " ({} to {})".format(*map(cli.number, result["ci95"])) if result["ci95"] else ""
        score = cli.number(result["iqm"]) + interval
        rows.append((plan.env, named(name, logging.name_of(entry["point"])), steps, seeds, score, *speed))
    return rows


def draw(
    env: str, runs: dict[Folder, Plan], names: dict[Folder, str], path: pathlib.Path, column: str | None
) -> list[str]:
    """The picture of an environment; returns the lines of Markdown that show it and name the runs that it has no curve of."""
    if column is None:
        columns = {folder.column() for folder in runs}
        column = columns.pop() if len(columns) == 1 else "episode/return"
    shown, found = COLUMNS.get(column, column), {folder: folder.curves(column) for folder in runs}
    curves = {named(names[folder], point): curve for folder in runs for point, curve in found[folder].items()}
    missing = [f"`{names[folder]}`" for folder in runs if not found[folder]]
    if curves:
        plots.learning_curves(curves, path, env, shown)
    return [
        *([f"![{env}]({path.name})", ""] if curves else []),
        *([f"{env}: no {shown} of {', '.join(missing)}.", ""] if missing else []),
    ]


def entry(argv=None):
    """Parse flags, report, and turn what a user can mend into one sentence and a non-zero exit."""
    flags.DEFINE_string("out", "runs/report", "Folder for the pictures and report.md.")
    flags.DEFINE_string(
        "column",
        None,
        "What the curves show, a column of metrics.csv such as policy/entropy; by default evaluations where all runs have them.",
    )
    cli.define_debug_flag()
    app.run(cli.guarded(main), argv)


if __name__ == "__main__":
    entry()
