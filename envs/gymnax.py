"""Environments of gymnax (github.com/RobertTLange/gymnax, version 1.0), without its automatic reset.

How gymnax 1.0 ends episodes, by family. In none of them does `step_env` report a time limit as terminal: `is_terminated`
says that the MDP ended, `is_truncated` compares `state.time` with `max_steps_in_episode`, and only `step`, which resets by
itself and is not used here, joins the two. But some episodes whose length belongs to the task end by truncation:

  classic control  ends where Gymnasium's do. Pendulum only by its time limit
  MinAtar          death terminates; Freeway, whose 2500 steps are part of the original game, is only truncated
  bsuite           Catch, DeepSea, MemoryChain, UmbrellaChain and SimpleBandit (one step) terminate when the task is over,
                   also on the last allowed step. DiscountingChain, which bsuite terminates after 100 steps, is truncated
  misc             FourRooms, FrozenLake and Pong terminate. Both bandits, PointRobot, Reacher and Swimmer are only
                   truncated. MetaMaze moves the agent away from a goal it reached and goes on: it terminates only
                   where the place it is moved to, drawn at random, is the goal again

MNISTBandit-bsuite is left out: it downloads a dataset when it is built.
"""

import dataclasses
import functools
import inspect
from typing import Any

import gymnax
import gymnax.environments.spaces as spaces
import jax
import jax.numpy as jnp
from jaxtyping import Array

from rljax.envs.wrappers import rescale, strong
from rljax.record import record, static
from rljax.types import Continuous, Discrete, EnvSpec, Key, TimeStep

TIME_LIMIT = "max_steps_in_episode"


@record
class GymnaxEnv:
    """One gymnax environment.

    Observations are float32; where gymnax has a Discrete one it is one-hot. Actions are 0 ... n - 1, or in [-1, 1], clipped
    and rescaled to the bounds that gymnax asks for.

    params: floats and arrays (`gravity`, `length` ...), which are traced and can be vmapped. gymnax derives nothing:
      who changes CartPole's `masspole` changes `total_mass` and `polemass_length` too.
    fixed: the other parameters (counts, switches and the time limit), which shape the program and stay Python values.
    """

    params: dict[str, Array]
    env: Any = static()
    fixed: tuple[tuple[str, Any], ...] = static()
    num_states: int | None = static()  # where gymnax's observation is one of so many
    spec: EnvSpec = static()

    def reset(self, key: Key) -> tuple[Any, Array]:
        observation, state = self.env.reset_env(key, self._params())
        return strong(state), self._observation(observation)

    def step(self, state: Any, action: Array, key: Key) -> tuple[Any, TimeStep]:
        params = self._params()
        if isinstance(self.spec.action, Continuous):
            bounds = self.env.action_space(params)
            action = rescale(action, bounds.low, bounds.high)
        observation, state, reward, terminated, _ = self.env.step_env(key, state, action, params)
        terminated = jnp.asarray(terminated, bool)
        truncated = jnp.asarray(self.env.is_truncated(state, params), bool) & ~terminated
        return strong(state), TimeStep(
            self._observation(observation), jnp.asarray(reward, jnp.float32), terminated, truncated
        )

    def _params(self):
        return self.env.default_params.replace(**self.params, **dict(self.fixed))

    def _observation(self, observation):
        if self.num_states is not None:
            return jax.nn.one_hot(observation, self.num_states, dtype=jnp.float32)
        return jnp.asarray(observation, jnp.float32)


def names() -> list[str]:
    """What gymnax has registered, but for environments that need the network."""
    return [name for name in gymnax.registered_envs if name != "MNISTBandit-bsuite"]


def options(name: str) -> dict[str, Any]:
    """The parameters and the constructor's options of an environment, with their defaults."""
    env = _build(name, ())
    constructor = {key: value.default for key, value in inspect.signature(type(env)).parameters.items()}
    return {**constructor, **_fields(env.default_params)}


def make(name: str, **chosen) -> GymnaxEnv:
    """The environment `name`; see `options` for what can be chosen. Raises TypeError for an option it does not have.

    Equal names and constructor's options share one gymnax object, so that jit's caches hit.
    """
    known = _fields(_build(name, ()).default_params)
    constructor = {key: value for key, value in chosen.items() if key not in known}
    env = _build(name, tuple(sorted(constructor.items())))
    params = {**_fields(env.default_params), **{key: value for key, value in chosen.items() if key in known}}
    fixed = {key: value for key, value in params.items() if isinstance(value, bool | int) or key == TIME_LIMIT}
    traced = {key: value for key, value in params.items() if key not in fixed}
    seen, acted = env.observation_space(env.default_params), env.action_space(env.default_params)
    num_states = seen.n if isinstance(seen, spaces.Discrete) else None
    action = Discrete(acted.n) if isinstance(acted, spaces.Discrete) else Continuous(tuple(acted.shape))
    spec = EnvSpec((), action, int(params[TIME_LIMIT]))
    made = GymnaxEnv(strong(traced), env, tuple(fixed.items()), num_states, spec)
    _, observation = jax.eval_shape(made.reset, jax.random.key(0))
    return made.replace(spec=dataclasses.replace(spec, observation_shape=observation.shape))


@functools.cache
def _build(name: str, constructor: tuple[tuple[str, Any], ...]) -> Any:
    with jax.ensure_compile_time_eval():  # its arrays are kept, so they must not belong to a trace
        return gymnax.make(name, **dict(constructor))[0]


def _fields(params) -> dict[str, Any]:
    return {field.name: getattr(params, field.name) for field in dataclasses.fields(params)}
