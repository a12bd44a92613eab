"""Rewards of what is seen and done, and of what was before it in the episode: of whole segments, or step by step with a memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rljax.errors import UserError
from rljax.names import nearest
from rljax.networks.policies import action_vector, blank_action
from rljax.networks.torsos import MLP, Torso
from rljax.networks.transformer import Transformer, push
from rljax.types import EnvSpec, Key, Params, Transition

KINDS = ("instance", "embedding", "recurrent", "skip")


class SequenceReward(NamedTuple):
    """A reward with a memory of the episode, as pure functions of its parameters.

    init: (key) -> params.
    score: (params, steps [B, K], mask [B, K], key) -> [B], what segments are worth, from nothing remembered on. With a key
      dropout is active where there is some.
    reward: (params, steps [B], memory [B]) -> (reward [B], memory).
    memory: of one episode at its start; `()` where none is needed.
    """

    init: Callable[[Key], Params]
    score: Callable[..., Array]
    reward: Callable[[Params, Transition, Any], tuple[Array, Any]]
    memory: Any = ()


class Recurrent(nn.Module):
    """(memory [*B], observation [K, *B, ...], *inputs [K, *B, any]) -> (memory, reward [K, *B]), along time. One of KINDS:

      instance    the reward is of the step alone, and the memory `()`
      recurrent   of an LSTM's state after the step
      skip        of that state and the step's features beside it
      embedding   what the step adds to a worth that is told from that state, so that the sum is the worth after the last step

    The models of Early et al., 2022 (see agents/preference/mil.py). A memory is the LSTM's two states and the worth so far.

    Args:
      hidden: of the features. head: hidden layers from there, or from the LSTM, to the reward.
      rank: dimensions of one observation.
      bounded: what the head tells lies in (-1, 1), by a tanh.
    """

    kind: str
    hidden: tuple[int, ...]
    units: int
    head: tuple[int, ...] = ()
    rank: int = 1
    channels: tuple[int, ...] = ()
    activation: str = "relu"
    bounded: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, memory, observation, *inputs):
        seen = Torso((), self.rank, self.channels, self.activation, dtype=self.dtype)(observation)
        joined = jnp.concatenate([seen, *inputs], axis=-1)
        features = Torso(self.hidden, 1, (), self.activation, dtype=self.dtype)(joined)
        if self.kind != "instance":
            along_time = nn.scan(nn.OptimizedLSTMCell, variable_broadcast="params", split_rngs={"params": False})
            *cell, before = memory
            cell, state = along_time(self.units, dtype=self.dtype)(tuple(cell), features)
            features = jnp.concatenate([features, state], axis=-1) if self.kind == "skip" else state
        told = MLP((*self.head, 1), self.activation, dtype=self.dtype)(features)[..., 0]
        told = jnp.tanh(told) if self.bounded else told
        if self.kind == "instance":
            return (), told
        if self.kind == "embedding":
            return (*cell, told[-1]), jnp.diff(told, axis=0, prepend=before[None])
        return (*cell, before), told


def recurrent(spec: EnvSpec, network: Recurrent, of_actions: bool = True) -> SequenceReward:
    """The sum of a `Recurrent` network's rewards, of observations and, with `of_actions`, actions.

    Raises:
      UserError: the network is of no kind there is.
    """
    if network.kind not in KINDS:
        raise UserError(f"There is no kind of reward {network.kind!r}; {nearest(network.kind, KINDS)}")
    states = jnp.zeros(network.units)
    memory = () if network.kind == "instance" else (states, states, jnp.zeros(()))

    def along(params, memory, steps: Transition):
        action = (action_vector(spec, steps.action),) if of_actions else ()
        return network.apply(params, memory, steps.observation, *action)

    def blank(size):
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape)), memory)

    def init(key: Key) -> Params:
        action = (action_vector(spec, blank_action(spec, 1, 1)),) if of_actions else ()
        return network.init(key, blank(1), jnp.zeros((1, 1, *spec.observation_shape)), *action)

    def score(params, steps: Transition, mask: Bool[Array, "B K"], key: Key | None = None) -> Float[Array, " B"]:
        in_time = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), steps.replace(extras={}))
        found = along(params, blank(mask.shape[0]), in_time)[1]
        return jnp.where(mask.T, found, 0.0).sum(axis=0)

    def reward(params, steps: Transition, memory):
        memory, found = along(params, memory, jax.tree.map(lambda x: x[None], steps.replace(extras={})))
        return found[0], memory

    return SequenceReward(init, score, reward, memory)


class PreferenceTransformer(nn.Module):
    """(observation [B, K, ...], action [B, K, A], mask [B, K]) -> (reward [B, K], weight [B, K]).

    Kim et al., 2023, arXiv:2303.00957. A causal transformer reads an observation and an action of each step and tells its reward
    from what it makes of the action. What the steps of a segment then weigh is told by attention that sees all of it: of the
    softmax over its steps that each step asks for, the mean over those who ask. Weights sum to 1 over the steps of the mask and
    are 0 elsewhere, as rewards are.

    Args:
      context: the most steps K.
      rank: dimensions of one observation.
    """

    context: int
    width: int
    num_layers: int
    num_heads: int
    dropout: float = 0.0
    rank: int = 1
    channels: tuple[int, ...] = ()
    activation: str = "relu"

    @nn.compact
    def __call__(self, observation, action, mask: Bool[Array, "B K"], key: Key | None = None):
        batch, steps = mask.shape
        seen = Torso((), self.rank, self.channels, self.activation)(observation)
        place = jnp.clip(jnp.cumsum(mask, axis=1) - 1, 0, self.context - 1)  # in the segment, wherever its padding is
        place = nn.Embed(self.context, self.width, name="place")(place)
        parts = nn.Dense(self.width, name="observation")(seen), nn.Dense(self.width, name="action")(action)
        tokens = jnp.stack([part + place for part in parts], axis=2).reshape(batch, 2 * steps, self.width)
        transformer = Transformer(self.num_layers, self.num_heads, self.dropout)
        read = transformer(nn.LayerNorm()(tokens), jnp.repeat(mask, 2, axis=1), key)[:, 1::2]  # at the actions
        asked, offered = nn.Dense(self.width, name="query")(read), nn.Dense(self.width, name="key")(read)
        reward = nn.Dense(1, name="reward")(read)[..., 0]
        logits = jnp.einsum("bid,btd->bit", asked, offered) / jnp.sqrt(self.width)
        share = jax.nn.softmax(jnp.where(mask[:, None, :], logits, jnp.finfo(jnp.float32).min), axis=-1)
        weight = jnp.where(mask[..., None], share, 0.0).sum(axis=1) / jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
        return jnp.where(mask, reward, 0.0), weight


class Window(NamedTuple):
    """The last L steps of an episode, padded in front."""

    observation: Array  # [*B, L, ...]
    action: Array  # [*B, L, ...]
    count: Int[Array, "*B"]  # of the episode's steps so far


def attended(spec: EnvSpec, network: PreferenceTransformer) -> SequenceReward:
    """Segments are worth the weighted sum of their rewards. A step's reward is that of the last one of the `context` steps that end
    with it, as the authors pay data.

    Raises:
      UserError: num_heads does not divide width; a segment that is scored is longer than `context`.
    """
    if network.width % network.num_heads:
        raise UserError(f"num_heads={network.num_heads} must divide width={network.width}.")
    length = network.context
    window = jnp.zeros((length, *spec.observation_shape)), blank_action(spec, length)

    def init(key: Key) -> Params:
        observation, action = (x[None] for x in window)
        return network.init(key, observation, action_vector(spec, action), jnp.ones((1, length), bool))

    def score(params, steps: Transition, mask: Bool[Array, "B K"], key: Key | None = None) -> Float[Array, " B"]:
        if mask.shape[1] > length:
            raise UserError(
                f"Segments of {mask.shape[1]} steps are too long for a transformer of {length}: raise segment."
            )
        found, weight = network.apply(params, steps.observation, action_vector(spec, steps.action), mask, key)
        return (weight * found).sum(axis=1)

    def reward(params, steps: Transition, memory: Window) -> tuple[Float[Array, " B"], Window]:
        count = memory.count + 1
        seen, done = push(memory.observation, steps.observation), push(memory.action, steps.action)
        mask = jnp.arange(length - 1, -1, -1) < count[:, None]
        found, _ = network.apply(params, seen, action_vector(spec, done), mask)
        return found[:, -1], Window(seen, done, count)

    return SequenceReward(init, score, reward, Window(*window, jnp.int32(0)))


def ensembled(model: SequenceReward, size: int) -> SequenceReward:
    """`size` of them side by side: parameters [M], scores [M, B]; rewards [M, B], and memories [B, M]."""
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape)), model.memory)

    def score(params, steps, mask, key=None):
        if key is None:
            return jax.vmap(model.score, (0, None, None))(params, steps, mask)
        return jax.vmap(model.score, (0, None, None, 0))(params, steps, mask, jax.random.split(key, size))

    reward = jax.vmap(model.reward, (0, None, 1), (0, 1))
    return SequenceReward(lambda key: jax.vmap(model.init)(jax.random.split(key, size)), score, reward, memory)
