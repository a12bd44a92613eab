"""The records that everything passes around: environments, data, agents and sources.

`T` counts steps in time, `B` counts environments or samples, `N` environments side by side. Records hold arrays alone, so
they are vmapped, sharded, saved and restored as they are.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from rljax.errors import UserError
from rljax.record import record

Key = PRNGKeyArray
Params = Any
Metrics = dict[str, Float[Array, ""]]

# --- Environments -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Actions 0 ... num_actions - 1."""

    num_actions: int

    shape: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Continuous:
    """Actions in the box [low, high]. Bounds are numbers, one for all dimensions: environments rescale (see envs.wrappers)."""

    shape: tuple[int, ...]
    low: float = -1.0
    high: float = 1.0

    @property
    def size(self) -> int:
        return self.shape[0]


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Completions: an action is up to `length` tokens at once, and ends its episode. Observations are prompts, int32 [P].

    Token 0 is PAD and token 1 END (rljax.tokens), so a task's own begin at 2 and `vocabulary` counts all of them. A prompt is
    padded before its first token. A completion has its END within `length`, unless it was cut off, and PAD after it.

    An environment of them may have `example(key) -> (prompt [P], right completion [T])`, which `sft` copies; `asked(prompt)`, the
    state of an episode with a prompt of one's own; and for texts `encode(text) -> token ids` and `decode(tokens) -> text`. One that
    judges pairs has `prefer(state, tokens [T], other [T]) -> P(the former is better)`, which `self_play` learns from.

    Agents that pick one of some actions, or a point in a box, ask for `num_actions` or `size` and are refused.
    """

    vocabulary: int
    length: int

    def __post_init__(self):
        if self.vocabulary <= 2 or self.length < 1:
            raise UserError(
                f"{self.vocabulary} tokens, of which 0 is PAD and 1 is END, in completions of {self.length} say nothing."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def num_actions(self) -> int:
        raise UserError(
            "Actions here are completions of tokens, which need an agent that writes them: grpo, dpo, sft ..."
        )

    size = num_actions


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """What an agent must know of its environment.

    observation_shape: shape of one observation.
    action: Discrete, Continuous or Tokens.
    episode_length: steps within which the environment ends or truncates each episode; None where nothing bounds it.
    costly_reset: a reset costs as much as many steps, so rollouts prepare starts ahead (see rljax.rollout).
    num_rewards: sources that the reward is the sum of; where there are several, each step's `info["rewards"]` [num_rewards] tells
      what each paid.
    """

    observation_shape: tuple[int, ...]
    action: Discrete | Continuous | Tokens
    episode_length: int | None = None
    costly_reset: bool = False
    num_rewards: int = dataclasses.field(default=1, kw_only=True)


@record
class TimeStep:
    """What follows an action. `observation` is the one the dynamics led to: an episode's last one is never replaced.

    terminated: the MDP ended; nothing follows and the value of `observation` is 0.
    truncated: the episode was stopped from outside (a time limit); the value of `observation` counts.
    """

    observation: Array
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]
    info: dict[str, Array] = dataclasses.field(default_factory=dict)


class Env(Protocol):
    """One environment as a frozen pytree: its numeric parameters are leaves, so dynamics are vmapped like anything else.

    An environment never resets itself: whoever steps it does (`rljax.rollout` for the sources), so that the last observation
    of an episode is always at hand.
    """

    @property
    def spec(self) -> EnvSpec: ...

    def reset(self, key: Key) -> tuple[Any, Array]:
        """The state and the first observation of a new episode."""

    def step(self, state: Any, action: Array, key: Key) -> tuple[Any, TimeStep]:
        """One step from `state`."""


# --- Data -------------------------------------------------------------------------------------------------------------


@record
class Transition:
    """Steps of the MDP: one, a batch [B] or a rollout [T, B] (then row t follows row t - 1, cut where an episode ended).

    next_observation is what the dynamics led to, so `value(next_observation)` is the right bootstrap after a time limit.
    `extras` holds what acting gave besides the action (`log_prob` ...), and `rewards` [*B, D] where the reward has several sources.
    """

    observation: Array
    action: Array
    reward: Float[Array, "*B"]
    terminated: Bool[Array, "*B"]
    truncated: Bool[Array, "*B"]
    next_observation: Array
    extras: dict[str, Array] = dataclasses.field(default_factory=dict)

    @property
    def done(self) -> Bool[Array, "*B"]:
        """An episode ended with this step, for whichever reason."""
        return self.terminated | self.truncated


@record
class Rollout:
    """Steps of N environments side by side, and the agent's memory before the first of them (`()` for the memoryless)."""

    steps: Transition  # [T, N]
    memory: Any  # [N]


@record
class Sample:
    """A batch drawn from a replay: transitions [B], importance weights [B] (1 where drawn uniformly), where it lay [B].

    `transition.reward` and `discount` may span several steps: `reward` is their discounted sum and the target is
    `reward + discount * value(next_observation)`, with `discount` 0 after a termination.
    """

    transition: Transition
    discount: Float[Array, " B"]
    weight: Float[Array, " B"]
    slot: Int[Array, " B"]


# --- Agents and sources -----------------------------------------------------------------------------------------------


class Agent(NamedTuple):
    """Pure functions that learn and act; the state is a pytree of arrays alone.

    init:   (key) -> state
    act:    (state, observation [B, ...], memory [B, ...], key, explore) -> (action [B, ...], memory, extras); of those that write
      tokens also (..., explore, beginning [B, T]), what completions begin with, of which an observation may have several
      (`networks.language_model.complete`)
    update: (state, batch, key) -> (state, metrics)
    memory: what one environment remembers at the start of an episode (a recurrent state); `()` for the memoryless.
    receive: (memory [B, ...], reward [B]) -> memory, called after each step, for memories that count what was paid.
    log_prob: (state, observation [B, ...], action [B, ...], explore) -> [B], under the law that `act` draws from; None where
      it is not known or depends on a memory. Off-policy evaluation weighs by it.
    reward: (state, steps: Transition [B]) -> [B], what the agent has learned that steps are worth, whatever they were paid;
      None where it learns no reward. Another agent can be trained on it.
    reward_memory: what `reward` remembers at the start of an episode, where a step's worth depends on those before it; it is then
      (state, steps [B], memory [B, ...]) -> (reward [B], memory). `()` for rewards of single steps.
    score: (state, steps [B, K], mask [B, K]) -> [B], what segments are worth, told nothing of what was before them; None where
      that is the sum of `reward`.
    token_log_probs: (state, prompt [Q, P], tokens [B, T]) -> ([B, T], [B, T]), of those that write: of each token of completions,
      by the policy and by its reference, 0 where none stands. None for others.

    Metrics are scalars. One name is kept apart: `priority` [B], the new replay priorities of the batch, which the loop hands
    to the source.
    """

    init: Callable[[Key], Any]
    act: Callable[..., tuple[Array, Any, dict[str, Array]]]
    update: Callable[[Any, Any, Key], tuple[Any, Metrics]]
    memory: Any = ()
    receive: Callable[[Any, Array], Any] = lambda memory, reward: memory
    log_prob: Callable[..., Array] | None = None
    reward: Callable[..., Any] | None = None
    reward_memory: Any = ()
    score: Callable[[Any, Transition, Array], Array] | None = None
    token_log_probs: Callable[[Any, Array, Array], tuple[Array, Array]] | None = None


class Source(NamedTuple):
    """Where the next batch comes from.

    init: (agent, key) -> state
    next: (state, agent, agent_state, key) -> (state, batch, metrics)
    feedback: (state, batch, priority [B]) -> state, or None: learn from what the update found (prioritised replay).
    env_steps: environment steps that one `next` takes; 0 for data at rest.
    warmup_steps: environment steps that `init` takes.
    num_batches: with more than one, `next` gives a stack of batches [num_batches, ...] and the loop updates on each in turn.
    """

    init: Callable[[Agent, Key], Any]
    next: Callable[[Any, Agent, Any, Key], tuple[Any, Any, Metrics]]
    feedback: Callable[[Any, Any, Array], Any] | None = None
    env_steps: int = 0
    warmup_steps: int = 0
    num_batches: int = 1


class Model(NamedTuple):
    """A network's parameters and its optimiser's state: one of each, so that nothing moves that was not updated."""

    params: Params
    opt_state: Any


def initial_memory(agent: Agent, batch_size: int) -> Any:
    """The memory of `batch_size` environments at the start of their episodes, [batch_size, ...]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (batch_size, *x.shape)), agent.memory)
