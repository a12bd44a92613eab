"""Decoupled Q-networks: value learning for continuous actions of many dimensions. Seyde et al., 2022, "Solving continuous control
via Q-learning", arXiv:2210.12566.

Each dimension of the action takes one of a few evenly spaced values (three: full back, nothing, full on). The value of an action is
the mean over dimensions of a utility of each, so that the best one is found dimension by dimension. All else is DQN
(rljax.agents.online.dqn). Switches:

  double        the target's action is the online network's best. van Hasselt et al., 2015, arXiv:1509.06461
  num_critics   an ensemble that shares one target, by the mean of its utilities. Ireland & Montana, 2024, arXiv:2401.08850
  regularised   a price on changes of utilities in dimensions whose share of the credit is not known (the same paper)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rljax.agents.online import q_learning
from rljax.agents.online.q_learning import State
from rljax.errors import UserError
from rljax.losses import value
from rljax.networks.ensemble import ensemble
from rljax.networks.feed_forward import FeedForward, structure
from rljax.record import record, static
from rljax.types import Agent, Discrete, Env, EnvSpec, Key, Metrics, Sample, Source
from rljax.updates import descend


@record
class Config(q_learning.Config):
    """Defaults: three values for each dimension, three-step targets and a prioritised replay as in the first paper; sizes and rates
    are SAC's here."""

    learning_rate: float = 3e-4
    target_rate: float = 0.005
    target_period: int = 1
    huber_delta: float = 1.0  # error from which on losses are linear
    regularisation: float = 0.5  # its weight
    max_grad_norm: float = 40.0
    exploration_steps: float = 5e4
    num_bins: int = static(3)  # values of each dimension
    num_critics: int = static(1)
    regularised: bool = static(False)
    prioritised: bool = static(True)
    hidden: tuple[int, ...] = static((256, 256))
    num_envs: int = static(1)
    num_steps: int = static(3)
    batch_size: int = static(256)
    capacity: int = static(1_000_000)
    warmup: int = static(10_000)


def network(spec: EnvSpec, config: Config):
    """(params, observation [B, ...]) by `apply`: utilities [E, B, D * bins]."""
    size = spec.action.size * config.num_bins
    return ensemble(FeedForward, config.num_critics)(size, layer_norm=config.layer_norm, **structure(spec, config))


def chosen(utilities: Float[Array, "*B D bins"], index: Int[Array, "*B D"]) -> Float[Array, "*B D"]:
    """The utilities of one value of each dimension."""
    return jnp.take_along_axis(utilities, index[..., None], axis=-1)[..., 0]


def action_of(spec: EnvSpec, num_bins: int, index: Int[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Values of each dimension, as the environment takes them."""
    return spec.action.low + (spec.action.high - spec.action.low) * index / (num_bins - 1.0)


def index_of(spec: EnvSpec, num_bins: int, action: Float[Array, "*B D"]) -> Int[Array, "*B D"]:
    """Which values an action consists of."""
    share = (action - spec.action.low) / (spec.action.high - spec.action.low)
    return jnp.round(share * (num_bins - 1)).astype(jnp.int32)


def check(spec: EnvSpec, config: Config) -> None:
    """Raises UserError where actions are discrete, or there is but one value for each dimension."""
    if isinstance(spec.action, Discrete):
        raise UserError("DecQN cuts continuous actions into a few, and this environment's are discrete: take DQN.")
    if config.num_bins < 2:
        raise UserError(f"num_bins={config.num_bins} must be at least 2, the ends of each dimension.")


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """DecQN for continuous actions. Reads a `Sample` [B] of actions that it could have taken itself (see `source`).

    Raises:
      UserError: actions are discrete, or there is but one value for each dimension.
    """
    check(spec, config)
    critics, optimiser = network(spec, config), q_learning.adam(config)

    def utilities_of(params, observation) -> Float[Array, "E B D bins"]:
        output = critics.apply(params, observation)
        return output.reshape(*output.shape[:-1], spec.action.size, config.num_bins)

    def init(key: Key) -> State:
        return q_learning.begin(critics.init(key, jnp.zeros((1, *spec.observation_shape))), optimiser)

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        """By the mean of the critics; exploring, by one drawn for each step, and now and then by chance in all dimensions."""
        utilities = utilities_of(state.q.params, observation)
        member_key, explore_key, random_key = jax.random.split(key, 3)
        size = utilities.shape[1]
        if explore:
            member = jax.random.randint(member_key, (size,), 0, config.num_critics)
            best = utilities[member, jnp.arange(size)].argmax(axis=-1)
        else:
            best = utilities.mean(axis=0).argmax(axis=-1)
        anything = jax.random.randint(random_key, best.shape, 0, config.num_bins)
        by_chance = jax.random.uniform(explore_key, (size, 1)) < q_learning.epsilon(config, state, explore)
        return action_of(spec, config.num_bins, jnp.where(by_chance, anything, best)), memory, {}

    def targets_of(state: State, batch: Sample) -> Float[Array, " B"]:
        steps = batch.transition
        after = utilities_of(state.target, steps.next_observation).mean(axis=0)
        selector = utilities_of(state.q.params, steps.next_observation).mean(axis=0) if config.double else after
        next_value = chosen(after, selector.argmax(axis=-1)).mean(axis=-1)
        return jax.vmap(value.td_target)(config.reward_scale * steps.reward, batch.discount, next_value)

    def update(state: State, batch: Sample, key: Key) -> tuple[State, Metrics]:
        del key
        steps, target = batch.transition, targets_of(state, batch)
        index = index_of(spec, config.num_bins, steps.action)
        taken = lambda params: jax.vmap(chosen, (0, None))(utilities_of(params, steps.observation), index)  # [E, B, D]
        huber = jax.vmap(jax.vmap(value.huber, (0, None)), (0, None))
        price_of = jax.vmap(jax.vmap(value.decoupled_change, (0, 0, 0)), (0, 0, None))

        def loss(params):
            utilities = taken(params)
            q = utilities.mean(axis=-1)
            losses, metrics = huber(target - q, config.huber_delta), {}
            if config.regularised:
                price = price_of(utilities, taken(state.target), target)
                losses, metrics = losses + config.regularisation * price, {"loss/regularisation": price.mean()}
            error = jnp.abs(target - q).mean(axis=0)
            loss = (batch.weight * losses.sum(axis=0)).mean()
            metrics |= {"loss/q": loss, "q/mean": q.mean(), "q/error": error.mean()}
            return loss, metrics | ({"priority": error} if config.prioritised else {})

        model, metrics = descend(optimiser, state.q, loss)
        return q_learning.follow(config, state, model), metrics | {"policy/epsilon": q_learning.epsilon(config, state)}

    return Agent(init, act, update)


def source(env: Env, config: Config = Config()) -> Source:
    """Steps of the present policy into a replay, batches out of it; the first steps by random values of each dimension."""
    check(env.spec, config)

    def anyhow(observation, memory, key):
        shape = (config.num_envs, env.spec.action.size)
        return action_of(env.spec, config.num_bins, jax.random.randint(key, shape, 0, config.num_bins)), memory, {}

    return q_learning.replay_of(env, config, first_act=anyhow)
