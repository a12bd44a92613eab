"""Twin delayed deep deterministic policy gradient. Fujimoto, van Hoof & Meger, 2018, arXiv:1802.09477.

DDPG (Lillicrap et al., 2015, arXiv:1509.02971) with three cures for a critic that believes too much: the lower of two critics,
noise on the action of the target, and a policy that moves less often than the critics. DDPG itself is
`Config(num_critics=1, policy_delay=1, target_noise=0.0)`. With `annealed` critics first learn the best of that noise
(rljax/networks/annealing.py).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rljax import sources
from rljax.errors import UserError
from rljax.losses import actor_critic
from rljax.networks import annealing, heads
from rljax.networks.ensemble import ensemble
from rljax.networks.feed_forward import FeedForward, structure
from rljax.networks.policies import loss_of_critics, q_taken
from rljax.record import record, static
from rljax.types import Agent, Continuous, Env, EnvSpec, Key, Metrics, Model, Params, Sample, Source
from rljax.updates import descend


@record
class Config(annealing.Config):
    """Defaults: the paper's, with both learning rates at 3e-4 as in its authors' code (github.com/sfujim/TD3).

    One update is `policy_delay` critic steps, each on a batch of its own, and one policy step after them.
    """

    policy_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    gamma: float = 0.99
    target_rate: float = 0.005  # share of the new parameters in the target networks, each update
    reward_scale: float = 1.0
    exploration_noise: float = 0.1  # standard deviation, of actions in [-1, 1]
    target_noise: float = 0.2  # standard deviation, of the target's action
    target_noise_clip: float = 0.5
    policy_delay: int = static(2)
    num_critics: int = static(2)
    hidden: tuple[int, ...] = static((256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    layer_norm: bool = static(False)  # in the critics
    dtype: str = static("float32")
    num_envs: int = static(1)
    rollout_length: int = static(2)  # steps in each environment between updates
    num_updates: int = static(1)  # after each rollout
    num_steps: int = static(1)  # that a sample spans
    batch_size: int = static(256)  # of one critic step
    capacity: int = static(1_000_000)
    warmup: int = static(25_000)  # random steps before the first update


class State(NamedTuple):
    policy: Model
    critic: Model
    target_policy: Params
    target_critic: Params


def networks(spec: EnvSpec, config: Config) -> tuple[FeedForward, FeedForward]:
    """Policy (observation) -> action before its tanh [..., A]; critics (observation, action) -> Q [E, ..., 1], or for a head."""
    shared = structure(spec, config)
    size = heads.of(config).size
    critic = ensemble(FeedForward, config.num_critics)(size, layer_norm=config.layer_norm, **shared)
    return FeedForward(spec.action.size, **shared), critic


def highest_q(policy, q, steps) -> tuple[Float[Array, ""], Metrics]:
    """The policy climbs Q: the deterministic policy gradient. Silver et al., 2014, theorem 1."""
    return -q(steps.observation, policy(steps.observation)).mean(), {}


def make(
    spec: EnvSpec,
    config: Config = Config(),
    policy_loss: Callable = highest_q,
    target_penalty: Callable = lambda action, steps: 0.0,
) -> Agent:
    """TD3 for continuous actions in [-1, 1]. Reads a `Sample` [policy_delay * B] at a time.

    Args:
      policy_loss: (policy, q, transitions [B]) -> (loss, metrics), where policy: (observation [B, ...]) -> action [B, A], and q:
        (observation [B, ...], action [B, A]) -> Q_1 [B], a constant but for its arguments.
      target_penalty: (actions of the target [B, A], transitions [B]) -> what is taken off their value, [B].
    Raises:
      ValueError: the actions are discrete, or critics cannot be annealed; or, from `update`, policy_delay does not divide the
        sample.
    """
    if not isinstance(spec.action, Continuous):
        raise UserError(f"TD3 needs continuous actions; here are {spec.action.num_actions} discrete ones.")
    policy, critic = networks(spec, config)
    head = heads.of(config)
    annealing.check(config, spec, head)
    _, first_critic = networks(spec, config.replace(num_critics=1))
    policy_optimiser = optax.adam(config.policy_learning_rate)
    critic_optimiser = optax.adam(config.critic_learning_rate)

    def actions(params, observation):
        return jnp.tanh(policy.apply(params, observation))

    def init(key: Key) -> State:
        policy_key, critic_key = jax.random.split(key)
        observation, action = jnp.zeros((1, *spec.observation_shape)), jnp.zeros((1, *spec.action.shape))
        policy_params = policy.init(policy_key, observation)
        critic_params = critic.init(critic_key, observation, action)
        return State(
            policy=Model(policy_params, policy_optimiser.init(policy_params)),
            critic=Model(critic_params, critic_optimiser.init(critic_params)),
            target_policy=jax.tree.map(jnp.copy, policy_params),  # apart, so that the state can be donated
            target_critic=jax.tree.map(jnp.copy, critic_params),
        )

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        action = actions(state.policy.params, observation)
        if explore:
            noise = config.exploration_noise * jax.random.normal(key, action.shape)
            action = jnp.clip(action + noise, -1.0, 1.0)
        return action, memory, {}

    def critic_step(state: State, model: Model, batch: Sample, key: Key) -> tuple[Model, Metrics]:
        """One gradient step of the critics on a batch [B]."""
        steps = batch.transition
        next_action = actions(state.target_policy, steps.next_observation)
        noise = config.target_noise * jax.random.normal(key, next_action.shape)
        smoothed = jax.vmap(actor_critic.smoothed_action, (0, 0, None))(next_action, noise, config.target_noise_clip)
        after = head.law(critic.apply(state.target_critic, steps.next_observation, smoothed))
        after = jax.vmap(heads.lowest, 1)(after)
        after = after._replace(atoms=after.atoms - jnp.reshape(target_penalty(smoothed, steps), (-1, 1)))
        target = heads.bellman(config.reward_scale * steps.reward, batch.discount, after)
        expectile = annealing.expectile(config, model)
        loss = lambda params: loss_of_critics(critic, spec, params, batch, target, head, expectile)
        return descend(critic_optimiser, model, loss)

    def update(state: State, batch: Sample, key: Key) -> tuple[State, Metrics]:
        size = batch.weight.shape[0]
        if size % config.policy_delay:
            raise UserError(f"policy_delay={config.policy_delay} must divide the {size} transitions of a sample.")
        batches = jax.tree.map(lambda x: x.reshape(config.policy_delay, -1, *x.shape[1:]), batch)
        keys = jax.random.split(key, config.policy_delay)
        step = lambda model, inputs: critic_step(state, model, *inputs)
        critic_model, metrics = jax.lax.scan(step, state.critic, (batches, keys))
        priority = metrics.pop("priority").reshape(size)
        last = jax.tree.map(lambda x: x[-1], batches.transition)

        first_params = jax.tree.map(lambda x: x[:1], critic_model.params)

        def q(observation, action):
            return q_taken(first_critic, spec, first_params, observation, action, head)[0]

        def loss_of_policy(params):
            loss, metrics = policy_loss(lambda observation: actions(params, observation), q, last)
            return loss, {"loss/policy": loss} | metrics

        policy_model, policy_metrics = descend(policy_optimiser, state.policy, loss_of_policy)
        new = State(
            policy_model,
            critic_model,
            optax.incremental_update(policy_model.params, state.target_policy, config.target_rate),
            optax.incremental_update(critic_model.params, state.target_critic, config.target_rate),
        )
        return new, jax.tree.map(jnp.mean, metrics) | policy_metrics | {"priority": priority}

    return Agent(init, act, update)


def source(env: Env, config: Config = Config()) -> Source:
    """Steps of the present policy into a replay, batches for `policy_delay` critic steps each out of it."""
    return sources.replay_of(env, config, batch_size=config.policy_delay * config.batch_size)
