"""Actor-critics whose policy copies the data's actions by how much better they are than its own: AWAC, CRR, one-step RL.

AWAC: Nair et al., 2020, arXiv:2006.09359. CRR (Wang et al., 2020, arXiv:2006.15134) differs in the weights and in what the data's
action is compared with: `Config(num_samples=4, inverse_temperature=1.0, max_weight=20.0)` is its `exp`, and with
`weighting="indicator"` its `binary`; `baseline="max"` asks for more than `mean`. One-step RL (Brandfonbrener et al., 2021,
arXiv:2106.08909) is `one_step=True`: the critics judge the policy that made the data, by the action it took next, so that the
policy improves on it once; here both are learnt side by side.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rljax import sources
from rljax.errors import UserError
from rljax.losses import implicit
from rljax.losses.actor_critic import clipped_q, expected_soft_value
from rljax.losses.value import td_target
from rljax.names import nearest
from rljax.networks.ensemble import ensemble
from rljax.networks.feed_forward import FeedForward, structure
from rljax.networks.policies import Policy, critic_size, init_critic, log_prob_of, q_taken, sample_or_mode
from rljax.record import record, static
from rljax.types import Agent, Discrete, Env, EnvSpec, Key, Metrics, Model, Params, Sample, Source
from rljax.updates import descend

WEIGHTINGS = ("exponential", "indicator")
BASELINES = {"mean": jnp.mean, "max": jnp.max}


@record
class Config(sources.Online):
    """Defaults: AWAC's as in CORL (github.com/corl-team/CORL, algorithms/offline/awac.py and its configs for locomotion)."""

    policy_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    gamma: float = 0.99
    target_rate: float = 0.005  # share of the new critics in the target critics, each update
    reward_scale: float = 1.0
    inverse_temperature: float = 3.0  # of the advantages that the policy copies by; 1 / lambda
    max_weight: float = 100.0
    weighting: str = static("exponential")  # exp(A / lambda), or "indicator": 1(A > 0)
    baseline: str = static("mean")  # what A is an advantage over: "mean" or "max" of Q of the policy's actions
    num_samples: int = static(1)  # actions of the policy for an estimate; the mean over discrete ones is exact
    one_step: bool = static(False)  # the target's action is the data's next one, not the policy's
    num_critics: int = static(2)
    hidden: tuple[int, ...] = static((256, 256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    layer_norm: bool = static(False)  # in the critics
    dtype: str = static("float32")
    batch_size: int = static(256)
    num_updates: int = static(8)  # on batches drawn together


class State(NamedTuple):
    policy: Model
    critic: Model
    target_critic: Params


def networks(spec: EnvSpec, config: Config) -> tuple[Policy, FeedForward]:
    """Policy (observation) -> distribution, critics (see `q_taken`)."""
    shared = structure(spec, config)
    critic = ensemble(FeedForward, config.num_critics)(critic_size(spec), layer_norm=config.layer_norm, **shared)
    return Policy(spec, shared), critic


def _lower_q(spec: EnvSpec, critic: FeedForward, critic_params: Params, observation, action) -> Float[Array, " B"]:
    return jax.vmap(clipped_q, 1)(q_taken(critic, spec, critic_params, observation, action))


def value_of_policy(
    spec: EnvSpec,
    config: Config,
    policy_params: Params,
    critic_params: Params,
    observation,
    key: Key | None,
    baseline="mean",
) -> Float[Array, " B"]:
    """Mean or maximum of Q of the policy's actions: exact for the mean over discrete ones, else of `num_samples`, or of the most
    likely action where there is no key."""
    policy, critic = networks(spec, config)
    acting = policy.apply(policy_params, observation)
    if baseline == "mean" and isinstance(spec.action, Discrete):
        q, log_probs = critic.apply(critic_params, observation), jax.nn.log_softmax(acting.logits)
        return jax.vmap(expected_soft_value, (1, 0, None))(q, log_probs, 0.0)
    if key is None:
        return _lower_q(spec, critic, critic_params, observation, sample_or_mode(acting, spec, key, False))
    action = jax.vmap(lambda key: sample_or_mode(acting, spec, key, True))(jax.random.split(key, config.num_samples))
    q = jax.vmap(lambda action: _lower_q(spec, critic, critic_params, observation, action))(action)
    return BASELINES[baseline](q, axis=0)


def make(spec: EnvSpec, config: Config = Config(), critic_loss: Callable | None = None) -> Agent:
    """AWAC, CRR or one-step RL for any actions. Reads a `Sample` [B] at a time.

    Args:
      critic_loss: (critic params, state, batch, key) -> (loss, metrics), in place of squared errors.
    Raises:
      UserError: there is no such weighting or baseline.
    """
    if config.weighting not in WEIGHTINGS:
        raise UserError(f"Unknown weighting {config.weighting!r}; {nearest(config.weighting, WEIGHTINGS)}")
    if config.baseline not in BASELINES:
        raise UserError(f"Unknown baseline {config.baseline!r}; {nearest(config.baseline, BASELINES)}")
    policy, critic = networks(spec, config)
    policy_optimiser = optax.adam(config.policy_learning_rate)
    critic_optimiser = optax.adam(config.critic_learning_rate)

    lower_q = functools.partial(_lower_q, spec, critic)
    value = functools.partial(value_of_policy, spec, config)

    def weight_of(advantage):
        """How much the policy copies each action, [B]."""
        if config.weighting == "indicator":
            return jax.vmap(implicit.indicator_weight)(advantage)
        weight = jax.vmap(implicit.advantage_weight, (0, None, None))
        return weight(advantage, config.inverse_temperature, config.max_weight)

    def init(key: Key) -> State:
        policy_key, critic_key = jax.random.split(key)
        policy_params = policy.init(policy_key, jnp.zeros((1, *spec.observation_shape)))
        critic_params = init_critic(critic, spec, critic_key)
        return State(
            policy=Model(policy_params, policy_optimiser.init(policy_params)),
            critic=Model(critic_params, critic_optimiser.init(critic_params)),
            target_critic=jax.tree.map(jnp.copy, critic_params),  # apart, so that the state can be donated
        )

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        return sample_or_mode(policy.apply(state.policy.params, observation), spec, key, explore), memory, {}

    def log_prob(state: State, observation, action, explore: bool = True):
        return log_prob_of(policy.apply(state.policy.params, observation), spec, action, explore)

    def squared_errors(params, state: State, batch: Sample, key: Key):
        steps, known = batch.transition, 1.0
        if config.one_step:
            next_value = lower_q(state.target_critic, steps.next_observation, steps.extras["next_action"])
            known = steps.terminated | steps.extras["has_next"]  # after a time limit there is no action to go on with
        else:
            next_value = value(state.policy.params, state.target_critic, steps.next_observation, key)
        target = jax.vmap(td_target)(config.reward_scale * steps.reward, batch.discount, next_value)
        q = q_taken(critic, spec, params, steps.observation, steps.action)
        loss = (batch.weight * known * jnp.square(target - q).sum(axis=0)).mean()
        return loss, {"loss/critic": loss, "critic/q": q.mean()}

    def update(state: State, batch: Sample, key: Key) -> tuple[State, Metrics]:
        critic_key, policy_key = jax.random.split(key)
        steps = batch.transition
        loss_of = critic_loss or squared_errors
        critic_model, critic_metrics = descend(
            critic_optimiser, state.critic, lambda params: loss_of(params, state, batch, critic_key)
        )
        q = lower_q(critic_model.params, steps.observation, steps.action)
        advantage = q - value(state.policy.params, critic_model.params, steps.observation, policy_key, config.baseline)
        weight = weight_of(advantage)

        def loss_of_policy(params):
            log_prob = policy.apply(params, steps.observation).log_prob(steps.action)
            loss = -(batch.weight * weight * log_prob).mean()
            return loss, {"loss/policy": loss, "policy/weight": weight.mean(), "critic/advantage": advantage.mean()}

        policy_model, policy_metrics = descend(policy_optimiser, state.policy, loss_of_policy)
        target_critic = optax.incremental_update(critic_model.params, state.target_critic, config.target_rate)
        return State(policy_model, critic_model, target_critic), critic_metrics | policy_metrics

    return Agent(init, act, update, log_prob=log_prob)


def source(env: Env, config: Config, dataset) -> Source:
    """Transitions of the dataset; with `online`, a mixture of them and of its own steps."""
    return sources.of_data(env, config, dataset)
