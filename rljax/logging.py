"""Metrics out of a run: a tidy table, TensorBoard, Weights & Biases, and what a person sees while waiting."""

import csv
import math
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from rljax.errors import UserError


class Table:
    """A CSV file with one row for each run (seed, point of the sweep) and step. Empty cells: nothing was measured.

    The columns are those of the first row written; they do not change.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._columns: list[str] | None = None

    def keep_until(self, step: int) -> None:
        """Drop rows later than `step`, and a last row that was cut short: what a crash left after its last checkpoint."""
        if not self.path.exists():
            return
        rows = _rows(self.path)
        self._columns = rows[0] if rows else None
        kept = [row for row in rows[1:] if int(row[0]) <= step]
        aside = self.path.with_suffix(".tmp")
        with aside.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows[:1] + kept)
        os.replace(aside, self.path)

    def write(self, step: int, runs: Sequence[tuple[dict[str, float], int]], metrics: dict[str, np.ndarray]) -> None:
        """`metrics` [S] of the runs (point, seed) at `step`."""
        point_names = list(runs[0][0])
        if self._columns is None:
            self._columns = ["step", "seed", *point_names, *sorted(metrics)]
            with self.path.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(self._columns)
        names = self._columns[2 + len(point_names) :]
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            for i, (point, seed) in enumerate(runs):
                values = [_cell(metrics[name][i]) if name in metrics else "" for name in names]
                writer.writerow([step, seed, *point.values(), *values])


def read_table(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The columns of a table as arrays; empty cells are NaN. Nothing where there is no file yet."""
    rows = _rows(path) if path.exists() else []
    if not rows:
        return {}
    columns = zip(*rows[1:]) if len(rows) > 1 else [[] for _ in rows[0]]
    return {name: np.array([float(x) if x else np.nan for x in column]) for name, column in zip(rows[0], columns)}


def _rows(path: pathlib.Path) -> list[list[str]]:
    """The rows of a table, without a last one that was cut short."""
    with path.open(newline="") as file:
        return list(csv.reader(line for line in file if line.endswith("\n")))


class TensorBoard:
    """Means over the seeds of each point of a sweep, a folder a point."""

    def __init__(self, folder: pathlib.Path, first_step: int = 0):
        self._folder, self._first_step, self._writers = folder, first_step, {}

    def write(self, step: int, runs: Sequence[tuple[dict[str, float], int]], metrics: dict[str, np.ndarray]) -> None:
        from tensorboardX import SummaryWriter

        for name, rows in group(runs).items():
            if name not in self._writers:
                self._writers[name] = SummaryWriter(str(self._folder / name), purge_step=self._first_step)
            for tag, values in metrics.items():
                finite = values[rows][np.isfinite(values[rows])]
                if finite.size:
                    self._writers[name].add_scalar(tag, float(finite.mean()), step)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class Wandb:
    """The same means to Weights & Biases. Raises ValueError where it is not installed."""

    def __init__(self, project: str, config: dict[str, Any], folder: pathlib.Path):
        try:
            import wandb
        except ImportError as error:
            raise UserError("--wandb needs Weights & Biases: pip install 'rljax-suite[wandb]'.") from error
        self._run = wandb.init(project=project, config=config, dir=str(folder))

    def write(self, step: int, runs: Sequence[tuple[dict[str, float], int]], metrics: dict[str, np.ndarray]) -> None:
        for name, rows in group(runs).items():
            self._run.log(
                {f"{name}/{tag}": float(np.nanmean(values[rows])) for tag, values in metrics.items()}, step=step
            )

    def close(self) -> None:
        self._run.finish()


def group(runs: Sequence[tuple[dict[str, float], int]]) -> dict[str, list[int]]:
    """Positions of the runs of each point, by the point's name."""
    groups: dict[str, list[int]] = {}
    for i, (point, _) in enumerate(runs):
        groups.setdefault(name_of(point), []).append(i)
    return groups


def name_of(point: dict[str, float]) -> str:
    """The name of a point of a sweep, as in `gamma=0.97,learning_rate=0.0003`."""
    return ",".join(f"{name}={value:g}" for name, value in point.items()) or "all"


class Progress:
    """A bar with steps per second and time to go; on a terminal it stays in place, elsewhere it is a line now and then."""

    def __init__(self, total: int, done: int = 0, quiet: bool = False, file=sys.stderr):
        self._total, self._first, self._start = total, done, time.monotonic()
        self._quiet, self._file, self._last = quiet, file, -math.inf
        self._terminal = file.isatty()

    def update(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if self._quiet or (now - self._last < (0.1 if self._terminal else 10.0) and done < self._total):
            return
        self._last, elapsed = now, max(now - self._start, 1e-9)
        rate = (done - self._first) / elapsed
        left = (self._total - done) / rate if rate > 0 else math.inf
        filled = int(20 * done / self._total)
        line = f"[{'=' * filled}{' ' * (20 - filled)}] {done:>11,}/{self._total:,} steps  {note}  {_time(left)} to go"
        print(
            ("\r\033[K" if self._terminal else "") + line,
            end="" if self._terminal else "\n",
            file=self._file,
            flush=True,
        )

    def close(self) -> None:
        if self._terminal and not self._quiet:
            print(file=self._file)


def _time(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "--:--"
    return f"{int(seconds) // 3600:d}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def _cell(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))
