"""Behaviour cloning: the policy under which the data's actions are most likely. Pomerleau, 1988.

The best x % of the data (Chen et al., 2021, arXiv:2106.01345, section 5) is a dataset's option: `--dataset='PATH?top=0.1'`.
"""

import jax.numpy as jnp
import optax

from rljax import sources
from rljax.networks.feed_forward import structure
from rljax.networks.policies import Policy, log_prob_of, sample_or_mode
from rljax.record import record, static
from rljax.types import Agent, Continuous, Env, EnvSpec, Key, Metrics, Model, Sample, Source
from rljax.updates import descend


@record
class Config:
    """Defaults: the network and optimiser of the offline family (arXiv:2110.06169, appendix B)."""

    learning_rate: float = 3e-4
    hidden: tuple[int, ...] = static((256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    dtype: str = static("float32")
    clipped: bool = static(False)  # likelihoods of actions at their box's border: of all that is clipped to it; slower
    batch_size: int = static(256)
    num_updates: int = static(8)  # on batches drawn together


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """Cloning of any actions. Reads a `Sample` [B] at a time; its state is the policy's Model."""
    policy = Policy(spec, structure(spec, config))
    optimiser = optax.adam(config.learning_rate)

    def init(key: Key) -> Model:
        params = policy.init(key, jnp.zeros((1, *spec.observation_shape)))
        return Model(params, optimiser.init(params))

    def act(state: Model, observation, memory, key: Key, explore: bool = True):
        return sample_or_mode(policy.apply(state.params, observation), spec, key, explore), memory, {}

    def log_prob(state: Model, observation, action, explore: bool = True):
        return log_prob_of(policy.apply(state.params, observation), spec, action, explore)

    def update(state: Model, batch: Sample, key: Key) -> tuple[Model, Metrics]:
        def loss(params):
            steps = batch.transition
            acting = policy.apply(params, steps.observation)
            exactly = config.clipped and isinstance(spec.action, Continuous)
            log_prob = log_prob_of(acting, spec, steps.action, True) if exactly else acting.log_prob(steps.action)
            value = -(batch.weight * log_prob).mean()
            return value, {"loss/policy": value}

        return descend(optimiser, state, loss)

    return Agent(init, act, update, log_prob=log_prob)


def source(env: Env, config: Config, dataset) -> Source:
    """Transitions of the dataset; the environment is only evaluated in."""
    return sources.at_rest(dataset, batch_size=config.batch_size, num_batches=config.num_updates, gamma=1.0)
