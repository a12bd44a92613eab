"""Cloning by policies that cannot be steep. Al Makdah, Krishnan & Pasqualetti, 2021, arXiv:2103.16629.

Actions are regressed on observations such that |pi(x) - pi(y)| <= bound |x - y|. Whoever changes what the policy sees by d then
changes what it does by at most bound d; the bound trades this against how closely the demonstrator is followed. It is kept

  between the data   by a primal-dual method, an augmented Lagrangian. The paper has multipliers for the edges of a graph of states;
                     here all pairs of a batch are edges and share one multiplier, on the steepest of them
  by construction    everywhere: no layer stretches (rljax/networks/spectral.py), and the output is multiplied by the bound. With
                     `group_sort` such networks can be as steep as they may, with `relu` hardly (Anil et al., 2019, "Sorting out
                     Lipschitz function approximation", arXiv:1811.05381)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rljax import distributions, sources
from rljax.errors import UserError
from rljax.losses import behaviour
from rljax.networks import spectral
from rljax.networks.feed_forward import FeedForward
from rljax.networks.torsos import NOT_STRETCHING
from rljax.record import record, static
from rljax.types import Agent, Continuous, Env, EnvSpec, Key, Metrics, Model, Params, Sample, Source
from rljax.updates import descend


@record
class Config:
    bound: float = 1.0  # of the change of the action by that of the observation, in euclidean norms
    learning_rate: float = 1e-3
    multiplier_learning_rate: float = 0.01  # between the data
    damping: float = (
        0.3  # added to the multiplier for each unit of the present excess, or it would swing about its value
    )
    by_construction: bool = static(False)
    hidden: tuple[int, ...] = static((64, 64))
    activation: str = static("group_sort")
    dtype: str = static("float32")
    batch_size: int = static(256)
    num_updates: int = static(8)  # on batches drawn together


class State(NamedTuple):
    policy: Model
    multiplier: Float[Array, ""]  # what steepness beyond the bound costs; stays 0 by construction


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """Cloning for continuous actions and flat observations. Reads a `Sample` [B] at a time. Acts without chance.

    Raises:
      UserError: actions are discrete, observations are not vectors, or an activation stretches.
    """
    if not isinstance(spec.action, Continuous) or len(spec.observation_shape) != 1:
        raise UserError("Lipschitz cloning needs continuous actions and vectors as observations.")
    if config.by_construction and config.activation not in NOT_STRETCHING:
        raise UserError(f"The activation {config.activation!r} stretches; one of: {', '.join(NOT_STRETCHING)}.")
    network = FeedForward(spec.action.size, config.hidden, activation=config.activation, dtype=config.dtype)
    optimiser = optax.adam(config.learning_rate)

    def init(key: Key) -> State:
        params = network.init(key, jnp.zeros((1, *spec.observation_shape)))
        return State(Model(params, optimiser.init(params)), jnp.float32(0.0))

    def mean_action(params: Params, observation):
        if config.by_construction:
            return config.bound * network.apply(spectral.normalised(params), observation)
        return network.apply(params, observation)

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        action = mean_action(state.policy.params, observation)
        return distributions.in_box(spec.action, action), memory, {}  # clipping does not stretch either

    def update(state: State, batch: Sample, key: Key) -> tuple[State, Metrics]:
        steps = batch.transition

        def loss(params):
            action = mean_action(params, steps.observation)
            distance = jax.vmap(behaviour.squared_distance, (0, 0, None))(action, steps.action, False)
            error = (batch.weight * distance).mean()
            to_all = jax.vmap(behaviour.squared_slope, (None, 0, None, 0))
            slopes = jax.vmap(to_all, (0, None, 0, None))(action, action, steps.observation, steps.observation)
            steepest = jnp.sqrt(slopes.ravel()[slopes.argmax()] + 1e-12)
            metrics = {"loss/policy": error, "policy/steepest": steepest, "policy/multiplier": state.multiplier}
            excess = steepest - config.bound
            price = jnp.maximum(state.multiplier + config.damping * excess, 0.0)
            return error + (0.0 if config.by_construction else jax.lax.stop_gradient(price) * excess), metrics

        policy, metrics = descend(optimiser, state.policy, loss)
        multiplier = state.multiplier
        if not config.by_construction:
            excess = metrics["policy/steepest"] - config.bound
            multiplier = jnp.maximum(multiplier + config.multiplier_learning_rate * excess, 0.0)
        return State(policy, multiplier), metrics

    return Agent(init, act, update)


def source(env: Env, config: Config, dataset) -> Source:
    """Transitions of the dataset; the environment is only evaluated in."""
    return sources.at_rest(dataset, batch_size=config.batch_size, num_batches=config.num_updates, gamma=1.0)
