"""To Gymnasium and back: our environments in its API, our policies in its environments. On the host, step by step."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from rljax.errors import UserError
from rljax.evaluate import Episodes
from rljax.record import record, static
from rljax.types import Continuous, Discrete, Env, EnvSpec, Transition

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


@record
class FromGymnasium:
    """What is known of an environment of Gymnasium: its spec. It is stepped on the host, by `play`, never in a program."""

    env_id: str = static()
    spec: EnvSpec = static()
    rescaled: bool = static(False)  # whether its own actions lie elsewhere than in [-1, 1]

    def reset(self, key):
        raise UserError(
            f"gymnasium/{self.env_id} is stepped on the host, so nothing that steps it on the device can run: train agents that "
            "learn from data alone, by --dataset; evaluate and collect work with any."
        )

    def step(self, state, action, key):
        return self.reset(key)


def from_gymnasium(env_id: str) -> FromGymnasium:
    """The environment of Gymnasium of that id. Actions of a box are rescaled to [-1, 1].

    Raises:
      UserError: there is none, or its observations or actions are of a kind that agents here do not know.
    """
    with contextlib.closing(_make(env_id)) as env:
        observations, actions = env.observation_space, env.action_space
        if not isinstance(observations, gymnasium.spaces.Box):
            raise UserError(f"{env_id} has observations that are a {type(observations).__name__}; only Box is known.")
        rescaled = False
        if isinstance(actions, gymnasium.spaces.Discrete):
            action = Discrete(int(actions.n))
        elif isinstance(actions, gymnasium.spaces.Box) and len(actions.shape) == 1 and actions.is_bounded():
            action = Continuous(actions.shape)
            rescaled = bool((actions.low != -1.0).any() or (actions.high != 1.0).any())
        else:
            raise UserError(f"{env_id} has actions {actions}; only Discrete and a bounded Box of one axis are known.")
        return FromGymnasium(env_id, EnvSpec(observations.shape, action, env.spec.max_episode_steps), rescaled)


def play(
    act: Callable,
    env_id: str,
    seed: int,
    memory: Any = (),
    spec: EnvSpec | None = None,
    receive: Callable = lambda memory, reward: memory,
) -> Iterator[Transition]:
    """Steps of a policy in a Gymnasium environment, for ever, one episode after another.

    Args:
      act: (observation [1, ...] float32, memory, key) -> (action [1, ...], memory). Called at every step, so jit it.
        Continuous actions are clipped to [-1, 1] and rescaled to the environment's bounds.
      seed: of the policy's keys and of the first episode; the others follow from it.
      memory: what every episode begins with.
      receive: (memory, reward [1]) -> memory, the agent's, called after each step.
      spec: what the policy was trained on; if given, the environment's shapes are held to it before the first step.
    Yields:
      one step at a time, as numpy arrays without a batch axis; the action is the clipped one in [-1, 1].
    Raises ValueError if the shapes of policy and environment differ.
    """
    with contextlib.closing(_make(env_id)) as env:
        if spec is not None:
            _check_same(env_id, "observations", env.observation_space.shape, "the policy's", spec.observation_shape)
            ours = action_space(spec.action)
            _check_same(env_id, "actions", _actions(env.action_space), "the policy's", _actions(ours))
        split = jax.jit(lambda key: tuple(jax.random.split(key)))
        key = jax.random.key(seed)
        reset_seed = seed
        while True:
            observation, _ = env.reset(seed=reset_seed)
            reset_seed, remembered, done = None, memory, False
            observation = np.asarray(observation, np.float32)
            while not done:
                key, act_key = split(key)
                action, remembered = act(observation[None], remembered, act_key)
                action = _clipped(action, env)
                following, reward, terminated, truncated, _ = env.step(_to_gymnasium(action, env))
                remembered = receive(remembered, np.float32([reward]))
                following, done = np.asarray(following, np.float32), bool(terminated or truncated)
                ends = np.bool_(terminated), np.bool_(truncated and not terminated)
                yield Transition(observation, action, np.float32(reward), *ends, following)
                observation = following


def evaluate_in_gymnasium(act: Callable, env_id: str, num_episodes: int, *args, **kwargs) -> Episodes:
    """Return and length of whole episodes of a policy in a Gymnasium environment, [num_episodes]; arguments are those of `play`."""
    returns, lengths = np.zeros(num_episodes), np.zeros(num_episodes, int)
    episode = 0
    with contextlib.closing(play(act, env_id, *args, **kwargs)) as steps:
        while episode < num_episodes:
            step = next(steps)
            returns[episode] += step.reward
            lengths[episode] += 1
            episode += bool(step.done)
    return Episodes(returns, lengths, np.ones(num_episodes, bool))


def collect_in_gymnasium(act: Callable, env_id: str, length: int, *args, **kwargs) -> Transition:
    """`length` steps of a policy in a Gymnasium environment, [length] in time order; arguments are those of `play`.

    The last step is truncated, if nothing else ended there.
    """
    with contextlib.closing(play(act, env_id, *args, **kwargs)) as steps:
        steps = jax.tree.map(lambda *x: np.stack(x), *itertools.islice(steps, length))
    steps.truncated[-1] = not steps.terminated[-1]
    return steps


def _make(env_id: str) -> gymnasium.Env:
    try:
        return gymnasium.make(env_id)
    except (gymnasium.error.Error, ImportError) as error:  # there is none, or what it needs is not installed
        raise UserError(f"Gymnasium cannot make {env_id!r}: {error}") from error


def _clipped(action, env) -> np.ndarray:
    """The policy's action [1, ...] as one of ours [...]."""
    action = np.asarray(action)
    _check_same(env.spec.id, "actions", (1, *env.action_space.shape), "the policy gave", action.shape)
    return action[0] if isinstance(env.action_space, gymnasium.spaces.Discrete) else np.clip(action[0], -1.0, 1.0)


def _to_gymnasium(action: np.ndarray, env):
    """An action of ours as one of the environment's."""
    space = env.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(action) + int(space.start)
    action = (action + 1.0) * 0.5 * (space.high - space.low) + space.low
    return action.astype(space.dtype)


def _actions(space):
    return f"one of {space.n}" if isinstance(space, gymnasium.spaces.Discrete) else space.shape


def _check_same(env_id, what, theirs, who, ours):
    if theirs != ours:
        raise UserError(f"{env_id} has {what} of shape {theirs}, {who} {ours}.")
