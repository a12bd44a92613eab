"""Policies and critics as many agents have them: distributions over actions, and values of actions given."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax import distributions
from rljax.errors import UserError
from rljax.losses import implicit
from rljax.networks import heads
from rljax.networks.feed_forward import FeedForward
from rljax.networks.heads import Head, Law
from rljax.types import Continuous, EnvSpec, Key, Metrics, Params, Sample

MEAN = heads.mean()


class Policy(nn.Module):
    """(observation [..., *shape]) -> distribution over actions, with no squashing: its likelihood of any action is finite.

    Continuous: a normal whose mean is a tanh and whose log standard deviation, in LOG_STD_RANGE, is the same for all
    observations (Kostrikov et al., 2021, arXiv:2110.06169, appendix B). Discrete: a categorical one.

    Args:
      network: FeedForward's arguments (see `structure`).
    """

    spec: EnvSpec
    network: dict

    @nn.compact
    def __call__(self, observation):
        action = self.spec.action
        size = action.size if isinstance(action, Continuous) else action.num_actions
        output = FeedForward(size, **self.network)(observation)
        if not isinstance(action, Continuous):
            return distributions.categorical(output)
        log_std = jnp.clip(self.param("log_std", nn.initializers.zeros, (size,)), *distributions.LOG_STD_RANGE)
        return distributions.normal(jnp.tanh(output), jnp.broadcast_to(log_std, output.shape))


def sample_or_mode(distribution: distributions.Distribution, spec: EnvSpec, key, explore: bool):
    """An action of the distribution, or its most likely one; continuous ones clipped to their box."""
    action = distribution.sample(seed=key) if explore else distribution.mode()
    return distributions.in_box(spec.action, action)


def log_prob_of(distribution: distributions.Distribution, spec: EnvSpec, action, explore: bool) -> Float[Array, "*B"]:
    """Log-likelihood of `action` where an action of the distribution is taken, or its most likely one (0 or -inf).

    Continuous actions are those that the environment takes (`distributions.log_prob_in_box`).

    Raises:
      UserError: the most likely one of continuous actions, which has no density.
    """
    if explore and isinstance(spec.action, Continuous):
        return distributions.log_prob_in_box(distribution, spec.action, action)
    if explore:
        return distribution.log_prob(action)
    if isinstance(spec.action, Continuous):
        raise UserError("A deterministic policy of continuous actions has no density; let it explore.")
    return jnp.where(action == distribution.mode(), 0.0, -jnp.inf)


def closeness(distribution: distributions.Distribution, spec: EnvSpec, action) -> Float[Array, "*B"]:
    """How near a policy is to `action`: its log-likelihood; for continuous ones -|a - pi(s)|^2 of the most likely action, whatever
    the spread, which cannot grow without end."""
    if isinstance(spec.action, Continuous):
        return -jnp.square(action - distribution.mode()).sum(axis=-1)
    return distribution.log_prob(action)


def distance(distribution: distributions.Distribution, spec: EnvSpec, action) -> Float[Array, "*B"]:
    """How far a policy is from `action`: of continuous ones half the Euclidean distance of the most likely action, of discrete ones
    the probability of all others. Its gradient is 0 where that is 0."""
    if not isinstance(spec.action, Continuous):
        return 1.0 - jnp.exp(distribution.log_prob(action))
    square = jnp.square(0.5 * (action - distribution.mode())).sum(axis=-1)
    return jnp.where(square > 0.0, jnp.sqrt(jnp.where(square > 0.0, square, 1.0)), 0.0)


def soft_policy_size(spec: EnvSpec) -> int:
    """Outputs of a network that `soft_policy` reads."""
    return 2 * spec.action.size if isinstance(spec.action, Continuous) else spec.action.num_actions


def soft_policy(spec: EnvSpec, output: Float[Array, "*B size"]) -> distributions.Distribution:
    """The policy of agents that are paid for its entropy, of a network's output.

    Continuous: a tanh-squashed normal of means and unbounded log standard deviations (Haarnoja et al., 2018, arXiv:1812.05905).
    Discrete: a categorical one of logits.
    """
    if not isinstance(spec.action, Continuous):
        return distributions.categorical(output)
    mean, log_std = jnp.split(output, 2, axis=-1)
    return distributions.TanhNormal(mean, distributions.bounded_log_std(log_std))


def action_vector(spec: EnvSpec, action: Array) -> Float[Array, "*B A"]:
    """Actions [*B, ...] as networks read them: those of a box as environments take them, others one-hot."""
    if isinstance(spec.action, Continuous):
        return distributions.in_box(spec.action, action)
    return jax.nn.one_hot(action, spec.action.num_actions)


def blank_action(spec: EnvSpec, *batch: int) -> Array:
    """Actions of zeros, [*batch, ...], as environments take them."""
    return jnp.zeros((*batch, *spec.action.shape), jnp.float32 if isinstance(spec.action, Continuous) else jnp.int32)


def critic_size(spec: EnvSpec, head: Head = MEAN) -> int:
    """Outputs of a critic: a head's for an action given, or for each that there is."""
    return head.size * (1 if isinstance(spec.action, Continuous) else spec.action.num_actions)


def init_critic(critic: nn.Module, spec: EnvSpec, key: Key) -> Params:
    """Parameters of critics that `q_taken` reads."""
    action = (jnp.zeros((1, *spec.action.shape)),) if isinstance(spec.action, Continuous) else ()
    return critic.init(key, jnp.zeros((1, *spec.observation_shape)), *action)


def outputs_taken(critic: nn.Module, spec: EnvSpec, params: Params, observation, action, head: Head = MEAN):
    """What each critic of an ensemble with `critic_size` outputs tells its head of the actions given, [E, B, size]."""
    if isinstance(spec.action, Continuous):
        return critic.apply(params, observation, action)
    output = critic.apply(params, observation)
    output = output.reshape(*output.shape[:-1], spec.action.num_actions, head.size)
    return jnp.take_along_axis(output, action[None, :, None, None], axis=-2)[..., 0, :]


def q_taken(critic: nn.Module, spec: EnvSpec, params: Params, observation, action, head: Head = MEAN):
    """Each critic's value of the actions given, [E, B], by the mean of its law."""
    return heads.preferred(head.law(outputs_taken(critic, spec, params, observation, action, head)))


def loss_of_critics(
    critic: nn.Module, spec: EnvSpec, params: Params, batch: Sample, target: Law, head: Head = MEAN, expectile=None
) -> tuple[Float[Array, ""], Metrics]:
    """How far critics' laws of the actions taken are from targets' [B, M], weighted and summed over critics: half the squared
    error, for critics that know the mean alone. Beside it the metrics, and the size of the errors of means as `priority` [B].

    Args:
      expectile: of targets' means, which is learned rather than their mean (rljax.networks.annealing); None: the mean.
    """
    steps = batch.transition
    output = outputs_taken(critic, spec, params, steps.observation, steps.action, head)
    q = heads.preferred(head.law(output))
    errors = heads.preferred(target) - q
    if expectile is None:
        losses = jax.vmap(jax.vmap(head.loss), (0, None))(output, target)
    else:
        losses = jax.vmap(jax.vmap(implicit.expectile_loss, (0, None)), (0, None))(errors, expectile)
    loss = (batch.weight * losses.sum(axis=0)).mean()
    return loss, {"loss/critic": loss, "critic/q": q.mean(), "priority": jnp.abs(errors).mean(axis=0)}


def sampled_values(
    spec: EnvSpec, policy: nn.Module, critic: nn.Module, num_samples: int, head: Head = MEAN
) -> Callable:
    """(policy params, critic params, steps [B], keys [3]) -> values [E, 3 n, B] of actions at s, and their log densities [3 n, B]:
    n = `num_samples` of the uniform law, n of pi(s) and n of pi(s')."""

    def sampled_actions(policy_params, steps, keys):
        size = steps.reward.shape[0]
        uniform_key, key, next_key = keys
        uniform = distributions.uniform_action(spec.action, num_samples * size, uniform_key)
        uniform = uniform.reshape(num_samples, size, -1)
        uniform_log_density = distributions.uniform_log_prob(spec.action, num_samples * size).reshape(num_samples, size)

        def of_policy(observation, key):
            acting = soft_policy(spec, policy.apply(policy_params, observation))
            return acting.sample_and_log_prob(seed=key, sample_shape=num_samples)

        here, next_ = of_policy(steps.observation, key), of_policy(steps.next_observation, next_key)
        actions, log_densities = zip((uniform, uniform_log_density), here, next_)
        return jnp.concatenate(actions), jnp.concatenate(log_densities)

    def values(policy_params, critic_params, steps, keys):
        actions, log_density = sampled_actions(policy_params, steps, keys)
        # all at s, those of pi(s') too; as one batch, which is a quarter faster on CPUs than one for each action
        merge = lambda x: x.reshape(-1, *x.shape[2:])
        observation = jnp.broadcast_to(steps.observation, (len(actions), *steps.observation.shape))
        q = q_taken(critic, spec, critic_params, merge(observation), merge(actions), head)
        return q.reshape(len(q), *log_density.shape), log_density

    return values
