"""PQN: Q-learning from many environments at once, without replay or target network. Gallici et al., 2024, arXiv:2407.04811.

Layer normalisation keeps Q from diverging; returns of Q(lambda), computed once for a rollout by the network as it is, stand in
for an older copy. What a time limit cut off goes on from the observation it led to.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from rljax import distributions, sources
from rljax.errors import UserError
from rljax.losses import multistep
from rljax.networks.feed_forward import FeedForward, structure
from rljax.record import record, static
from rljax.types import Agent, Discrete, Env, EnvSpec, Key, Metrics, Model, Rollout, Source
from rljax.updates import descend, minibatch_epochs


@record
class Config:
    """Defaults: the authors' for CartPole (github.com/mttga/purejaxql, config/alg/pqn_cartpole.yaml)."""

    learning_rate: float = 2.5e-4
    gamma: float = 0.99
    trace: float = 0.95  # lambda
    max_grad_norm: float = 10.0  # global norm over all parameters
    reward_scale: float = 0.1
    epsilon_start: float = 1.0
    epsilon_end: float = 0.2
    exploration_steps: float = 1e5  # environment steps over which epsilon falls
    evaluation_epsilon: float = 0.0
    total_steps: float = 0.0  # over which the learning rate falls to 0, if it falls; the binary sets it
    anneal_learning_rate: bool = static(True)
    num_envs: int = static(32)
    rollout_length: int = static(64)
    num_epochs: int = static(4)
    num_minibatches: int = static(16)
    hidden: tuple[int, ...] = static((128, 128))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    layer_norm: bool = static(True)
    dtype: str = static("float32")


class State(NamedTuple):
    q: Model
    updates: Int[Array, ""]


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """PQN for discrete actions. Reads a `Rollout` at a time. Raises UserError where actions are continuous."""
    if not isinstance(spec.action, Discrete):
        raise UserError("PQN is for discrete actions and this environment's are continuous: take SAC or TD3.")
    network = FeedForward(spec.action.num_actions, layer_norm=config.layer_norm, **structure(spec, config))
    per_update = config.num_envs * config.rollout_length
    steps_of_optimiser = config.total_steps / per_update * config.num_epochs * config.num_minibatches

    def learning_rate(count):
        return config.learning_rate * jnp.maximum(1.0 - count / steps_of_optimiser, 0.0)

    optimiser = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.radam(learning_rate if config.anneal_learning_rate else config.learning_rate),
    )

    def init(key: Key) -> State:
        params = network.init(key, jnp.zeros((1, *spec.observation_shape)))
        return State(Model(params, optimiser.init(params)), jnp.int32(0))

    def chance(state: State, explore: bool):
        progress = jnp.minimum(state.updates * per_update / config.exploration_steps, 1.0)
        epsilon = config.epsilon_start + progress * (config.epsilon_end - config.epsilon_start)
        return epsilon if explore else config.evaluation_epsilon

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        q = network.apply(state.q.params, observation)
        return distributions.epsilon_greedy(q, chance(state, explore), key), memory, {}

    def log_prob(state: State, observation, action, explore: bool = True):
        q = network.apply(state.q.params, observation)
        return distributions.epsilon_greedy_log_prob(q, chance(state, explore), action)

    def returns(params, steps):
        """Targets [T, N]: lambda-returns of the greedy policy's values."""
        next_value = network.apply(params, steps.next_observation).max(axis=-1)
        discount = config.gamma * (1.0 - steps.terminated)
        trace = config.trace * (1.0 - steps.done)
        along = jax.vmap(multistep.lambda_returns, in_axes=1, out_axes=1)
        return along(config.reward_scale * steps.reward, discount, trace, next_value)

    def loss(params, observation, action, target):
        q = jnp.take_along_axis(network.apply(params, observation), action[:, None], axis=1)[:, 0]
        loss = 0.5 * jnp.square(target - q).mean()
        return loss, {"loss/q": loss, "q/mean": q.mean()}

    def update(state: State, batch: Rollout, key: Key) -> tuple[State, Metrics]:
        steps = batch.steps
        data = steps.observation, steps.action, returns(state.q.params, steps)
        model, metrics = minibatch_epochs(
            lambda model, minibatch: descend(optimiser, model, lambda params: loss(params, *minibatch)),
            state.q,
            jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), data),
            key,
            config.num_epochs,
            config.num_minibatches,
        )
        return State(model, state.updates + 1), metrics | {"policy/epsilon": chance(state, True)}

    return Agent(init, act, update, log_prob=log_prob)


def source(env: Env, config: Config = Config()) -> Source:
    """Rollouts of the present policy."""
    return sources.rollouts(env, config.num_envs, config.rollout_length)
