"""Environments of brax (github.com/google/brax), of which only brax.envs is used. Imported when the first one is made.

What was found in brax 0.14.2. Every environment takes actions in [-1, 1]: the actuators of most have just this range,
and humanoid ([-0.4, 0.4]), humanoidstandup, inverted_pendulum ([-3, 3]) and pusher ([-2, 2]) rescale inside `step`. The
actuators clip but control costs do not, so actions are clipped here. `done` is always a termination, never a time limit
(the `time_out` in inverted_pendulum's info says that the pole fell).

Left out: `swimmer`, which does not run on this version of jax, and `fast`, which is a stub for brax's own tests.
"""

import contextlib
import copy
import dataclasses
import functools
import inspect
import io
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from rljax.envs.wrappers import strong
from rljax.errors import UserError
from rljax.record import record, static
from rljax.types import Continuous, EnvSpec, Key, TimeStep

NAMES = (
    "ant",
    "halfcheetah",
    "hopper",
    "humanoid",
    "humanoidstandup",
    "inverted_double_pendulum",
    "inverted_pendulum",
    "pusher",
    "reacher",
    "walker2d",
)


@record
class BraxState:
    brax: Any  # brax.envs.State
    steps: Int[Array, ""]


@record
class BraxEnv:
    """One brax environment; the time limit is `spec.episode_length`, a truncation. brax's metrics are in `info`.

    sys: the physical system. Its arrays (masses, gravity, friction ...) are leaves and can be vmapped:
      `env.replace(sys=env.sys.tree_replace({"gravity": gravity}))`; the backend mjx reads "opt.gravity" instead.
    """

    sys: Any
    env: Any = static()
    spec: EnvSpec = static()

    def reset(self, key: Key) -> tuple[BraxState, Array]:
        state = strong(self._env().reset(key))
        return BraxState(state, jnp.int32(0)), state.obs

    def step(self, state: BraxState, action: Array, key: Key) -> tuple[BraxState, TimeStep]:
        # brax writes into these two dictionaries
        before = state.brax.replace(metrics=dict(state.brax.metrics), info=dict(state.brax.info))
        after = strong(self._env().step(before, jnp.clip(action, -1.0, 1.0)))
        steps = state.steps + 1
        terminated = after.done > 0.5
        truncated = (steps >= self.spec.episode_length) & ~terminated
        return BraxState(after, steps), TimeStep(after.obs, after.reward, terminated, truncated, dict(after.metrics))

    def _env(self):
        env = copy.copy(self.env)
        env.sys = self.sys
        return env


def names() -> list[str]:
    return list(NAMES)


def options(name: str) -> dict[str, Any]:
    """What can be chosen of an environment, with the defaults: those of `make` and of brax's constructor."""
    constructor = inspect.signature(type(_build(name, "spring", ()))).parameters.values()
    own = {argument.name: argument.default for argument in constructor if argument.kind is not argument.VAR_KEYWORD}
    return {**own, "backend": "spring", "episode_length": 1000}


def make(name: str, backend: str = "spring", episode_length: int = 1000, **constructor) -> BraxEnv:
    """The environment `name` on one of brax's backends: spring, positional, generalized or mjx.

    Equal names and options share one brax object, so that jit's caches hit. Raises ValueError for an unknown backend.
    """
    backends = ("spring", "positional", "generalized", "mjx")
    if backend not in backends:
        raise UserError(f"Unknown backend {backend!r} of 'brax/{name}'; there are {', '.join(backends)}.")
    env = _build(name, backend, tuple(sorted(constructor.items())))
    spec = EnvSpec((), Continuous((env.action_size,)), episode_length, costly_reset=True)
    made = BraxEnv(strong(env.sys), env, spec)
    _, observation = jax.eval_shape(made.reset, jax.random.key(0))
    return made.replace(spec=dataclasses.replace(spec, observation_shape=observation.shape))


@functools.cache
def _build(name: str, backend: str, constructor: tuple[tuple[str, Any], ...]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # it complains of what is not used here
        warnings.simplefilter("ignore")
        import brax.envs

    with jax.ensure_compile_time_eval():  # its arrays are kept, so they must not belong to a trace
        return brax.envs.get_environment(name, backend=backend, **dict(constructor))
