"""RvS with returns: supervised learning of the action, given the reward a step that was still to come. Emmons et al., 2021,
arXiv:2112.10751.

A feed-forward decision transformer that sees one step: the policy reads the observation and the mean reward over the steps that
were left of the time limit. Asked with a high one, it acts as the data did where that followed.
"""

import jax.numpy as jnp
import optax

from rljax import sources
from rljax.errors import UserError
from rljax.networks.policies import Policy, sample_or_mode
from rljax.record import record, signed, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Sample, Source
from rljax.updates import descend


@record
class Config:
    """Defaults: the paper's network at a batch size that suits more updates; no dropout (0 for locomotion there)."""

    target_return: float = signed(0.0)  # that is asked for over a whole episode, in the environment's own units
    return_scale: float = 1000.0  # what returns of whole episodes are divided by for the network
    learning_rate: float = 1e-3
    hidden: tuple[int, ...] = static((1024, 1024))
    activation: str = static("relu")
    dtype: str = static("float32")
    batch_size: int = static(256)
    num_updates: int = static(8)  # on batches drawn together


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """RvS-R for any actions and flat observations. Reads a `Sample` [B] at a time; its state is the policy's Model.

    Raises:
      UserError: episodes have no time limit, or observations are not vectors.
    """
    if spec.episode_length is None or len(spec.observation_shape) != 1:
        raise UserError("RvS needs an environment with a time limit and vectors as observations.")
    asked = EnvSpec((spec.observation_shape[0] + 1,), spec.action, spec.episode_length)
    policy = Policy(asked, dict(hidden=config.hidden, activation=config.activation, dtype=config.dtype))
    optimiser = optax.adam(config.learning_rate)

    def distribution(params, observation, return_a_step):
        outcome = return_a_step * spec.episode_length / config.return_scale
        return policy.apply(params, jnp.concatenate([observation, outcome[..., None]], axis=-1))

    def init(key: Key) -> Model:
        params = policy.init(key, jnp.zeros((1, *asked.observation_shape)))
        return Model(params, optimiser.init(params))

    def act(state: Model, observation, memory, key: Key, explore: bool = True):
        target = jnp.full(observation.shape[:1], config.target_return / spec.episode_length)
        return sample_or_mode(distribution(state.params, observation, target), spec, key, explore), memory, {}

    def update(state: Model, batch: Sample, key: Key) -> tuple[Model, Metrics]:
        steps = batch.transition
        left = jnp.maximum(spec.episode_length - steps.extras["time"], 1)
        outcome = steps.extras["return_to_go"] / left

        def loss(params):
            log_prob = distribution(params, steps.observation, outcome).log_prob(steps.action)
            value = -(batch.weight * log_prob).mean()
            return value, {"loss/policy": value}

        return descend(optimiser, state, loss)

    return Agent(init, act, update)


def source(env: Env, config: Config, dataset) -> Source:
    """Transitions of the dataset; the environment is only evaluated in."""
    return sources.at_rest(dataset, batch_size=config.batch_size, num_batches=config.num_updates, gamma=1.0)
