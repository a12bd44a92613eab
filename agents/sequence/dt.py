"""Decision transformer. Chen et al., 2021, arXiv:2106.01345.

A causal transformer reads returns still to come, observations and actions, and says which action the data had there. Asked with
a high return, it acts as the data did where they went on to get it. While acting, what is paid is taken off the return asked for.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from rljax import distributions, sources
from rljax.data.dataset import Segment
from rljax.errors import UserError
from rljax.networks.policies import action_vector, blank_action
from rljax.networks.transformer import Transformer, push
from rljax.record import record, signed, static
from rljax.types import Agent, Continuous, Env, EnvSpec, Key, Metrics, Model, Source
from rljax.updates import descend


@record
class Config:
    """Defaults: for locomotion, those of github.com/kzl/decision-transformer. Give `target_return`: it is what is asked for."""

    target_return: float = signed(0.0)  # that is asked for, in the environment's own units
    return_scale: float = 1000.0  # what returns are divided by for the network
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    warmup: float = 10_000.0  # updates over which the learning rate rises
    max_grad_norm: float = 0.25
    context: int = static(20)  # steps that are seen
    num_layers: int = static(3)
    num_heads: int = static(1)
    width: int = static(128)
    dropout: float = static(0.1)
    batch_size: int = static(64)
    num_updates: int = static(8)  # on batches drawn together


class Memory(NamedTuple):
    """The last K steps: before the present one, and then it. `time`: steps before it in the episode."""

    return_to_go: Float[Array, "*B K"]
    observation: Array  # [*B, K, ...]
    action: Array  # [*B, K, ...]; the last one is not known yet
    time: Int[Array, "*B"]
    left: Float[Array, "*B"]  # of the return asked for

    def seeing(self, observation: Array) -> "Memory":
        """With the observation of the present step, and what is left to ask for there."""
        returns, observations = push(self.return_to_go, self.left), push(self.observation, observation)
        return self._replace(return_to_go=returns, observation=observations)

    def steps(self) -> tuple[Array, ...]:
        """What a network reads: return_to_go, observation, action, time, mask, all [B, K, ...]."""
        time = self.time[:, None] - jnp.arange(self.return_to_go.shape[1] - 1, -1, -1)
        return self.return_to_go, self.observation, self.action, jnp.maximum(time, 0), time >= 0

    def having_done(self, action: Array) -> "Memory":
        """After `action` at the present step."""
        return self._replace(action=push(self.action.at[:, -1].set(action), jnp.zeros_like(action)), time=self.time + 1)


def blank(spec: EnvSpec, *batch: int) -> tuple[Array, Array, Array]:
    """Steps of zeros, [*batch, ...]: return_to_go, observation, action."""
    return jnp.zeros(batch), jnp.zeros((*batch, *spec.observation_shape)), blank_action(spec, *batch)


def receive(memory: Memory, reward: Float[Array, " B"]) -> Memory:
    """What is paid is taken off the return asked for."""
    return memory._replace(left=memory.left - reward)


def read(spec: EnvSpec, config: Any, asked, observation, action, time, mask, key, embed_time: bool = True):
    """What the transformer sees at each step [B, K, width], before its action. To be called in a compact module.

    `asked` [B, K, any] is what it is asked for; `config` has the transformer's `width`, `num_layers`, `num_heads` and `dropout`.
    With `embed_time` a step's place in its episode is added to its tokens; otherwise their order is all that is known of it.
    """
    batch, steps = mask.shape
    place = 0.0
    if embed_time:
        limit = spec.episode_length
        place = nn.Embed(limit, config.width, name="time")(jnp.minimum(time, limit - 1))
    parts = (
        nn.Dense(config.width, name="asked")(asked),
        nn.Dense(config.width, name="observation")(observation.reshape(batch, steps, -1)),
        nn.Dense(config.width, name="action")(action_vector(spec, action)),
    )
    tokens = jnp.stack([part + place for part in parts], axis=2).reshape(batch, 3 * steps, config.width)
    tokens = nn.LayerNorm()(tokens)
    transformer = Transformer(config.num_layers, config.num_heads, config.dropout)
    return transformer(tokens, jnp.repeat(mask, 3, axis=1), key)[:, 1::3]  # at the observations


class Network(nn.Module):
    """(return_to_go [B, K], observation [B, K, ...], action [B, K, ...], time [B, K], mask [B, K]) -> [B, K, A]."""

    spec: EnvSpec
    config: Config

    @nn.compact
    def __call__(self, return_to_go, observation, action, time, mask, key=None):
        kind = self.spec.action
        asked = return_to_go[..., None] / self.config.return_scale
        seen = read(self.spec, self.config, asked, observation, action, time, mask, key)
        output = nn.Dense(kind.size if isinstance(kind, Continuous) else kind.num_actions)(seen)
        return jnp.tanh(output) if isinstance(kind, Continuous) else output


def check(spec: EnvSpec, config: Any) -> None:
    """Refuse what the transformer cannot be made for. Raises UserError."""
    if spec.episode_length is None:
        raise UserError("The decision transformer needs an environment with a time limit.")
    if config.width % config.num_heads:
        raise UserError(f"num_heads={config.num_heads} must divide width={config.width}.")


def rising(config: Any) -> Callable[[Array], Array]:
    """The learning rate by number of updates: it rises over the first `config.warmup`."""
    return lambda count: config.learning_rate * jnp.minimum((count + 1) / config.warmup, 1.0)


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """Decision transformer for any actions. Reads a `Segment` [B, K] at a time; its state is the network's Model.

    Raises:
      UserError: episodes have no time limit, or num_heads does not divide width.
    """
    check(spec, config)
    network, continuous = Network(spec, config), isinstance(spec.action, Continuous)
    optimiser = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(rising(config), weight_decay=config.weight_decay),
    )

    def init(key: Key) -> Model:
        steps = (1, config.context)
        params = network.init(key, *blank(spec, *steps), jnp.zeros(steps, jnp.int32), jnp.ones(steps, bool))
        return Model(params, optimiser.init(params))

    memory = Memory(*blank(spec, config.context), time=jnp.int32(0), left=jnp.float32(config.target_return))

    def act(state: Model, observation, memory: Memory, key: Key, explore: bool = True):
        memory = memory.seeing(observation)
        action = network.apply(state.params, *memory.steps())[:, -1]
        if not continuous:
            choice = distributions.categorical(action)
            action = choice.sample(seed=key) if explore else choice.mode()
        return action, memory.having_done(action), {}

    def update(state: Model, batch: Segment, key: Key) -> tuple[Model, Metrics]:
        steps = batch.transition

        def loss(params):
            output = network.apply(
                params, batch.return_to_go, steps.observation, steps.action, batch.time, batch.mask, key
            )
            if continuous:
                error = jnp.square(output - steps.action).mean(axis=-1)
            else:
                error = optax.softmax_cross_entropy_with_integer_labels(output, steps.action)
            value = jnp.where(batch.mask, error, 0.0).sum() / batch.mask.sum()
            return value, {"loss/policy": value}

        return descend(optimiser, state, loss)

    return Agent(init, act, update, memory, receive)


def source(env: Env, config: Config, dataset) -> Source:
    """Segments of the dataset, longer episodes giving more of them; the environment is only evaluated in."""
    return sources.segments(
        dataset, length=config.context, batch_size=config.batch_size, num_batches=config.num_updates
    )
