"""Fitted Q evaluation: what a given policy is worth, from data of others. Le, Voloshin & Yue, 2019, arXiv:1903.08738.

Q regresses onto r + gamma Q'(s', pi(s')), where Q' is Q of some updates ago and pi, the policy that is evaluated, never changes.
The paper fits to the end between one Q' and the next; here that is `target_period` gradient steps (or, with a period of 1 and a
small `target_rate`, a moving average). Time limits do not end anything: the value is that of going on.

It is trained as any offline agent is, but made for a policy, so it is no agent that `experiments/train` knows by name:

    agent = fqe.make(spec, config, policy, policy_state)
    learner = train.make(agent, fqe.source(env, config, dataset))
    state, _ = learner.run(learner.init(key), 1000)
    fqe.value_of(spec, config, policy, policy_state)(state.agent, observation, key)     # [B]
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from rljax import sources
from rljax.errors import UserError
from rljax.losses.value import td_target
from rljax.networks.ensemble import ensemble
from rljax.networks.feed_forward import FeedForward, structure
from rljax.networks.policies import critic_size, init_critic, q_taken
from rljax.record import record, static
from rljax.types import Agent, Discrete, Env, EnvSpec, Key, Metrics, Model, Params, Sample, Source
from rljax.updates import descend


@record
class Config:
    """Defaults: the networks and the optimiser of the offline family (arXiv:2110.06169, appendix B).

    A value is known after several times target_period / (target_rate (1 - gamma)) updates; before, it is too near to 0.
    """

    learning_rate: float = 3e-4
    gamma: float = 0.99
    target_rate: float = 0.02  # share of the new critic in the target's, every `target_period` updates: 1 copies
    target_period: int = 1
    reward_scale: float = 1.0  # of what the network learns; values are in the environment's own units
    num_samples: int = static(
        1
    )  # actions for an estimate; the mean over discrete ones is exact by the policy's log_prob
    hidden: tuple[int, ...] = static((256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    layer_norm: bool = static(False)
    dtype: str = static("float32")
    batch_size: int = static(256)
    num_updates: int = static(8)  # on batches drawn together


class State(NamedTuple):
    critic: Model
    target_critic: Params
    updates: Int[Array, ""]


def network(spec: EnvSpec, config: Config) -> FeedForward:
    """The critic, one of one (see `q_taken`)."""
    return ensemble(FeedForward, 1)(critic_size(spec), layer_norm=config.layer_norm, **structure(spec, config))


def expected_q(spec: EnvSpec, config: Config, policy: Agent, policy_state: Any, explore: bool) -> Callable:
    """(critic's parameters, observation [B, ...], key) -> E Q(s, a) [B] over the actions of the policy, as the network learns it.

    Exact for discrete actions where the policy knows its `log_prob`, else the mean over `num_samples` actions.
    """
    critic = network(spec, config)

    def exact(params, observation, key):
        del key  # nothing here is random
        actions = jnp.arange(spec.action.num_actions)

        def likelihood(action):
            return policy.log_prob(policy_state, observation, jnp.full(observation.shape[0], action), explore)

        log_prob = jax.vmap(likelihood, out_axes=-1)(actions)  # [B, A]
        return (jnp.exp(log_prob) * critic.apply(params, observation)[0]).sum(-1)

    def sampled(params, observation, key):
        def one(key):
            action, _, _ = policy.act(policy_state, observation, (), key, explore)
            return q_taken(critic, spec, params, observation, action)[0]

        return jax.vmap(one)(jax.random.split(key, config.num_samples)).mean(0)

    return exact if isinstance(spec.action, Discrete) and policy.log_prob is not None else sampled


def make(spec: EnvSpec, config: Config, policy: Agent, policy_state: Any, explore: bool = False) -> Agent:
    """FQE of `policy`, which acts with `policy_state`, for any actions. Reads a `Sample` [B] at a time; acts as the policy does.

    Args:
      explore: whether the policy is meant that explores, or the deterministic one.
    Raises:
      UserError: the policy remembers more than its observation, and a Q of observations cannot say what it is worth.
    """
    if jax.tree.leaves(policy.memory):
        raise UserError(
            "Fitted Q evaluation is for policies without a memory: theirs is not a value of the observation."
        )
    critic = network(spec, config)
    next_values = expected_q(spec, config, policy, policy_state, explore)
    optimiser = optax.adam(config.learning_rate)

    def init(key: Key) -> State:
        params = init_critic(critic, spec, key)
        target = jax.tree.map(jnp.copy, params)  # apart, so that the state can be donated
        return State(Model(params, optimiser.init(params)), target, jnp.int32(0))

    def act(state: State, observation, memory, key: Key, explore: bool = explore):
        return policy.act(policy_state, observation, memory, key, explore)

    def update(state: State, batch: Sample, key: Key) -> tuple[State, Metrics]:
        steps = batch.transition
        next_value = next_values(state.target_critic, steps.next_observation, key)
        target = jax.vmap(td_target)(config.reward_scale * steps.reward, batch.discount, next_value)

        def loss(params):
            q = q_taken(critic, spec, params, steps.observation, steps.action)[0]
            value = (batch.weight * jnp.square(target - q)).mean()
            return value, {"loss/critic": value, "critic/q": q.mean() / config.reward_scale}

        model, metrics = descend(optimiser, state.critic, loss)
        updates = state.updates + 1
        rate = jnp.where(updates % config.target_period == 0, config.target_rate, 0.0)
        target_critic = optax.incremental_update(model.params, state.target_critic, rate)
        return State(model, target_critic, updates), metrics

    return Agent(init, act, update)


def value_of(spec: EnvSpec, config: Config, policy: Agent, policy_state: Any, explore: bool = False) -> Callable:
    """(state of FQE, observation [B, ...], key) -> the policy's value of each observation [B]; arguments as for `make`."""
    values = expected_q(spec, config, policy, policy_state, explore)
    return lambda state, observation, key: values(state.critic.params, observation, key) / config.reward_scale


def source(env: Env, config: Config, dataset) -> Source:
    """Transitions of the dataset; the environment is only there to be evaluated in."""
    return sources.at_rest(dataset, batch_size=config.batch_size, num_batches=config.num_updates, gamma=config.gamma)
