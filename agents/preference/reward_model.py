"""A reward from judgements of segments, scored by its sum. Christiano et al., 2017, arXiv:1706.03741.

It acts at random; policies are trained on what it found by `--reward_from=RUN`, any agent on its own experience or, as P-IQL is, on
the dataset with rewards told anew. Several networks learn from the same judgements; the reward is their mean.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from rljax import distributions, sources
from rljax.data.feedback import Judged
from rljax.losses import preference
from rljax.networks.ensemble import ensemble
from rljax.networks.feed_forward import FeedForward, structure
from rljax.networks.policies import critic_size, init_critic, q_taken
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Source, Transition
from rljax.updates import descend


@record
class Config:
    """Defaults: PEBBLE's ensemble (github.com/pokaxpoka/B_Pref, reward_model.py)."""

    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    bias: float = 1.0  # the likelihood's number
    likelihood: str = static("pairwise")
    bounded: bool = static(True)  # rewards lie in (-1, 1), by a tanh
    segment: int = static(64)  # steps, cut out of longer ones
    num_models: int = static(3)
    hidden: tuple[int, ...] = static((256, 256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    dtype: str = static("float32")
    batch_size: int = static(128)  # of judgements
    num_updates: int = static(8)  # on batches drawn together


def networks(spec: EnvSpec, config: Config) -> tuple[nn.Module, Callable]:
    """The networks as one, and (params, steps [*B]) -> rewards by each [M, *B]."""
    network = ensemble(FeedForward, config.num_models)(critic_size(spec), **structure(spec, config))

    def rewards(params, steps: Transition) -> Array:
        shape = steps.reward.shape
        flat = [x.reshape(-1, *x.shape[len(shape) :]) for x in (steps.observation, steps.action)]
        found = q_taken(network, spec, params, *flat).reshape(-1, *shape)
        return jnp.tanh(found) if config.bounded else found

    return network, rewards


def scores(rewards: Float[Array, "*B K"], mask: Bool[Array, "#*B K"]) -> Float[Array, "*B"]:
    """Of segments: the sums of their steps' rewards."""
    return jnp.where(mask, rewards, 0.0).sum(axis=-1)


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """A reward of what is seen and done, for any actions. Reads `Judged` [B, G, K] at a time; its state is the networks' Model.

    Raises:
      UserError: there is no such likelihood.
    """
    preference.check(config.likelihood)
    network, rewards = networks(spec, config)
    optimiser = optax.adamw(config.learning_rate, weight_decay=config.weight_decay)

    def init(key: Key) -> Model:
        params = init_critic(network, spec, key)
        return Model(params, optimiser.init(params))

    def update(state: Model, batch: Judged, key: Key) -> tuple[Model, Metrics]:
        def loss(params):
            found = scores(rewards(params, batch.transition), batch.mask)  # [M, B, G]
            told = lambda x: preference.batch_loss(config.likelihood, x, batch.rank, batch.weight, config.bias)
            total = jax.vmap(told)(found).sum()
            return total, {"loss/reward": total, **preference.agreed(found.mean(axis=0), batch.rank)}

        return descend(optimiser, state, loss)

    def act(state: Model, observation, memory, key: Key, explore: bool = True):
        return distributions.uniform_action(spec.action, observation.shape[0], key), memory, {}

    def reward(state: Model, steps: Transition) -> Float[Array, "*B"]:
        return rewards(state.params, steps).mean(axis=0)

    return Agent(init, act, update, reward=reward)


def source(env: Env, config: Config, dataset) -> Source:
    """Judgements of the dataset."""
    return sources.judged(dataset, batch_size=config.batch_size, num_batches=config.num_updates, length=config.segment)
