"""Decision transformer. Chen et al., 2021, arXiv:2106.01345.

A causal transformer reads returns still to come, observations and actions, and says which action the data had there. Asked with
a high return, it acts as the data did where they went on to get it. While acting, what is paid is taken off the return asked for.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from rljax import distributions, sources
from rljax.data.dataset import Segment
from rljax.errors import UserError
from rljax.networks.transformer import Transformer
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
    """The last `context` steps: before the present one, and then it. `time`: steps before it in the episode."""

    return_to_go: Float[Array, "*B K"]
    observation: Array  # [*B, K, ...]
    action: Array  # [*B, K, ...]; the last one is not known yet
    time: Int[Array, "*B"]
    left: Float[Array, "*B"]  # of the return asked for


class Network(nn.Module):
    """(return_to_go [B, K], observation [B, K, ...], action [B, K, ...], time [B, K], mask [B, K]) -> [B, K, A]."""

    spec: EnvSpec
    config: Config

    @nn.compact
    def __call__(self, return_to_go, observation, action, time, mask, key=None):
        config, kind = self.config, self.spec.action
        batch, steps = mask.shape
        size = kind.size if isinstance(kind, Continuous) else kind.num_actions
        taken = action if isinstance(kind, Continuous) else jax.nn.one_hot(action, size)
        limit = self.spec.episode_length
        place = nn.Embed(limit, config.width, name="time")(jnp.minimum(time, limit - 1))
        parts = (
            nn.Dense(config.width, name="return")(return_to_go[..., None] / config.return_scale),
            nn.Dense(config.width, name="observation")(observation.reshape(batch, steps, -1)),
            nn.Dense(config.width, name="action")(taken),
        )
        tokens = jnp.stack([part + place for part in parts], axis=2).reshape(batch, 3 * steps, config.width)
        tokens = nn.LayerNorm()(tokens)
        seen = Transformer(config.num_layers, config.num_heads, config.dropout)(
            tokens, jnp.repeat(mask, 3, axis=1), key
        )
        output = nn.Dense(size)(seen[:, 1::3])  # at the observations, which do not see their own actions
        return jnp.tanh(output) if isinstance(kind, Continuous) else output


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """Decision transformer for any actions. Reads a `Segment` [B, K] at a time; its state is the network's Model.

    Raises:
      UserError: episodes have no time limit, or num_heads does not divide width.
    """
    if spec.episode_length is None:
        raise UserError("The decision transformer needs an environment with a time limit.")
    if config.width % config.num_heads:
        raise UserError(f"num_heads={config.num_heads} must divide width={config.width}.")
    network, continuous = Network(spec, config), isinstance(spec.action, Continuous)
    schedule = lambda count: config.learning_rate * jnp.minimum((count + 1) / config.warmup, 1.0)
    optimiser = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(schedule, weight_decay=config.weight_decay),
    )

    def blank(*batch):
        """Steps of zeros, [*batch, K, ...]."""
        shape = (*batch, config.context)
        action = jnp.zeros((*shape, *spec.action.shape), jnp.float32 if continuous else jnp.int32)
        return jnp.zeros(shape), jnp.zeros((*shape, *spec.observation_shape)), action

    def init(key: Key) -> Model:
        steps = (1, config.context)
        params = network.init(key, *blank(1), jnp.zeros(steps, jnp.int32), jnp.ones(steps, bool))
        return Model(params, optimiser.init(params))

    memory = Memory(*blank(), time=jnp.int32(0), left=jnp.float32(config.target_return))

    def act(state: Model, observation, memory: Memory, key: Key, explore: bool = True):
        push = lambda steps, last: jnp.concatenate([steps[:, 1:], last[:, None]], axis=1)
        returns, observations = push(memory.return_to_go, memory.left), push(memory.observation, observation)
        back = jnp.arange(config.context - 1, -1, -1)
        time = memory.time[:, None] - back
        output = network.apply(state.params, returns, observations, memory.action, jnp.maximum(time, 0), time >= 0)[
            :, -1
        ]
        if continuous:
            action = output
        else:
            choice = distributions.categorical(output)
            action = choice.sample(seed=key) if explore else choice.mode()
        actions = push(memory.action.at[:, -1].set(action), jnp.zeros_like(action))
        return action, Memory(returns, observations, actions, memory.time + 1, memory.left), {}

    def receive(memory: Memory, reward: Float[Array, " B"]) -> Memory:
        return memory._replace(left=memory.left - reward)

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
