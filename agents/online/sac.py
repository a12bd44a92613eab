"""Soft actor-critic. Haarnoja et al., 2018, arXiv:1801.01290 and arXiv:1812.05905; discrete actions: Christodoulou, 2019,
arXiv:1910.07207.

The policy is paid for its entropy, and the price of entropy (the temperature) is learned so that the entropy stays at a target.
Continuous actions are tanh-squashed normals in [-1, 1]; with discrete actions every expectation over them is exact. With `annealed`
critics first learn the best of what the policy draws (rljax/networks/annealing.py).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import sources
from rljax.errors import UserError
from rljax.losses import actor_critic
from rljax.networks import annealing, heads
from rljax.networks.ensemble import ensemble
from rljax.networks.feed_forward import FeedForward, structure
from rljax.networks.heads import Law
from rljax.networks.policies import (
    critic_size,
    init_critic,
    log_prob_of,
    loss_of_critics,
    outputs_taken,
    q_taken,
    soft_policy,
    soft_policy_size,
)
from rljax.record import record, static
from rljax.types import Agent, Continuous, Env, EnvSpec, Key, Metrics, Model, Params, Sample, Source
from rljax.updates import descend


@record
class Config(annealing.Config):
    """Defaults: the papers' (table 1 of arXiv:1812.05905; target entropy of arXiv:1910.07207 for discrete actions)."""

    policy_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    temperature_learning_rate: float = 3e-4
    gamma: float = 0.99
    target_rate: float = 0.005  # share of the new critics in the target critics, each update
    reward_scale: float = 1.0
    initial_temperature: float = 1.0
    entropy_per_dimension: float = -1.0  # target entropy of continuous actions, times their number of dimensions
    entropy_share: float = 0.98  # target entropy of discrete actions, as a share of the largest possible
    learn_temperature: bool = static(True)
    num_critics: int = static(2)
    hidden: tuple[int, ...] = static((256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    layer_norm: bool = static(False)  # in the critics
    dtype: str = static("float32")
    num_envs: int = static(1)
    rollout_length: int = static(1)  # steps in each environment between updates
    num_updates: int = static(1)  # after each rollout
    num_steps: int = static(1)  # that a sample spans
    batch_size: int = static(256)
    capacity: int = static(1_000_000)
    warmup: int = static(10_000)  # random steps before the first update


class State(NamedTuple):
    policy: Model
    critic: Model
    target_critic: Params
    temperature: Model  # its logarithm


def networks(spec: EnvSpec, config: Config) -> tuple[FeedForward, FeedForward]:
    """Policy and critics.

    Continuous: (observation) -> [..., 2 A], mean and unbounded log std; (observation, action) -> Q [E, ..., 1].
    Discrete: (observation) -> [..., A], logits; (observation) -> Q [E, ..., A].
    """
    shared = structure(spec, config)
    size = critic_size(spec, heads.of(config))
    critic = ensemble(FeedForward, config.num_critics)(size, layer_norm=config.layer_norm, **shared)
    return FeedForward(soft_policy_size(spec), **shared), critic


def value_function(spec: EnvSpec, config: Config) -> Callable:
    """(policy params, critic params, temperature, observation [B, ...], key, those) -> soft values of the policy [B], and its
    entropies [B]: from one action each, or exact where actions are discrete.

    those: (Q [E, ...]) -> the critics' values that the lowest is taken of; all of them by default.
    """
    policy, critic = networks(spec, config)
    head = heads.of(config)

    def soft_values(policy_params, critic_params, temperature, observation, key, those=lambda q: q):
        acting = soft_policy(spec, policy.apply(policy_params, observation))
        if isinstance(spec.action, Continuous):
            action, log_prob = acting.sample_and_log_prob(seed=key)
            q = those(q_taken(critic, spec, critic_params, observation, action, head))
            return jax.vmap(actor_critic.soft_value, (1, 0, None))(q, log_prob, temperature), -log_prob
        q = those(critic.apply(critic_params, observation))
        log_probs = jax.nn.log_softmax(acting.logits)
        values = jax.vmap(actor_critic.expected_soft_value, (1, 0, None))(q, log_probs, temperature)
        return values, acting.entropy()

    return soft_values


def no_penalty(critic_params: Params, state: State, batch: Sample, key: Key):
    """What SAC adds to its critics' loss: nothing."""
    return 0.0, {}


def make(
    spec: EnvSpec,
    config: Config = Config(),
    penalty: Callable = no_penalty,
    entropy_in_target: bool = True,
    num_target_critics: int | None = None,
    critic_loss: Callable | None = None,
    pool: Callable = heads.lowest,
) -> Agent:
    """SAC for continuous actions in [-1, 1] or discrete ones. Reads a `Sample` [B] at a time.

    The last arguments are for agents that are SAC with another critic (agents/offline/cql.py, sac_n.py, rlpd.py;
    agents/imitation/iq_learn.py; agents/distributional/tqc.py); then `config` is theirs, with the fields of this one that say how
    to learn and by which networks.

    Args:
      penalty: (critic params, state, batch, key) -> (loss, metrics), added to the critics' loss, which is that of their head,
        half the squared error where it is the mean, summed over critics.
      entropy_in_target: whether the critics learn soft values; the policy is paid for its entropy in any case.
      num_target_critics: how many of the target critics, drawn anew for each update, a target is the lowest of; the policy
        then follows the mean of all critics. None: the lowest of all, for both.
      critic_loss: (critic params, state, batch, key) -> (loss, metrics), in place of the head's losses and the penalty.
      pool: (laws of the return by the target critics [E, N]) -> the target's law [M], for continuous actions.
    Raises:
      UserError: there are not so many critics, those of discrete actions are to learn laws, or they cannot be annealed.
    """
    if num_target_critics is not None and not 0 < num_target_critics <= config.num_critics:
        raise UserError(f"num_target_critics={num_target_critics} must be from 1 to num_critics={config.num_critics}.")
    continuous = isinstance(spec.action, Continuous)
    head = heads.of(config)
    if head.size > 1 and not continuous:
        raise UserError(
            "Soft critics of discrete actions learn means alone; for laws of returns take DQN with that head."
        )
    annealing.check(config, spec, head, critic_loss is not None)
    policy, critic = networks(spec, config)
    policy_optimiser = optax.adam(config.policy_learning_rate)
    critic_optimiser = optax.adam(config.critic_learning_rate)
    temperature_optimiser = optax.adam(config.temperature_learning_rate)
    if continuous:
        target_entropy = config.entropy_per_dimension * spec.action.size
    else:
        target_entropy = config.entropy_share * jnp.log(spec.action.num_actions)

    soft_values = value_function(spec, config)

    def distribution(policy_params, observation):
        return soft_policy(spec, policy.apply(policy_params, observation))

    def some(key):
        """Some of the critics, drawn by `key`; all of them without `num_target_critics`."""
        if num_target_critics is None:
            return lambda q: q
        chosen = jax.random.choice(key, config.num_critics, (num_target_critics,), replace=False)
        return lambda q: q[chosen]

    in_policy_loss = (lambda q: q) if num_target_critics is None else lambda q: q.mean(axis=0, keepdims=True)

    def init(key: Key) -> State:
        policy_key, critic_key = jax.random.split(key)
        policy_params = policy.init(policy_key, jnp.zeros((1, *spec.observation_shape)))
        critic_params = init_critic(critic, spec, critic_key)
        log_temperature = jnp.log(jnp.float32(config.initial_temperature))
        return State(
            policy=Model(policy_params, policy_optimiser.init(policy_params)),
            critic=Model(critic_params, critic_optimiser.init(critic_params)),
            target_critic=jax.tree.map(jnp.copy, critic_params),  # apart, so that the state can be donated
            temperature=Model(log_temperature, temperature_optimiser.init(log_temperature)),
        )

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        acting = distribution(state.policy.params, observation)
        return acting.sample(seed=key) if explore else acting.mode(), memory, {}

    def log_prob(state: State, observation, action, explore: bool = True):
        return log_prob_of(distribution(state.policy.params, observation), spec, action, explore)

    def next_law(state: State, observation, key: Key, price, those) -> Law:
        """Of the return from `observation` on, with the entropy it is paid for, [B, M]."""
        if not continuous:
            value, _ = soft_values(state.policy.params, state.target_critic, price, observation, key, those)
            return heads.certain(value)
        action, log_prob = distribution(state.policy.params, observation).sample_and_log_prob(seed=key)
        laws = head.law(outputs_taken(critic, spec, state.target_critic, observation, action, head))
        law = jax.vmap(pool, 1)(jax.tree.map(those, laws))
        return law._replace(atoms=law.atoms - price * log_prob[:, None])

    def td_losses(params, state: State, batch: Sample, key: Key):
        target_key, penalty_key, choice_key = jax.random.split(key, 3)
        steps = batch.transition
        price = jnp.exp(state.temperature.params) if entropy_in_target else 0.0
        after = next_law(state, steps.next_observation, target_key, price, some(choice_key))
        target = heads.bellman(config.reward_scale * steps.reward, batch.discount, after)
        expectile = annealing.expectile(config, state.critic)
        loss, metrics = loss_of_critics(critic, spec, params, batch, target, head, expectile)
        extra, extra_metrics = penalty(params, state, batch, penalty_key)
        return loss + extra, metrics | extra_metrics

    def update(state: State, batch: Sample, key: Key) -> tuple[State, Metrics]:
        critic_key, policy_key = jax.random.split(key)
        steps, temperature = batch.transition, jnp.exp(state.temperature.params)
        loss_of = critic_loss or td_losses
        critic_model, critic_metrics = descend(
            critic_optimiser, state.critic, lambda params: loss_of(params, state, batch, critic_key)
        )

        def policy_loss(params):
            value, entropy = soft_values(
                params, critic_model.params, temperature, steps.observation, policy_key, in_policy_loss
            )
            return -value.mean(), {"loss/policy": -value.mean(), "policy/entropy": entropy.mean()}

        policy_model, policy_metrics = descend(policy_optimiser, state.policy, policy_loss)

        def temperature_loss(log_temperature):
            entropy = policy_metrics["policy/entropy"]
            loss = actor_critic.temperature_loss(log_temperature, entropy, target_entropy)
            return loss, {"policy/temperature": temperature}

        metrics = critic_metrics | policy_metrics
        temperature_model = state.temperature
        if config.learn_temperature:
            temperature_model, temperature_metrics = descend(temperature_optimiser, state.temperature, temperature_loss)
            metrics |= temperature_metrics
        target_critic = optax.incremental_update(critic_model.params, state.target_critic, config.target_rate)
        new = dict(policy=policy_model, critic=critic_model, target_critic=target_critic, temperature=temperature_model)
        return state._replace(**new), metrics

    return Agent(init, act, update, log_prob=log_prob)


def source(env: Env, config: Config = Config()) -> Source:
    """Steps of the present policy into a replay, batches out of it."""
    return sources.replay_of(env, config)
