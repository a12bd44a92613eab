"""To Gymnasium and back: our environments in its API, our policies in its environments. On the host, step by step."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rljax.errors import UserError
from rljax.types import Continuous, Discrete, Env, EnvSpec

try:
    import gymnasium
except ImportError as error:
    raise ImportError("rljax.envs.gymnasium needs Gymnasium: pip install 'rljax-suite[gymnasium]'.") from error


class ToGymnasium(gymnasium.Env):
    """Our environment as a gymnasium.Env. `reset(seed=...)` begins a new stream of keys."""

    def __init__(self, env: Env, seed: int = 0):
        spec = env.spec
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, spec.observation_shape, np.float32)
        self.action_space = action_space(spec.action)
        self._reset, self._step = jax.jit(env.reset), jax.jit(env.step)
        self._key = jax.random.key(seed)
        self._state = None

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        if seed is not None:
            self._key = jax.random.key(seed)
        self._state, observation = self._reset(self._next_key())
        return np.asarray(observation), {}

    def step(self, action):
        self._state, following = self._step(self._state, action, self._next_key())
        following = jax.device_get(following)
        ends = bool(following.terminated), bool(following.truncated)
        return following.observation, float(following.reward), *ends, following.info

    def _next_key(self):
        self._key, key = jax.random.split(self._key)
        return key


def action_space(action: Discrete | Continuous) -> gymnasium.Space:
    if isinstance(action, Discrete):
        return gymnasium.spaces.Discrete(action.num_actions)
    return gymnasium.spaces.Box(action.low, action.high, action.shape, np.float32)


def evaluate_in_gymnasium(
    act: Callable,
    env_id: str,
    num_episodes: int,
    seed: int,
    memory: Any = (),
    spec: EnvSpec | None = None,
    receive: Callable = lambda memory, reward: memory,
) -> np.ndarray:
    """Runs a policy in a Gymnasium environment, one episode after another.

    Args:
      act: (observation [1, ...] float32, memory, key) -> (action [1, ...], memory). Called at every step, so jit it.
        Continuous actions are clipped to [-1, 1] and rescaled to the environment's bounds.
      memory: what every episode begins with.
      receive: (memory, reward [1]) -> memory, the agent's, called after each step.
      spec: what the policy was trained on; if given, the environment's shapes are held to it before the first step.
    Returns:
      the undiscounted returns [num_episodes].
    Raises ValueError if the shapes of policy and environment differ.
    """
    env = gymnasium.make(env_id)
    try:
        if spec is not None:
            _check_same(env_id, "observations", env.observation_space.shape, "the policy's", spec.observation_shape)
            ours = action_space(spec.action)
            _check_same(env_id, "actions", _actions(env.action_space), "the policy's", _actions(ours))
        key = jax.random.key(seed)
        returns = np.zeros(num_episodes)
        for episode in range(num_episodes):
            observation, _ = env.reset(seed=seed if episode == 0 else None)
            remembered, done = memory, False
            while not done:
                key, act_key = jax.random.split(key)
                action, remembered = act(np.asarray(observation, np.float32)[None], remembered, act_key)
                observation, reward, terminated, truncated, _ = env.step(_to_gymnasium(action, env))
                remembered = receive(remembered, np.float32([reward]))
                returns[episode] += reward
                done = terminated or truncated
        return returns
    finally:
        env.close()


def _to_gymnasium(action, env):
    """The policy's action [1, ...] as one of the environment's."""
    space, action = env.action_space, np.asarray(action)
    _check_same(env.spec.id, "actions", (1, *space.shape), "the policy gave", action.shape)
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(action[0]) + int(space.start)
    action = (np.clip(action[0], -1.0, 1.0) + 1.0) * 0.5 * (space.high - space.low) + space.low
    return action.astype(space.dtype)


def _actions(space):
    return f"one of {space.n}" if isinstance(space, gymnasium.spaces.Discrete) else space.shape


def _check_same(env_id, what, theirs, who, ours):
    if theirs != ours:
        raise UserError(f"{env_id} has {what} of shape {theirs}, {who} {ours}.")
