"""An ensemble of probabilistic models of what steps lead to. Chua et al., 2018, "Deep reinforcement learning in a handful of trials
using probabilistic dynamics models" (PETS), arXiv:1805.12114; with rewards, as in Janner et al., 2019 (MBPO), arXiv:1906.08253.

Each member tells a normal law of (next observation - observation, reward) with a diagonal covariance, and how likely the step
terminates, by what is seen and done. A bootstrap sets the members apart: each counts a row of the data as often as a Poisson law of
mean 1 says, the same whenever it is drawn. A share of the rows is held out, and the members that err least on them, the elites, are
those that steps are drawn from.

Inputs and targets are normalised by the statistics of what was learned from. Theirs normalise inputs alone, are told the rule by
which an environment terminates, and stop when the held-out error no longer falls; here a number of updates is given.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, UInt

from rljax import normalize
from rljax.errors import UserError
from rljax.losses import dynamics as losses
from rljax.networks.ensemble import ensemble
from rljax.networks.feed_forward import FeedForward
from rljax.networks.policies import action_vector, blank_action
from rljax.normalize import RunningStatistics
from rljax.record import record, static
from rljax.types import EnvSpec, Key, Metrics, Model, Params, Sample, Transition
from rljax.updates import descend

LOG_VARIANCE_RANGE = (-10.0, 0.5)  # of the bounds at the start, of normalised targets
BOUND_WEIGHT = 0.01  # by which the bounds are drawn to each other
FORGETTING = 0.01  # share of the latest batch in the held-out errors
POISSON = np.cumsum([np.exp(-1.0) / np.prod(np.arange(1.0, k + 1)) for k in range(9)])  # P(at most k)


@record
class Config:
    """What a config has whose agent learns such a model. Defaults: the authors' of MOPO (github.com/tianheyu927/mopo), but one
    weight decay for all layers, where theirs rise from 2.5e-5 to 1e-4."""

    model_learning_rate: float = 1e-3
    weight_decay: float = 5e-5  # half of it times the squared weights
    held_out: float = 0.1  # share of the rows
    beta: float = 0.0  # above 0, errors weigh more where the variance is large (rljax.losses.dynamics)
    num_members: int = static(7)
    num_elites: int = static(5)
    model_hidden: tuple[int, ...] = static((200, 200, 200, 200))


class Prediction(NamedTuple):
    """What each member foretells of B steps. The numbers are the change of the observation and the reward, D = O + 1."""

    mean: Float[Array, "E B D"]
    std: Float[Array, "E B D"]
    ended: Float[Array, "E B"]  # probability of a termination


class State(NamedTuple):
    network: Model
    inputs: RunningStatistics
    targets: RunningStatistics
    terminations: Float[Array, ""]  # seen so far
    error: Float[Array, " E"]  # held-out mean squared error of normalised targets
    salt: UInt[Array, ""]  # by which rows are held out and counted
    updates: Int[Array, ""]


class Dynamics(NamedTuple):
    """A learned model as pure functions.

    init: (key) -> State
    learn: (state, batch: Sample [B]) -> (state, metrics), one gradient step of all members. Steps are told apart by their `slot`.
    predict: (state, observation [B, O], action [B, ...]) -> Prediction
    elites: (state) -> members [num_elites] of least held-out error
    step: (state, observation [B, O], action [B, ...], key) -> Transition [B], each row drawn from the law of an elite; what
      little is known of it is among its extras, `spread` and `deviation` (rljax.losses.dynamics).
    """

    init: Callable[[Key], State]
    learn: Callable[[State, Sample], tuple[State, Metrics]]
    predict: Callable[[State, Array, Array], Prediction]
    elites: Callable[[State], Int[Array, " M"]]
    step: Callable[[State, Array, Array, Key], Transition]


class Ensemble(nn.Module):
    """(input [*B, I]) -> mean and log variance [E, *B, D], and logit of a termination [E, *B]. The bounds are all members'."""

    num_members: int
    size: int
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        output = ensemble(FeedForward, self.num_members)(2 * self.size + 1, self.hidden, activation="silu")(x)
        mean, raw, logit = jnp.split(output, [self.size, 2 * self.size], axis=-1)
        low, high = (
            self.param(name, nn.initializers.constant(bound), (self.size,))
            for name, bound in zip(("lowest", "highest"), LOG_VARIANCE_RANGE)
        )
        return mean, losses.softly_bounded(raw, low, high), logit[..., 0]


def split_and_counts(
    salt: UInt[Array, ""], row: Int[Array, " B"], held_out: Float[Array, ""], num_members: int
) -> tuple[Bool[Array, " B"], Float[Array, "E B"]]:
    """Which rows are held out, and how often each member counts the others (0 for those held out): of a row always the same."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(salt), row)
    u = jax.vmap(lambda key: jax.random.uniform(key, (num_members + 1,)))(keys)
    out = u[:, 0] < held_out
    counts = (u[:, 1:, None] > POISSON).sum(axis=-1).T
    return out, jnp.where(out, 0, counts).astype(jnp.float32)


def make(spec: EnvSpec, config: Config) -> Dynamics:
    """The model of environments whose observations are vectors.

    Raises:
      UserError: they are not, or there are fewer members than elites.
    """
    if len(spec.observation_shape) != 1:
        raise UserError(f"The model foretells observations that are vectors, not of shape {spec.observation_shape}.")
    if config.num_elites > config.num_members:
        raise UserError(f"num_elites={config.num_elites} must be at most num_members={config.num_members}.")
    (size,) = spec.observation_shape
    network = Ensemble(config.num_members, size + 1, config.model_hidden)
    optimiser = optax.adam(config.model_learning_rate)

    def inputs_of(observation, action):
        return jnp.concatenate([observation, action_vector(spec, action)], axis=-1)

    def init(key: Key) -> State:
        network_key, salt_key = jax.random.split(key)
        blank = inputs_of(jnp.zeros((1, size)), blank_action(spec, 1))
        params = network.init(network_key, blank)
        return State(
            network=Model(params, optimiser.init(params)),
            inputs=normalize.init(blank.shape[1:]),
            targets=normalize.init((size + 1,)),
            terminations=jnp.float32(0.0),
            error=jnp.zeros(config.num_members),
            salt=jax.random.bits(salt_key),
            updates=jnp.int32(0),
        )

    def decay(params: Params):
        return 0.5 * sum(jnp.square(x).sum() for x in jax.tree.leaves(params) if x.ndim == 3)  # matrices, [E, in, out]

    def learn(state: State, batch: Sample) -> tuple[State, Metrics]:
        steps = batch.transition
        seen = inputs_of(steps.observation, steps.action)
        led_to = jnp.concatenate([steps.next_observation - steps.observation, steps.reward[:, None]], axis=-1)
        inputs, targets = normalize.update(state.inputs, seen), normalize.update(state.targets, led_to)
        x, y = normalize.normalize(inputs, seen), normalize.normalize(targets, led_to, jnp.inf)
        out, counts = split_and_counts(state.salt, batch.slot, config.held_out, config.num_members)

        def loss(params):
            mean, log_variance, logit = network.apply(params, x)
            each = jax.vmap(jax.vmap(losses.gaussian_loss, (0, 0, 0, None)), (0, 0, None, None))(
                mean, log_variance, y, config.beta
            )  # [E, B]
            ends = optax.sigmoid_binary_cross_entropy(logit, steps.terminated.astype(jnp.float32))
            fit = ((counts * (each + ends)).sum(axis=1) / jnp.maximum(counts.sum(axis=1), 1.0)).sum()
            bounds = BOUND_WEIGHT * (params["params"]["highest"] - params["params"]["lowest"]).sum()
            wrong = jnp.square(mean - y).mean(axis=-1)  # [E, B]
            error = (wrong * out).sum(axis=1) / jnp.maximum(out.sum(), 1)
            return fit + bounds + config.weight_decay * decay(params), (fit / config.num_members, error)

        model, (fit, error) = descend(optimiser, state.network, loss)
        share = jnp.where(out.any(), jnp.maximum(FORGETTING, 1.0 / (state.updates + 1.0)), 0.0)
        error = state.error + share * (error - state.error)
        terminations = state.terminations + steps.terminated.sum()
        state = State(model, inputs, targets, terminations, error, state.salt, state.updates + 1)
        return state, {"loss/model": fit}

    def predict(state: State, observation, action) -> Prediction:
        x = normalize.normalize(state.inputs, inputs_of(observation, action))
        mean, log_variance, logit = network.apply(state.network.params, x)
        scale = jnp.sqrt(state.targets.variance + 1e-8)
        # data without a termination say nothing of when there is one
        ended = jnp.where(state.terminations > 0.0, jax.nn.sigmoid(logit), 0.0)
        return Prediction(state.targets.mean + scale * mean, scale * jnp.exp(0.5 * log_variance), ended)

    def elites(state: State) -> Int[Array, " M"]:
        return jnp.argsort(state.error)[: config.num_elites]

    def step(state: State, observation, action, key: Key) -> Transition:
        member_key, noise_key, end_key = jax.random.split(key, 3)
        found = predict(state, observation, action)
        count = observation.shape[0]
        member = elites(state)[jax.random.randint(member_key, (count,), 0, config.num_elites)]
        mean, std, ended = jax.tree.map(lambda x: x[member, jnp.arange(count)], found)
        drawn = mean + std * jax.random.normal(noise_key, mean.shape)
        return Transition(
            observation=observation,
            action=action,
            reward=drawn[:, -1],
            terminated=jax.random.uniform(end_key, (count,)) < ended,
            truncated=jnp.zeros(count, bool),
            next_observation=observation + drawn[:, :-1],
            extras={
                "spread": jax.vmap(losses.largest_spread, 1)(found.std),
                "deviation": jax.vmap(losses.largest_deviation, 1)(found.mean[..., :-1]),
            },
        )

    return Dynamics(init, learn, predict, elites, step)


def imagine(
    step: Callable[[Array, Array, Key], Transition],
    act: Callable[[Array, Key], Array],
    start: Float[Array, "N O"],
    horizon: int,
    key: Key,
) -> Transition:
    """Rollouts of `horizon` steps [horizon, N] from `start` in a model. Who has terminated begins anew where it began, so nothing
    follows a termination; the last row is truncated where it does not terminate.

    Args:
      step: (observation [N, O], action [N, ...], key) -> Transition [N].
      act: (observation [N, O], key) -> action [N, ...].
    """

    def advance(observation, key):
        act_key, step_key = jax.random.split(key)
        steps = step(observation, act(observation, act_key), step_key)
        return jnp.where(steps.terminated[:, None], start, steps.next_observation), steps

    _, steps = jax.lax.scan(advance, start, jax.random.split(key, horizon))
    last = (jnp.arange(horizon) == horizon - 1)[:, None]
    return steps.replace(truncated=last & ~steps.terminated)
