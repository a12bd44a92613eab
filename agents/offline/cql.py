"""Conservative Q-learning: values that are too low rather than too high where the data is silent. Kumar et al., 2020,
arXiv:2006.04779. With `calibrate` it is Cal-QL: Nakamoto et al., 2023, arXiv:2303.05479.

Critics pay for the soft maximum of Q over all actions and are paid for Q of the data's action (CQL(H), equation 4). With
continuous actions this is soft actor-critic (rljax.agents.online.sac) with that one loss more; with discrete ones it is
Q-learning without a policy. With `lagrange` the loss is weighted so that the gap between the two comes to rest at a target.

Cal-QL pushes no value of the policy's actions below what the data's policy earned from there on, so that values are of the size
of returns when the agent goes on in the environment (`online`) and it need not first unlearn what it knew. What was earned is the
discounted return to the end of the episode. Where that was a time limit the rest is missing; here the value of the last observation
by the target critics stands for it. (The authors' code lets it be 0, or an infinite row of the last reward in the kitchen and of
the smallest one in mazes and hands where nothing was reached: github.com/nakamotoo/Cal-QL, JaxCQL/replay_buffer.py.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import distributions, sources
from rljax.agents.online import sac
from rljax.data.dataset import outcome_value
from rljax.errors import UserError
from rljax.losses import conservative
from rljax.losses.actor_critic import clipped_q
from rljax.losses.value import double_q_value, td_target
from rljax.networks import heads
from rljax.networks.policies import init_critic, log_prob_of, q_taken, sampled_values, soft_policy
from rljax.record import record, static
from rljax.types import Agent, Continuous, Env, EnvSpec, Key, Metrics, Model, Params, Sample, Source
from rljax.updates import descend

MAX_MULTIPLIER = 1e6  # as in the authors' code


@record
class Config(sources.Online, heads.Config):
    """Defaults: the authors' for D4RL's locomotion (github.com/aviralkumar2907/CQL, README and d4rl/examples/cql_mujoco_new.py).

    Their weight of 5 stands beside a squared error; equation 4, and so this file, halves both. For Atari they take 1 or 4 on a
    quantile loss (README).
    """

    policy_learning_rate: float = 1e-4
    critic_learning_rate: float = 3e-4
    temperature_learning_rate: float = 1e-4  # theirs is the policy's
    multiplier_learning_rate: float = 3e-4  # theirs is the critics'
    gamma: float = 0.99
    target_rate: float = 0.005  # share of the new critics in the target critics, each update
    reward_scale: float = 1.0
    conservative_weight: float = 2.5  # alpha of equation 4; with `lagrange`, where it starts (above 0)
    target_gap: float = 5.0  # tau of CQL(Lagrange); theirs for AntMaze, where it bounds 5 times the gap
    initial_temperature: float = 1.0
    entropy_per_dimension: float = -1.0  # target entropy of continuous actions, times their number of dimensions
    learn_temperature: bool = static(True)
    lagrange: bool = static(False)
    calibrate: bool = static(False)  # Cal-QL
    outcome_steps: int = static(200)  # of its own that count as earned, before a value stands for the rest
    entropy_in_target: bool = static(False)  # critics of continuous actions learn soft values
    double: bool = static(True)  # critics of discrete actions: Double DQN's target; False: the largest target value
    num_samples: int = static(10)  # actions of each law in a soft maximum over continuous ones
    num_critics: int = static(2)
    hidden: tuple[int, ...] = static((256, 256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    layer_norm: bool = static(False)  # in the critics
    dtype: str = static("float32")
    batch_size: int = static(256)
    num_updates: int = static(8)  # on batches drawn together


class State(NamedTuple):
    """Of continuous actions: SAC's and the multiplier."""

    policy: Model
    critic: Model
    target_critic: Params
    temperature: Model  # its logarithm
    multiplier: Model  # logarithm of the conservative loss's weight, with `lagrange`


class DiscreteState(NamedTuple):
    critic: Model
    target_critic: Params
    multiplier: Model  # logarithm of the conservative loss's weight, with `lagrange`


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """CQL for continuous actions in [-1, 1] or discrete ones. Reads a `Sample` [B] at a time."""
    return (make_continuous if isinstance(spec.action, Continuous) else make_discrete)(spec, config)


# --- The weight of the conservative loss --------------------------------------------------------------------------------


def init_multiplier(config: Config) -> Model:
    log_weight = jnp.log(jnp.float32(config.conservative_weight))
    return Model(log_weight, optax.adam(config.multiplier_learning_rate).init(log_weight))


def conservative_loss(multiplier: Model, gap, weight, config: Config):
    """alpha times the gaps [E, B], summed over critics as their squared errors are, and metrics."""
    alpha = jnp.exp(multiplier.params) if config.lagrange else config.conservative_weight
    loss = alpha * (weight * gap.sum(axis=0)).mean()
    return loss, {"loss/conservative": loss, "critic/gap": gap.mean()}


def adjust(multiplier: Model, gap, config: Config) -> tuple[Model, Metrics]:
    """CQL(Lagrange): one step of the multiplier; without `lagrange` it stays as it is."""
    if not config.lagrange:
        return multiplier, {}

    def loss(log_multiplier):
        value = conservative.multiplier_loss(log_multiplier, gap, config.target_gap)
        return value, {"critic/multiplier": jnp.exp(log_multiplier)}

    multiplier, metrics = descend(optax.adam(config.multiplier_learning_rate), multiplier, loss)
    return multiplier._replace(params=jnp.minimum(multiplier.params, jnp.log(MAX_MULTIPLIER))), metrics


# --- Continuous actions: soft actor-critic with one loss more -----------------------------------------------------------


def make_continuous(spec: EnvSpec, config: Config) -> Agent:
    policy, critic = sac.networks(spec, config)
    head = heads.of(config)
    values = sampled_values(spec, policy, critic, config.num_samples, head)

    def value_at_end(state: State, observation, key: Key):
        """Of the policy, by the lower target critic and one action of it, [B]."""
        action = soft_policy(spec, policy.apply(state.policy.params, observation)).sample(seed=key)
        return clipped_q(q_taken(critic, spec, state.target_critic, observation, action, head))

    def penalty(critic_params, state: State, batch: Sample, key: Key):
        steps = batch.transition
        *keys, end_key = jax.random.split(key, 4)
        q, log_density = values(state.policy.params, critic_params, steps, keys)
        q_data = q_taken(critic, spec, critic_params, steps.observation, steps.action, head)  # [E, B]
        metrics = {}
        if config.calibrate:
            end_value = value_at_end(state, steps.extras["outcome_observation"], end_key)
            floor = outcome_value(steps.extras, end_value, config.reward_scale)
            of_policy = q[:, config.num_samples :]  # the uniform law's values have no floor
            metrics = {"critic/calibrated": (of_policy < floor).mean()}
            of_policy = jax.vmap(jax.vmap(conservative.calibrated_q, (1, 0), 1), (0, None))(of_policy, floor)
            q = jnp.concatenate([q[:, : config.num_samples], of_policy], axis=1)
        each_critic = jax.vmap(jax.vmap(conservative.sampled_conservative_gap, (1, 1, 0)), (0, None, 0))
        loss, found = conservative_loss(state.multiplier, each_critic(q, log_density, q_data), batch.weight, config)
        return loss, found | metrics

    agent = sac.make(spec, config, penalty, config.entropy_in_target)

    def init(key: Key) -> State:
        return State(*agent.init(key), multiplier=init_multiplier(config))

    def update(state: State, batch: Sample, key: Key) -> tuple[State, Metrics]:
        state, metrics = agent.update(state, batch, key)
        multiplier, multiplier_metrics = adjust(state.multiplier, metrics["critic/gap"], config)
        return state._replace(multiplier=multiplier), metrics | multiplier_metrics

    return agent._replace(init=init, update=update)


# --- Discrete actions: Q-learning with one loss more --------------------------------------------------------------------


def make_discrete(spec: EnvSpec, config: Config) -> Agent:
    """Acts greedily, or exploring by the softmax of Q: the law under which the loss pushes values down."""
    if heads.of(config).size > 1:
        raise UserError(f"CQL of discrete actions learns means alone: head={config.head!r} must be 'mean'.")
    _, critic = sac.networks(spec, config)
    optimiser = optax.adam(config.critic_learning_rate)

    def lowest(params, observation):
        """The lower critic's Q [B, A]."""
        return clipped_q(critic.apply(params, observation))

    def init(key: Key) -> DiscreteState:
        params = init_critic(critic, spec, key)
        target = jax.tree.map(jnp.copy, params)  # apart, so that the state can be donated
        return DiscreteState(Model(params, optimiser.init(params)), target, init_multiplier(config))

    def distribution(state: DiscreteState, observation):
        return distributions.categorical(lowest(state.critic.params, observation))

    def act(state: DiscreteState, observation, memory, key: Key, explore: bool = True):
        acting = distribution(state, observation)
        return acting.sample(seed=key) if explore else acting.mode(), memory, {}

    def log_prob(state: DiscreteState, observation, action, explore: bool = True):
        return log_prob_of(distribution(state, observation), spec, action, explore)

    def update(state: DiscreteState, batch: Sample, key: Key) -> tuple[DiscreteState, Metrics]:
        del key  # nothing here is random
        steps = batch.transition
        q_target = lowest(state.target_critic, steps.next_observation)
        q_selector = lowest(state.critic.params, steps.next_observation) if config.double else q_target
        next_value = jax.vmap(double_q_value)(q_selector, q_target)
        target = jax.vmap(td_target)(config.reward_scale * steps.reward, batch.discount, next_value)
        if config.calibrate:
            end_value = lowest(state.target_critic, steps.extras["outcome_observation"]).max(-1)
            floor = outcome_value(steps.extras, end_value, config.reward_scale)

        def critic_loss(params):
            q = critic.apply(params, steps.observation)  # [E, B, A]
            q_data = jnp.take_along_axis(q, steps.action[None, :, None], axis=-1)[..., 0]
            errors = target - q_data
            loss = 0.5 * (batch.weight * jnp.square(errors).sum(axis=0)).mean()
            found = {}
            if config.calibrate:  # the policy is the softmax of Q: every action is one of its own
                found = {"critic/calibrated": (q < floor[:, None]).mean()}
                q = jax.vmap(jax.vmap(conservative.calibrated_q), (0, None))(q, floor)
            gap = jax.vmap(jax.vmap(conservative.conservative_gap))(q, q_data)
            extra, metrics = conservative_loss(state.multiplier, gap, batch.weight, config)
            return loss + extra, metrics | found | {"loss/critic": loss, "critic/q": q_data.mean()}

        critic_model, metrics = descend(optimiser, state.critic, critic_loss)
        multiplier, multiplier_metrics = adjust(state.multiplier, metrics["critic/gap"], config)
        target_critic = optax.incremental_update(critic_model.params, state.target_critic, config.target_rate)
        return DiscreteState(critic_model, target_critic, multiplier), metrics | multiplier_metrics

    return Agent(init, act, update, log_prob=log_prob)


def source(env: Env, config: Config, dataset) -> Source:
    """Transitions of the dataset; with `online`, a mixture of them and of its own steps."""
    outcome_steps = config.outcome_steps if config.calibrate else 0
    return sources.of_data(env, config, dataset, outcome_steps=outcome_steps)
