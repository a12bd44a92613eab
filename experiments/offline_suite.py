"""The table of offline agents: every row of ROWS on every dataset, a run for each, and a table of normalised scores.

  python -m rljax.experiments.offline_suite --rows=bc,iql --datasets=brax/hopper/medium --run_dir=runs/offline
  python -m rljax.experiments.offline_suite --run_dir=runs/offline        # all of it; what is there already is not run again

A row is an agent with its settings for all environments (experiments/configs) and what sets it apart from its family. A score
is 0 for random actions and 100 for the best policy of the environment's ladder (ladders.py); in mazes it is the share of episodes,
in per cent, that reach the goal. The table goes to --run_dir/table.md too, and its picture to table.png.
"""

import json
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

from absl import app, flags

import rljax
from rljax.errors import UserError
from rljax.experiments import catalog, cli, ladders, runner
from rljax.experiments.folder import Folder, file_name
from rljax.experiments.plan import Plan
from rljax.names import nearest

FLAGS = flags.FLAGS
REBRAC = {
    "average_dimensions": False,
    "normalize_observations": False,
    "layer_norm": True,
    "alpha": 1.0,
    "policy_penalty": 0.01,
    "target_penalty": 0.01,
}
ROWS: dict[str, tuple[str, dict[str, Any], str]] = {  # name: agent, config, options of the dataset
    "bc": ("bc", {}, ""),
    "bc-10": ("bc", {}, "top=0.1"),
    "td3+bc": ("td3_bc", {}, ""),
    "rebrac": ("td3_bc", REBRAC, ""),
    "iql": ("iql", {}, ""),
    "iql-rw": ("iql", {}, "temperature=0.1"),
    "xql": ("iql", {"value_loss": "gumbel", "lean": 2.0}, ""),
    "f-dvl": ("iql", {"value_loss": "chi_square", "lean": 0.7}, ""),
    "awac": ("awac", {}, ""),
    "crr": ("awac", {"weighting": "indicator", "num_samples": 4}, ""),
    "one-step": ("awac", {"one_step": True}, ""),
    "cql": ("cql", {}, ""),
    "sac-n": ("sac_n", {}, ""),
    "edac": ("sac_n", {"diversify": True}, ""),
    "mopo": ("mopo", {}, ""),
    "combo": ("combo", {}, ""),
    "mobile": ("mobile", {}, ""),
    "odice": ("odice", {}, ""),
    "rvs": ("rvs", {}, ""),
    "dt": ("dt", {}, ""),
}
LOCOMOTION = [
    f"brax/{body}/{tier}"
    for body in ("hopper", "halfcheetah", "walker2d")
    for tier in ("medium", "medium-replay", "medium-expert")
]
DATASETS = [*LOCOMOTION, "rljax/PointMaze-medium/navigate", "rljax/PointMaze-medium/stitch"]


def main(argv):
    cli.reject_arguments(argv)
    rows, names = chosen(FLAGS.rows, ROWS, "row"), chosen(FLAGS.datasets, DATASETS, "dataset")
    for name in names:
        for row in rows:
            run(row, name, FLAGS.run_dir, FLAGS.steps, FLAGS.num_seeds)
            text = report(FLAGS.run_dir, rows, names)
            (pathlib.Path(FLAGS.run_dir) / "table.md").write_text(text)
    picture(FLAGS.run_dir, rows, names)
    print(text)


def chosen(names: list[str], known: Iterable[str], what: str) -> list[str]:
    """The names asked for, all that are known by default. Raises UserError for one that is not."""
    for name in names:
        if name not in known:
            raise UserError(f"The table has no {what} {name!r}; {nearest(name, known)}")
    return names or list(known)


def run(row: str, dataset: str, run_dir: str, steps: int, num_seeds: int) -> dict[str, Any]:
    """One cell of the table, run unless its folder holds it already; its summary."""
    agent, changes, options = ROWS[row]
    env = dataset.rpartition("/")[0]
    config = {**catalog.fields(catalog.configure(agent, catalog.tuned(agent, env))), **changes}
    plan = Plan(agent, env, steps, num_seeds, config=config, dataset=f"{dataset}?{options}" if options else dataset)
    return runner.run(plan, folder_of(run_dir, row, dataset), resume=True, quiet=True)


def summaries(run_dir: str, rows: list[str], names: list[str]) -> dict[tuple[str, str], dict]:
    """Those of the cells that have been run, by row and dataset."""
    found = {(row, name): folder_of(run_dir, row, name).summary for row in rows for name in names}
    return {cell: json.loads(path.read_text()) for cell, path in found.items() if path.exists()}


def picture(run_dir: str, rows: list[str], names: list[str]) -> None:
    """Scores of the cells that have been run, with their intervals, a panel for each dataset, as table.png."""
    from matplotlib.figure import Figure

    found = summaries(run_dir, rows, names)
    figure = Figure(figsize=(3.2 * len(names) + 1, 0.3 * len(rows) + 1.2), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, names):
        panel.set(title=name, xlabel="score", yticks=range(len(rows)), yticklabels=rows)
        for y, row in enumerate(rows):
            if (row, name) in found:
                returns = found[row, name]["return"]
                middle, low, high = (score(name, x) for x in (returns["iqm"], *returns["ci95"]))
                panel.errorbar(middle, y, xerr=[[middle - low], [high - middle]], fmt="o", color="tab:blue")
        panel.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    figure.savefig(pathlib.Path(run_dir) / "table.png", dpi=80)


def report(run_dir: str, rows: list[str], names: list[str]) -> str:
    """The cells that have been run, as a Markdown table: the IQM over seeds of the score, and its interval. The first row is the
    data's own: the mean return of their episodes."""
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    found = summaries(run_dir, rows, names)
    whole = {name: summary for (row, name), summary in found.items() if not ROWS[row][2]}
    data = [f"{score(name, whole[name]['dataset']['mean_return']):.0f}" if name in whole else "" for name in names]
    lines.append("| data | " + " | ".join(data) + " |")
    for row in rows:
        cells = [cell(name, found[row, name]["return"]) if (row, name) in found else "" for name in names]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(dataset: str, returns: dict[str, Any]) -> str:
    low, high = (score(dataset, bound) for bound in returns["ci95"])
    return f"**{score(dataset, returns['iqm']):.0f}** ({low:.0f} to {high:.0f})"


def score(dataset: str, mean_return: float) -> float:
    """A return in a dataset's environment between that of random actions (0) and of the best policy known (100)."""
    low, high = ladders.references(dataset.rpartition("/")[0]) or (0.0, 1.0)
    return 100.0 * (mean_return - low) / (high - low)


def folder_of(run_dir: str, row: str, dataset: str) -> Folder:
    return Folder(pathlib.Path(run_dir) / f"{row}-{file_name(dataset)}")


def entry(argv=None):
    """Parse flags, run, and turn what a user can mend into one sentence and a non-zero exit."""
    flags.DEFINE_list("rows", [], "Rows of the table, by default all.")
    flags.DEFINE_list("datasets", [], "Its columns, by default all.")
    flags.DEFINE_string("run_dir", "runs/offline", "Folder of the runs, one folder for each, and of table.md.")
    flags.DEFINE_integer("steps", 20_000, "Updates of each run.", lower_bound=1)
    flags.DEFINE_integer("num_seeds", 6, "Seeds of each run.", lower_bound=2)
    cli.define_debug_flag()
    app.run(cli.guarded(main), list(sys.argv if argv is None else argv))


if __name__ == "__main__":
    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    entry()
