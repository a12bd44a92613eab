"""The host's side of a run: chunk after chunk on the devices; between chunks log, evaluate, save, and listen for signals."""

import dataclasses
import json
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from rljax import logging
from rljax.checkpoint import Checkpoints
from rljax.completions import Completions
from rljax.data.dataset import Dataset
from rljax.envs import on_host
from rljax.errors import UserError
from rljax.evaluate import MAX_STEPS, evaluate, interquartile_mean
from rljax.experiments import catalog
from rljax.experiments import on_host as host
from rljax.experiments.datasets import describe
from rljax.experiments.folder import Folder, Trained, begun, device, initial_agents, learned_rewards, write_json
from rljax.experiments.plan import Plan, Program

EVALUATION = 1  # base of the evaluation's keys; 0 is training's


class Stopped(Exception):
    """Asked to stop by a signal; everything up to the last chunk is saved."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def run(
    plan: Plan,
    folder: Folder,
    resume: bool = False,
    checkpoint_every: int = 1,
    keep_checkpoints: int = 2,
    quiet: bool = False,
    wandb: str = "",
) -> dict[str, Any]:
    """Carry out a plan in a folder and return its summary.

    Raises:
      ValueError: something in the plan or the folder cannot be; nothing was written.
      OSError: the disk refused; the last checkpoint stands.
      Stopped: a signal came; the run can be resumed.
    """
    program = Program(plan)
    given = program.given  # read before anything is written
    found = {name: describe(data) for name, data in given.items() if isinstance(data, Dataset | Completions)}
    if not quiet and jax.process_index() == 0:
        for name, contents in found.items():
            print(f"{getattr(plan, name)}: {contents}")
    plan = dataclasses.replace(plan, config=catalog.fields(program.config))
    resume = resume and folder.config.exists()
    chief = jax.process_index() == 0
    if resume:
        folder.resume(plan)
        if folder.summary.exists():  # written last: nothing is left to do
            return json.loads(folder.summary.read_text())
    under_way = resume and folder.has_checkpoint()
    initial = initial_agents(plan.start_from, program) if plan.start_from and not under_way else None
    rewards = learned_rewards(plan.reward_from, program) if plan.reward_from else None
    if chief and not resume:
        folder.begin(plan)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("folder")

    seconds = {"compile": 0.0, "train": 0.0, "evaluate": 0.0}
    keys, points = program.inputs()
    fleet = program.fleet
    shared = jax.device_put(given, fleet.replicated)
    own = points, fleet.place(rewards)  # to learn with; acting needs the points alone

    def compiled(function: Callable, *args, **options) -> Callable:
        start = time.perf_counter()
        executable = fleet.over(function, **options).lower(*args).compile()
        seconds["compile"] += time.perf_counter() - start
        return executable

    learner = lambda shared, own: program.learner(own[0], shared, own[1])
    begin = lambda shared, key, own: learner(shared, own).init(key)
    init = compiled(begin, shared, keys, own, num_shared=1)
    shapes = fleet.placed(jax.eval_shape(fleet.over(begin, num_shared=1), shared, keys, own))
    run_chunk = lambda shared, state, own: learner(shared, own).run(state, program.chunk)
    train_chunk = compiled(run_chunk, shared, shapes, own, donate=(1,), num_shared=1)
    evaluate_run = lambda state, point, key: evaluate(
        program.env, program.agent(point), state.agent, key, plan.eval_episodes, plan.eval_explore
    )
    evaluate_all = None if on_host(plan.env) else compiled(evaluate_run, shapes, points, keys)

    checkpoints = Checkpoints(folder.checkpoints, keep_checkpoints or None)
    table, done = logging.Table(folder.metrics), 0
    if under_way:
        done = checkpoints.latest
        state = fleet.fill(checkpoints.restore(jax.eval_shape(fleet.trim, shapes), fleet.sharding_of))
    else:
        start = time.perf_counter()
        state = init(shared, keys, own)
        if initial is not None:
            initial = fleet.fill(jax.device_put(initial, fleet.replicated))
            state = state.replace(agent=begun(state.agent, initial))
        jax.block_until_ready(state)
        seconds["train"] += time.perf_counter() - start
    if chief:
        table.keep_until(program.steps(done) if done else -1)
    tensorboard = logging.TensorBoard(folder.tensorboard, program.steps(done))
    sinks = [table, tensorboard, *([logging.Wandb(wandb, plan.to_json(), folder.path)] if wandb and chief else [])]
    total = program.steps(program.num_chunks)
    progress = logging.Progress(total, program.steps(done), quiet or not chief)
    failed: dict[int, dict[str, Any]] = {}
    first, returns = done, None
    stop = _listen()

    def evaluation(state) -> np.ndarray:
        start = time.perf_counter()
        if on_host(plan.env):
            trained = Trained(program, fleet.to_host(state.agent), program.steps(done))
            returns = host.evaluate_run(trained, plan.env, plan.eval_episodes, plan.eval_explore, seed=0)
            seconds["evaluate"] += time.perf_counter() - start
            return returns
        episodes = fleet.to_host(
            evaluate_all(state, points, fleet.keys([seed for _, seed in program.runs], EVALUATION))
        )
        seconds["evaluate"] += time.perf_counter() - start
        cut = int((~episodes.finished).sum())
        if cut and chief:
            limit = program.env.spec.episode_length or MAX_STEPS
            print(f"\nwarning: {cut} evaluation episodes did not end within {limit:,} steps.", file=sys.stderr)
        return episodes.returns

    for done in range(first + 1, program.num_chunks + 1):
        start = time.perf_counter()
        state, metrics = train_chunk(shared, state, own)
        metrics = fleet.to_host(metrics)
        seconds["train"] += time.perf_counter() - start
        step = program.steps(done)
        if done == program.num_chunks or (plan.eval_every and done % program.chunks_per_evaluation == 0):
            returns = evaluation(state)
            metrics["evaluation/return"] = returns.mean(axis=1)
        else:
            metrics["evaluation/return"] = np.full(len(program.runs), np.nan)
        if chief:
            _report_failures(failed, program.runs, step, metrics)
            for sink in sinks:
                sink.write(step, program.runs, metrics)
        stopping = _any_host(stop.asked)  # all hosts save together, or none
        if done % checkpoint_every == 0 or done == program.num_chunks or stopping:
            checkpoints.save(done, fleet.trim(state))
        rate = (done - first) * program.chunk * program.steps_per_iteration * len(program.runs) / seconds["train"]
        progress.update(step, _note(metrics, rate))
        if stopping:
            checkpoints.wait()
            progress.close()
            raise Stopped(stop.number or signal.SIGTERM)
    progress.close()
    if returns is None:  # resumed when there was nothing left to do
        returns = evaluation(state)
    checkpoints.wait()
    checkpoints.close()

    trained = (program.num_chunks - first) * program.chunk * len(program.runs)
    rate = trained / seconds["train"] if seconds["train"] and trained else None
    summary = summarise(plan, program, returns.mean(axis=1))
    summary |= {
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "env_steps_per_second": rate and round(rate * program.source.env_steps),
        "updates_per_second": rate and round(rate * program.source.num_batches, 1),
        "failures": list(failed.values()),
        **found,
        "device": device(),
    }
    if chief:
        write_json(folder.summary, summary)
        folder.draw()
        for sink in sinks[1:]:
            sink.close()
    return summary


def summarise(plan: Plan, program: Program, scores: np.ndarray) -> dict[str, Any]:
    """The part of summary.json about returns, from one score for each run [S]: the mean of its evaluation episodes."""
    rows = logging.group(program.runs)
    sweep = [
        {"point": program.runs[index[0]][0], "return": interquartile_mean(scores[index])} for index in rows.values()
    ]
    best = max(sweep, key=lambda entry: -np.inf if entry["return"]["iqm"] is None else entry["return"]["iqm"])
    return {
        "agent": plan.agent,
        "env": plan.env,
        "steps": program.steps(program.num_chunks),
        "num_seeds": plan.num_seeds,
        "eval_episodes": plan.eval_episodes,
        "sweep": sweep,
        "return": best["return"],
        "best_point": best["point"],
    }


class _listen:
    """Notes SIGINT and SIGTERM, so that the chunk under way is finished and saved; a second SIGINT stops at once."""

    def __init__(self):
        self.number = 0
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._note)
        except ValueError:
            pass  # not the main thread: signals are the caller's

    @property
    def asked(self) -> bool:
        return bool(self.number)

    def _note(self, number, frame):
        if self.number == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.number = number


def _any_host(flag: bool) -> bool:
    return bool(np.any(multihost_utils.process_allgather(np.array(flag)))) if jax.process_count() > 1 else flag


def _report_failures(failed: dict, runs: list, step: int, metrics: dict[str, np.ndarray]) -> None:
    """Name a run once, when a number of it that must exist is NaN or infinite. The others go on."""
    for i, (point, seed) in enumerate(runs):
        bad = [
            name
            for name, x in metrics.items()
            if not name.startswith(("episode/", "evaluation/")) and not np.isfinite(x[i])
        ]
        if bad and i not in failed:
            failed[i] = {"seed": seed, "point": point, "step": step, "metric": bad[0]}
            where = f" ({logging.name_of(point)})" if point else ""
            print(
                f"\nwarning: seed {seed}{where}: {bad[0]} is not finite at step {step:,}; other seeds go on.",
                file=sys.stderr,
            )


def check_finite(summary: dict[str, Any], folder: Folder) -> None:
    """Raises UserError where no run had finite numbers throughout."""
    failures = summary["failures"]
    if len(failures) < len(summary["sweep"]) * summary["num_seeds"]:
        return
    first = min(failures, key=lambda failure: failure["step"])
    raise UserError(
        f"Every run had numbers that are not finite, first {first['metric']} of seed {first['seed']} at step {first['step']:,}. "
        f"Lower learning rates, and look at {folder.metrics}."
    )


def _note(metrics: dict[str, np.ndarray], rate: float) -> str:
    episodes = metrics.get("episode/return", np.array([]))
    episodes = episodes[np.isfinite(episodes)]
    shown = f"return {np.median(episodes):,.4g}  " if episodes.size else ""  # none where data are at rest
    return f"{shown}{rate:,.0f} steps/s over all runs"
