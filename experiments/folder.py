"""A run's folder: config.json, metrics.csv, tb/, checkpoints/, curve.png, summary.json; and the agents that lie in it."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax import logging, parallel, plots
from rljax.checkpoint import Checkpoints
from rljax.envs import make as make_env
from rljax.errors import UserError
from rljax.experiments import catalog
from rljax.experiments.plan import LearnedReward, Plan, Program

PACKAGES = ("jax", "jaxlib", "flax", "optax", "brax", "gymnax", "distrax", "orbax-checkpoint", "numpy")
COLUMNS = {"evaluation/return": "evaluation return", "episode/return": "training episode return"}


class Folder:
    """Paths in a run's folder, and what stands there."""

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)
        self.config, self.metrics, self.summary = (
            self.path / f for f in ("config.json", "metrics.csv", "summary.json")
        )
        self.tensorboard, self.checkpoints, self.curve = (self.path / f for f in ("tb", "checkpoints", "curve.png"))

    def plan(self) -> Plan:
        """What this folder's run is to do. Raises ValueError where there is no run."""
        if not self.config.exists():
            raise UserError(f"There is no run in {self.path}: it has no config.json.")
        try:
            return Plan.from_json(json.loads(self.config.read_text()))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.config} does not describe a run ({type(error).__name__}: {error}).") from error

    def evaluation(self, env: str, explore: bool) -> pathlib.Path:
        """Where a later evaluation in `env` is kept, apart for the exploring and the deterministic policy."""
        return self.path / f"evaluation-{file_name(env)}{'-explore' if explore else ''}.json"

    def begin(self, plan: Plan) -> None:
        """Write config.json for a new run. Raises ValueError where the folder holds another run or anything else."""
        if self.config.exists() and not self.metrics.exists() and self.plan() == plan:
            return  # begun before, and stopped before its first chunk
        if self.path.exists() and any(self.path.iterdir()):
            what = "other files"
            if self.config.exists():
                changed = self._changed(plan)
                what = f"a run with other settings ({', '.join(changed)})" if changed else "this run already"
            raise UserError(f"{self.path} holds {what}; choose another --run_dir, or continue a run with --resume.")
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.config, {**plan.to_json(), **provenance()})

    def resume(self, plan: Plan) -> None:
        """Check that this folder's run was begun with the same plan; only its layout may differ. Raises ValueError."""
        if changed := self._changed(plan):
            longer = f" To go on after its end: --start_from={self.path}." if changed == ["steps"] else ""
            raise UserError(
                f"{self.path} was begun with other settings ({', '.join(changed)}); leave them out to resume, "
                f"or choose another --run_dir.{longer}"
            )

    def _changed(self, plan: Plan) -> list[str]:
        """What this folder's run has otherwise than a plan, but for the layout. Settings that are newer than it count as their
        defaults."""
        before, now = json.loads(json.dumps(self.plan().to_json())), json.loads(json.dumps(plan.to_json()))
        if before["agent"] == now["agent"]:
            defaults = catalog.fields(catalog.agent(plan.agent).Config())
            before["config"] = json.loads(json.dumps(defaults)) | before["config"]
        changed = [name for name in now if before[name] != now[name] and name != "layout"]
        if "config" in changed:
            names = sorted({*before["config"], *now["config"]})
            changed.remove("config")
            changed += [f"config.{k}" for k in names if before["config"].get(k) != now["config"].get(k)]
        return changed

    def has_checkpoint(self) -> bool:
        """Whether there is a whole one."""
        if not self.checkpoints.exists():
            return False
        with contextlib.closing(Checkpoints(self.checkpoints)) as checkpoints:
            return checkpoints.latest is not None

    def curves(self, column: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Of each point of the sweep: the steps [T] and scores [S, T] of a column of metrics.csv that has any."""
        plan, table = self.plan(), logging.read_table(self.metrics)
        if column not in table:
            return {}
        measured = np.isfinite(table[column])
        steps = np.unique(table["step"][measured])
        found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for row in np.flatnonzero(measured):
            name = logging.name_of({field: table[field][row] for field in plan.sweep})
            scores = found.setdefault(name, (steps, np.full((plan.num_seeds, len(steps)), np.nan)))[1]
            scores[int(table["seed"][row]) - plan.seed, np.searchsorted(steps, table["step"][row])] = table[column][row]
        return found

    def columns(self) -> list[str]:
        """What metrics.csv tells of each seed; nothing where there is none yet."""
        return [name for name in logging.read_table(self.metrics) if name not in ("step", "seed")]

    def column(self) -> str:
        """What a learning curve shows: evaluations where there were several along the run, else the episodes of training."""
        evaluated = any(len(steps) > 1 for steps, _ in self.curves("evaluation/return").values())
        return "evaluation/return" if evaluated or not self.curves("episode/return") else "episode/return"

    def draw(self) -> None:
        """curve.png."""
        plan, column = self.plan(), self.column()
        curves = named(self.curves(column), plan)
        plots.learning_curves(curves, self.curve, f"{plan.agent} on {plan.env}", COLUMNS[column])


class Trained(NamedTuple):
    """The agents of a run: `states` [S], those of `program.runs`, after `steps` environment steps each."""

    program: Program
    states: Any
    steps: int

    def policy(self, index: int = 0, explore: bool = False) -> tuple[Callable, Any]:
        """One of the agents, to act with in plain Python: a jitted function and the memory that an episode begins with.

        The function: (observation [...], memory, key, reward=0) -> (action [...], memory), without batch axes. `reward` is
        what the step before paid; agents that aim at a return want to know it.

        Raises:
          UserError: there are not so many agents.
        """
        if not 0 <= index < len(self.program.runs):
            raise UserError(f"index={index} must be from 0 to {len(self.program.runs) - 1}, one of the run's agents.")
        agent, state = self.program.agent(self.program.runs[index][0]), parallel.select(self.states, index)

        @jax.jit
        def act(observation, memory, key, reward=0.0):
            observation, memory, reward = jax.tree.map(lambda x: jnp.asarray(x)[None], (observation, memory, reward))
            action, memory, _ = agent.act(state, observation, agent.receive(memory, reward), key, explore)
            return jax.tree.map(lambda x: x[0], (action, memory))

        return act, agent.memory


def load(run_dir: str | pathlib.Path, checkpoint: int | None = None, sharding_of: Callable | None = None) -> Trained:
    """The agents of a run's last checkpoint, or of another that it kept, without its environments and replay, which are not
    read. To act with one:

        act, memory = load("runs/ppo-cartpole").policy(0)
        action, memory = act(observation, memory, jax.random.key(0))

    Args:
      sharding_of: (shape) -> where arrays of the states go; by default to the first device.
    Raises:
      ValueError: there is no run or no checkpoint, or it cannot be read.
    """
    folder = Folder(run_dir)
    plan = folder.plan()
    if not folder.checkpoints.exists():
        raise UserError(f"There is no checkpoint in {folder.path}: it has no folder {folder.checkpoints.name}.")
    with contextlib.closing(Checkpoints(folder.checkpoints)) as checkpoints:
        if checkpoints.latest is None:
            raise UserError(f"There is no checkpoint in {folder.checkpoints}: the run has not saved any yet.")
        checkpoint = checkpoints.latest if checkpoint is None else checkpoint
        if checkpoint not in checkpoints.all:
            raise UserError(
                f"There is no checkpoint {checkpoint} in {folder.checkpoints}; there are {checkpoints.all}."
            )
        program = Program(plan)
        one = jax.eval_shape(lambda key: program.agent(program.points[0]).init(key), jax.random.key(0))
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(program.runs), *x.shape), x.dtype), one)
        states = checkpoints.restore({"agent": like}, sharding_of, step=checkpoint, part=True)["agent"]
        return Trained(program, states, program.steps(checkpoint))


def initial_agents(run_dir: str | pathlib.Path, program: Program) -> Any:
    """The states of a run's last checkpoint as what the runs of `program` begin with, all of a state or its `policy` (`begun`): for
    each the one of its seed, [runs].

    Raises:
      UserError: there is no run or checkpoint; its agents' states are of another kind or size, it is of another environment, of a
        sweep, or lacks a seed.
    """
    plan, before = program.plan, Folder(run_dir).plan()
    other = UserError(
        f"--start_from={run_dir} is a run of {before.agent} on {before.env}; it cannot go on as {plan.agent} on {plan.env}."
    )
    if before.env != plan.env and make_env(before.env).spec != program.env.spec:
        raise other
    trained, states = _seed_by_seed("start_from", run_dir, program)
    if any(catalog.fields(config).get("anneal_learning_rate") for config in (program.config, trained.program.config)):
        raise UserError(
            f"--start_from={run_dir} has agents whose learning rate has fallen to 0; there is nothing to go on by."
        )
    one = jax.eval_shape(lambda key: program.agent(program.points[0]).init(key), jax.random.key(0))
    if (
        before.agent != plan.agent
    ):  # agents whose states are alike may go on as each other, where these mean the same to both
        if type(trained.states) is not type(one):
            one = getattr(one, "policy", None)  # of an agent that has more than a policy
        if type(trained.states) is not type(one):
            raise other
        names = catalog.shared_shape(trained.program.config, program.config, trained.states)
        theirs = {name: getattr(trained.program.config, name) for name in names}
        if other := {name: x for name, x in theirs.items() if x != getattr(program.config, name)}:
            given = " ".join(f"--config.{name}={x}" for name, x in other.items())
            raise UserError(f"--start_from={run_dir} has agents with other {', '.join(other)}: give {given}.")
    shape = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    if shape(parallel.select(trained.states, 0)) != shape(one):
        raise UserError(
            f"--start_from={run_dir} has agents of another shape than {plan.agent} has with these settings."
        )
    return states


def begun(own: Any, given: Any) -> Any:
    """An agent's state that begins as another's: all of it, or the policy of an agent that has more than one."""
    return given if type(own) is type(given) else own._replace(policy=given)


def learned_rewards(run_dir: str | pathlib.Path, program: Program) -> LearnedReward:
    """What the agents of a run's last checkpoint have learned that steps are worth: for each run of `program` the one of its seed.

    Raises:
      UserError: there is no run or checkpoint; its agents learn no reward, or of other observations or actions; or `initial_agents`
        would have raised it for a sweep or a seed.
    """
    trained, states = _seed_by_seed("reward_from", run_dir, program)
    theirs = trained.program
    agent = theirs.agent(theirs.points[0])
    if agent.reward is None:
        raise UserError(
            f"--reward_from={run_dir} is a run of {theirs.plan.agent}, which learns no reward that others could be trained on."
        )
    if (theirs.env.spec.observation_shape, theirs.env.spec.action) != (
        program.env.spec.observation_shape,
        program.env.spec.action,
    ):
        raise UserError(
            f"--reward_from={run_dir} has rewards of what is seen and done in {theirs.plan.env}, not in {program.plan.env}."
        )
    runs = len(program.runs)
    memory = jax.tree.map(lambda x: np.broadcast_to(x, (runs, *np.shape(x))), agent.reward_memory)
    return LearnedReward(states, agent.reward, memory)


def _seed_by_seed(flag: str, run_dir: str | pathlib.Path, program: Program) -> tuple[Trained, Any]:
    """A run's last agents, and the states [runs] of those that have the seeds of the runs of `program`."""
    if sweep := Folder(run_dir).plan().sweep:
        raise UserError(f"--{flag}={run_dir} is a sweep of {', '.join(sweep)}; give a run at one point.")
    trained = load(run_dir, sharding_of=program.fleet.sharding_of)
    seeds = [seed for _, seed in trained.program.runs]
    missing = [seed for _, seed in program.runs if seed not in seeds]
    if missing:
        raise UserError(
            f"--{flag}={run_dir} has the seeds {seeds[0]} to {seeds[-1]}, not {missing[0]}; each seed has its own."
        )
    rows = np.array([seeds.index(seed) for _, seed in program.runs])
    return trained, jax.tree.map(lambda x: np.asarray(x)[rows], trained.states)


def named(curves: dict, plan: Plan) -> dict:
    """The curve of a run without a sweep is named by its agent."""
    return {plan.agent if name == "all" else name: value for name, value in curves.items()}


def file_name(text: str) -> str:
    """`text` with what cannot be in a file's name replaced."""
    return "".join(c if c.isalnum() or c in "-._=" else "-" for c in text)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Written aside and renamed, so that the file is always whole."""
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(aside, path)


def device() -> str:
    """The devices of this run in words, such as `2 x cpu (x86_64)`."""
    first = jax.devices()[0]
    kind = platform.machine() if first.platform == "cpu" else first.device_kind
    return f"{jax.device_count()} x {first.platform} ({kind})"


def provenance() -> dict[str, Any]:
    """Versions, device and commit. The commit is null where the code does not lie in a git checkout."""
    here = pathlib.Path(__file__).parent
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    versions = {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}
    return {"versions": versions, "device": device(), "commit": git.stdout.strip() or None}
