"""ODICE: values from a dual of the best stationary distribution near the data's. Mao et al., 2024, arXiv:2402.00348.

There is no Q. V minimises (1 - Lambda) V(s) + Lambda f*(r + gamma V(s') - V(s)), and the policy copies an action by (f*)' of that
difference: how much more often than the data the best policy would take it. The gradient through V(s') pulls against that through
V(s); `gradient` says what becomes of it: `orthogonal` keeps the part that does not (the paper's), `semi` drops it (then the
loss is that of f-DVL and XQL), `true` keeps it all.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import sources
from rljax.errors import UserError
from rljax.losses.implicit import chi_square_loss, chi_square_weight
from rljax.names import nearest
from rljax.networks.feed_forward import FeedForward, structure
from rljax.networks.policies import Policy, log_prob_of, sample_or_mode
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Params, Sample, Source
from rljax.updates import descend, orthogonal_part

GRADIENTS = ("orthogonal", "semi", "true")


@record
class Config:
    """Defaults: the authors' for locomotion (github.com/maoliyuan/ODICE-Pytorch, main_odice_rl.py), with one value network."""

    policy_learning_rate: float = 2e-4
    value_learning_rate: float = 2e-4
    weight_decay: float = 1e-4  # of the policy
    gamma: float = 0.99
    target_rate: float = 0.005  # share of the new value in the target value, each update
    reward_scale: float = 1.0
    lean: float = 0.6  # Lambda: above 1/2, V lies above the data's
    backward: float = 1.0  # eta, how much of the backward gradient is kept
    max_weight: float = 100.0
    gradient: str = static("orthogonal")
    hidden: tuple[int, ...] = static((256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    layer_norm: bool = static(True)  # in the value
    dtype: str = static("float32")
    batch_size: int = static(256)
    num_updates: int = static(8)  # on batches drawn together


class State(NamedTuple):
    policy: Model
    value: Model
    target_value: Params


def networks(spec: EnvSpec, config: Config) -> tuple[Policy, FeedForward]:
    """Policy (observation) -> distribution, value (observation) -> [..., 1]."""
    shared = structure(spec, config)
    return Policy(spec, shared), FeedForward(1, layer_norm=config.layer_norm, **shared)


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """ODICE for any actions. Reads a `Sample` [B] at a time.

    Raises:
      UserError: there is no such gradient.
    """
    if config.gradient not in GRADIENTS:
        raise UserError(f"Unknown gradient {config.gradient!r}; {nearest(config.gradient, GRADIENTS)}")
    policy, value = networks(spec, config)
    policy_optimiser = optax.adamw(config.policy_learning_rate, weight_decay=config.weight_decay)
    value_optimiser = optax.adam(config.value_learning_rate)

    def init(key: Key) -> State:
        policy_key, value_key = jax.random.split(key)
        observation = jnp.zeros((1, *spec.observation_shape))
        policy_params, value_params = policy.init(policy_key, observation), value.init(value_key, observation)
        return State(
            policy=Model(policy_params, policy_optimiser.init(policy_params)),
            value=Model(value_params, value_optimiser.init(value_params)),
            target_value=jax.tree.map(jnp.copy, value_params),  # apart, so that the state can be donated
        )

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        return sample_or_mode(policy.apply(state.policy.params, observation), spec, key, explore), memory, {}

    def differences(batch: Sample, params: Params, next_params: Params):
        """r + gamma V(s') - V(s) [B], the two values by parameters of their own."""
        steps = batch.transition
        here, there = value.apply(params, steps.observation), value.apply(next_params, steps.next_observation)
        return config.reward_scale * steps.reward + batch.discount * there[..., 0] - here[..., 0]

    def value_gradient(state: State, batch: Sample):
        """The gradient of V's parameters, as arXiv:2402.00348 puts it together, and the differences [B]."""
        conjugate = jax.vmap(chi_square_loss, (0, None))
        params, target = state.value.params, state.target_value
        mean = lambda x: (batch.weight * x).mean()

        def first(params):
            return (1.0 - config.lean) * mean(value.apply(params, batch.transition.observation)[..., 0])

        def forward(params):
            difference = differences(batch, params, target)
            return config.lean * mean(conjugate(difference, 1.0)), difference

        def backward(params):
            return config.lean * mean(conjugate(differences(batch, target, params), 1.0))

        gradient, (ahead, difference) = jax.grad(first)(params), jax.grad(forward, has_aux=True)(params)
        gradient = jax.tree.map(jnp.add, gradient, ahead)
        if config.gradient != "semi":
            back = jax.grad(backward)(params)
            back = orthogonal_part(back, ahead) if config.gradient == "orthogonal" else back
            gradient = jax.tree.map(lambda g, b: g + config.backward * b, gradient, back)
        return gradient, difference

    def log_prob(state: State, observation, action, explore: bool = True):
        return log_prob_of(policy.apply(state.policy.params, observation), spec, action, explore)

    def update(state: State, batch: Sample, key: Key) -> tuple[State, Metrics]:
        del key  # nothing here is random
        steps = batch.transition
        gradient, difference = value_gradient(state, batch)
        step, opt_state = value_optimiser.update(gradient, state.value.opt_state, state.value.params)
        value_model = Model(optax.apply_updates(state.value.params, step), opt_state)
        weight = jax.vmap(chi_square_weight, (0, None))(difference, config.max_weight)

        def loss_of_policy(params):
            log_prob = policy.apply(params, steps.observation).log_prob(steps.action)
            loss = -(batch.weight * weight * log_prob).mean()
            return loss, {"loss/policy": loss, "policy/weight": weight.mean(), "critic/advantage": difference.mean()}

        policy_model, metrics = descend(policy_optimiser, state.policy, loss_of_policy)
        target_value = optax.incremental_update(value_model.params, state.target_value, config.target_rate)
        return State(policy_model, value_model, target_value), metrics

    return Agent(init, act, update, log_prob=log_prob)


def source(env: Env, config: Config, dataset) -> Source:
    """Transitions of the dataset; the environment is only evaluated in."""
    return sources.at_rest(dataset, batch_size=config.batch_size, num_batches=config.num_updates, gamma=config.gamma)
