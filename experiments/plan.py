"""What a run is to do, checked before anything is compiled, and how to build it again from its folder."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rljax import parallel, train
from rljax.check import check_agent, check_env, check_prompts
from rljax.completions import Completions
from rljax.data import dataset as dataset_lib
from rljax.data import files
from rljax.data.dataset import Dataset
from rljax.envs import make as make_env
from rljax.envs import on_host
from rljax.envs.wrappers import Rewarded
from rljax.errors import UserError
from rljax.experiments import catalog, datasets
from rljax.record import record, static
from rljax.sources import Demonstrator
from rljax.types import Agent, Env, EnvSpec, Tokens

MAX_CHUNKS = 100


@dataclasses.dataclass(frozen=True)
class Plan:
    """The flags that decide a run's result. Two runs of equal plans on equal layouts are equal to the bit.

    steps: environment steps of each run; updates where the agent learns from data at rest.
    dataset: what such an agent learns from (see experiments/datasets); "" for the others.
    demonstrations: what an agent imitates that also learns from a dataset of all kinds of behaviour; "" for the others.
    demonstrator: whom an agent asks that learns by asking (see experiments/policies); "" for the others.
    start_from: folder of a run whose agents, seed by seed, these begin as; "" for new ones. A run under way needs it no more.
    reward_from: folder of a run whose learned reward, seed by seed, these are trained on; "" for the environment's, by
      which they are evaluated in any case. As the demonstrator's, that run must stay as it is while this one is under way.
    sweep: values of config fields; every combination is a point, and every point is run with every seed.
    eval_every: environment steps between evaluations; 0: only at the end.
    """

    agent: str
    env: str
    steps: int
    num_seeds: int = 1
    seed: int = 0
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    sweep: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    eval_episodes: int = 100
    eval_every: int = 0
    eval_explore: bool = False
    log_every: int = 0
    layout: str = "auto"
    dataset: str = ""
    start_from: str = ""
    reward_from: str = ""
    demonstrator: str = ""
    demonstrations: str = ""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Plan":
        names = {field.name for field in dataclasses.fields(cls)}
        plan = {name: value for name, value in saved.items() if name in names}
        plan["config"] = {k: tuple(v) if isinstance(v, list) else v for k, v in plan["config"].items()}
        return cls(**plan)


def _demonstrator(name: str, env: Env) -> Demonstrator:
    from rljax.experiments import policies  # which reads runs, whose plans this module reads

    return policies.demonstrator(name, env)


GIVEN = {  # what a source can read besides the environment, by the name of its argument: (name, environment) -> what it is
    "dataset": datasets.of_env,
    "demonstrations": lambda name, env: datasets.load(name, env.spec, files.WATCHED),
    "demonstrator": _demonstrator,
}


@record
class LearnedReward:
    """What agents of another run have learned that steps are worth: their states, their `Agent.reward` and its memory."""

    state: Any
    function: Callable = static()
    memory: Any = ()


class Program:
    """A plan made real: environment, agent and loop for each run, laid out over the devices."""

    def __init__(self, plan: Plan):
        """Raises ValueError with one sentence for whatever in the plan cannot be."""
        for name in ("steps", "num_seeds", "eval_episodes"):
            if getattr(plan, name) < 1:
                raise UserError(f"--{name}={getattr(plan, name)} must be at least 1.")
        for name in ("seed", "eval_every", "log_every"):
            if getattr(plan, name) < 0:
                raise UserError(f"--{name}={getattr(plan, name)} must not be negative.")
        self.plan = plan
        catalog.check_source(plan.agent, GIVEN)
        if plan.dataset and not catalog.takes_data(plan.agent):
            raise UserError(f"{plan.agent} makes its own experience and takes no --dataset.")
        if catalog.needs_data(plan.agent) and not plan.dataset:
            raise UserError(f"{plan.agent} learns from data: give them by --dataset=PATH.")
        if plan.demonstrations and not catalog.takes(plan.agent, "demonstrations"):
            hint = "; what it imitates is its --dataset" if catalog.needs_data(plan.agent) else ""
            raise UserError(f"{plan.agent} takes no --demonstrations{hint}.")
        if catalog.takes(plan.agent, "demonstrations") and not plan.demonstrations:
            raise UserError(
                f"{plan.agent} imitates some of the data: say which by --demonstrations={plan.env}/expert?episodes=1 or a file."
            )
        if plan.demonstrator and not catalog.asks(plan.agent):
            raise UserError(f"{plan.agent} asks nobody what to do and takes no --demonstrator.")
        self.module = catalog.agent(plan.agent)
        self.env: Env = make_env(plan.env)
        writes = isinstance(self.env.spec.action, Tokens)
        if catalog.asks(plan.agent) and not plan.demonstrator:
            raise UserError(
                f"{plan.agent} asks another to read completions, or to write some: name a run that writes by --demonstrator=DIR."
                if writes
                else f"{plan.agent} asks what to do: say whom by --demonstrator={plan.env}/expert or a run's folder."
            )
        if plan.reward_from and plan.demonstrator and not writes:
            raise UserError(f"{plan.agent} learns from a demonstrator and would see nothing of --reward_from.")
        if plan.reward_from and plan.dataset and writes:
            raise UserError(
                "A --dataset of completions says itself what they were paid; --reward_from is for an agent's own (--dataset=)."
            )
        self.config = catalog.configure(plan.agent, plan.config)
        if hasattr(self.config, "total_steps") and not self.config.total_steps:
            self.config = self.config.replace(total_steps=float(plan.steps))
        for name, values in plan.sweep.items():
            if not catalog.is_swept(plan.agent, name):
                raise UserError(
                    f"{name} shapes the program and cannot be swept in one; give it by --config.{name} run by run."
                )
            for value in values:
                catalog.configure(plan.agent, {name: value})
        self.points = [dict(zip(plan.sweep, values)) for values in itertools.product(*plan.sweep.values())]
        self.runs = [(point, plan.seed + i) for point in self.points for i in range(plan.num_seeds)]
        self.fleet = parallel.fleet(len(self.runs), plan.layout)
        for point in self.points:
            self.agent(point)  # refuses what it cannot act in, or settings that do not go together
        self.source = self._source(self.config, dict.fromkeys(self.reads, ()))  # data are looked at only when it starts
        if plan.reward_from:  # refuses what a learned reward cannot pay
            self._source(
                self.config, dict.fromkeys(self.reads, ()), Rewarded(self.env, (), lambda state, steps: steps.reward)
            )
        self._count_chunks()
        if not on_host(plan.env):
            check_env(self.env)
            check_prompts(self.env)
        if not (plan.dataset or plan.demonstrator):
            check_agent(self.agent({}), self.env, self.source)

    @property
    def reads(self) -> list[str]:
        """What the source reads besides the environment: the names of its arguments and of the plan's fields."""
        return [name for name in GIVEN if getattr(self.plan, name)]

    @property
    def spec(self) -> EnvSpec:
        """What the agent is made for: the environment's, but that a learned reward is one, whatever the environment's come from."""
        return dataclasses.replace(self.env.spec, num_rewards=1) if self.plan.reward_from else self.env.spec

    @functools.cached_property
    def given(self) -> dict[str, Dataset | Completions | Demonstrator]:
        """What the source reads, by name, looked up when first asked for, since acting needs none of it."""
        given = {name: GIVEN[name](getattr(self.plan, name), self.env) for name in self.reads}
        if given:
            check_agent(self.agent({}), self.env, self._source(self.config, given))
        return given

    def _source(self, config, given, env=None):
        return self.module.source(env or self.env, config, **given)

    def _count_chunks(self) -> None:
        per_iteration, warmup = self.steps_per_iteration, self.source.warmup_steps
        iterations = math.ceil((self.plan.steps - warmup) / per_iteration)
        if self.plan.steps - warmup < per_iteration:
            smaller = "num_updates" if not self.source.env_steps else "warmup or num_envs" if warmup else "num_envs"
            smaller = "num_prompts" if hasattr(self.config, "num_prompts") else smaller
            raise UserError(
                f"--steps={self.plan.steps} is less than one iteration of {self.plan.agent}, which takes {per_iteration} steps"
                + (f" after {warmup} of warm-up" if warmup else "")
                + f"; raise --steps or lower {smaller}."
            )
        if self.plan.log_every:
            self.chunk = max(1, round(self.plan.log_every / per_iteration))
        else:  # the number of chunks near half of MAX_CHUNKS that overshoots least
            sizes = {
                math.ceil(iterations / n)
                for n in range(min(MAX_CHUNKS // 4, iterations), min(MAX_CHUNKS, iterations) + 1)
            }
            self.chunk = min(sizes, key=lambda size: (-iterations % size, -size))
        self.num_chunks = math.ceil(iterations / self.chunk)
        self.chunks_per_evaluation = max(1, round(self.plan.eval_every / (self.chunk * per_iteration)))

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps; updates where the data are at rest."""
        return self.source.env_steps or self.source.num_batches

    def steps(self, chunks: int) -> int:
        """Steps of one run after so many chunks."""
        return self.source.warmup_steps + chunks * self.chunk * self.steps_per_iteration

    def agent(self, point: dict[str, Any]) -> Agent:
        return self.module.make(self.spec, self.config.replace(**point))

    def learner(self, point: dict[str, Any], given: Any = None, reward: LearnedReward | None = None) -> train.Learner:
        """The loop for the point of a sweep, on `self.given`; all arguments may be traced. A learned reward is paid in the place of
        the environment's and of a dataset's."""
        config, env, given = self.config.replace(**point), self.env, dict(given or {})
        if reward is not None:
            env = Rewarded(env, reward.state, reward.function, reward.memory)
            if "dataset" in given:
                of_steps = functools.partial(reward.function, reward.state)
                given["dataset"] = dataset_lib.paid(given["dataset"], of_steps, memory=reward.memory)
        return train.make(self.module.make(self.spec, config), self._source(config, given, env))

    def inputs(self):
        """Keys and points [padded] of all runs."""
        points = {name: np.array([point[name] for point, _ in self.runs], np.float32) for name in self.plan.sweep}
        return self.fleet.keys([seed for _, seed in self.runs]), self.fleet.place(points)
