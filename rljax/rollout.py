"""Stepping environments side by side. The one place where an environment is reset after its episode ended."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rljax.metrics import Average, average
from rljax.parallel import spread
from rljax.record import record
from rljax.types import Agent, Env, EnvSpec, Key, Rollout, TimeStep, Transition, initial_memory

STEPS_PER_RESET = 16  # where a reset is dear, one is prepared for so many steps


@record
class ActorState:
    """N environments in the middle of their episodes; `memory` is the agent's."""

    env: Any  # [N]
    observation: Array  # [N, ...]: what the agent acts on next
    memory: Any  # [N]
    episode_return: Float[Array, " N"]
    episode_length: Int[Array, " N"]


def start(env: Env, agent: Agent, num_envs: int, key: Key) -> ActorState:
    """`num_envs` environments at the start of an episode each."""
    state, observation = spread(jax.vmap(env.reset)(jax.random.split(key, num_envs)))
    memory = initial_memory(agent, num_envs)
    return ActorState(state, observation, memory, jnp.zeros(num_envs), jnp.zeros(num_envs, jnp.int32))


@record
class StartFrom:
    """An environment of which a share of the episodes begins in states that were recorded (any of them, all alike), the others as
    ever. Time limits go on counting from where the recording was.

    states: [N], of the environment. observation: [N, ...], what was seen in them.
    """

    env: Env
    states: Any
    observation: Array
    share: Float[Array, ""]

    @property
    def spec(self) -> EnvSpec:
        return self.env.spec

    def reset(self, key: Key) -> tuple[Any, Array]:
        reset_key, share_key, choice_key = jax.random.split(key, 3)
        chosen = jax.random.randint(choice_key, (), 0, self.observation.shape[0])
        recorded = jax.tree.map(lambda x: x[chosen], (self.states, self.observation))
        return where(jax.random.uniform(share_key) < self.share, recorded, self.env.reset(reset_key))

    def step(self, state: Any, action: Array, key: Key) -> tuple[Any, TimeStep]:
        return self.env.step(state, action, key)


def where(condition, new, old):
    """`new` where `condition` [*N], else `old`, over pytrees of [*N, ...]. Works for typed keys too."""
    return jax.tree.map(
        lambda a, b: jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - condition.ndim)), a, b), new, old
    )


def unroll(
    env: Env,
    act: Callable,
    initial_memory: Any,
    state: ActorState,
    key: Key,
    length: int,
    receive: Callable = lambda memory, reward: memory,
    with_states: bool = False,
) -> tuple[ActorState, Rollout, dict[str, Average]]:
    """Act for `length` steps in N environments, each beginning a new episode when one ended.

    Args:
      act: (observation [N, ...], memory [N], key) -> (action [N, ...], memory, extras).
      initial_memory: [N], what a new episode begins with.
      receive: (memory [N], reward [N]) -> memory, the agent's.
      with_states: the environments' states before each step are among the extras, as `env_state`.
    Returns:
      the state after, the rollout [length, N], and return and length of the episodes that finished. What each of several sources
      of the reward paid is among the steps' extras, as `rewards` [length, N, D].

    Every new episode has a fresh start. Where `env.spec.costly_reset`, fresh starts are prepared once per unroll, one for
    STEPS_PER_RESET steps, and dealt out in turn; they repeat within an unroll only when more episodes end than were prepared.
    """
    num_envs = state.episode_return.shape[0]
    pool_key, key = jax.random.split(key)
    pool_size = min(num_envs, max(1, num_envs * length // STEPS_PER_RESET)) if env.spec.costly_reset else 0
    pool = jax.vmap(env.reset)(jax.random.split(pool_key, pool_size)) if pool_size else None

    def fresh(done, used, key):
        if pool is None:
            return jax.vmap(env.reset)(jax.random.split(key, num_envs)), used
        turn = (used + jnp.cumsum(done) - 1) % pool_size
        return jax.tree.map(lambda x: x[turn], pool), used + done.sum()

    def step(carry, key):
        state, used = carry
        act_key, step_key, reset_key = jax.random.split(key, 3)
        action, memory, extras = act(state.observation, state.memory, act_key)
        env_state, following = spread(jax.vmap(env.step)(state.env, action, jax.random.split(step_key, num_envs)))
        memory = receive(memory, following.reward)
        extras = extras | {"env_state": state.env} if with_states else extras
        extras = extras | {name: x for name, x in following.info.items() if name == "rewards"}
        transition = as_transition(state.observation, action, following, extras)
        done = transition.done
        episode_return = state.episode_return + following.reward
        episode_length = state.episode_length + 1
        finished = {"episode/return": average(episode_return, done), "episode/length": average(episode_length, done)}
        (new_env_state, new_observation), used = fresh(done, used, reset_key)
        state = ActorState(
            env=where(done, new_env_state, env_state),
            observation=where(done, new_observation, following.observation),
            memory=where(done, initial_memory, memory),
            episode_return=jnp.where(done, 0.0, episode_return),
            episode_length=jnp.where(done, 0, episode_length),
        )
        return (state, used), (transition, finished)

    memory_before = state.memory
    (state, _), (steps, finished) = jax.lax.scan(step, (state, jnp.int32(0)), jax.random.split(key, length))
    return state, Rollout(steps, memory_before), jax.tree.map(lambda x: x.sum(0), finished)


def as_transition(observation, action, following: TimeStep, extras=None) -> Transition:
    """The step from `observation` by `action` to what followed."""
    return Transition(
        observation=observation,
        action=action,
        reward=following.reward,
        terminated=following.terminated,
        truncated=following.truncated & ~following.terminated,
        next_observation=following.observation,
        extras={} if extras is None else extras,
    )
