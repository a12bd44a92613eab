"""A learned reward g of steps, and the potential h that may shape it, as pure functions of their parameters; and what they
learn by: to tell demonstrations from other steps."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax.errors import UserError
from rljax.losses import adversarial
from rljax.names import nearest
from rljax.networks import spectral
from rljax.networks.feed_forward import FeedForward
from rljax.networks.policies import action_vector
from rljax.record import record, static
from rljax.types import Continuous, EnvSpec, Key, Params, Transition

INPUTS = ("state", "state_action", "state_next", "state_action_next")


@record
class Config:
    """Penalty and optimiser: arXiv:1809.02925, section 4 and its code."""

    reward_learning_rate: float = 3e-4
    reward_weight_decay: float = 0.0
    gradient_penalty: float = (
        0.0  # weight of (|gradient of f in its input| - penalty_target)^2 between demonstrations and own steps
    )
    penalty_target: float = 1.0
    prior: float = 0.5  # share of own steps that count as demonstrated, where `positive_unlabelled`
    inputs: str = static("state_action")
    absorbing: bool = static(False)  # a termination leads to a state of its own, which is paid for ever like any other
    positive_unlabelled: bool = static(False)
    spectral_norm: bool = static(False)
    reward_hidden: tuple[int, ...] = static((64, 64))
    reward_activation: str = static("tanh")


class Step(NamedTuple):
    """What a reward is of, [*B, ...]: observations, actions as vectors, log-likelihoods of them by a policy, and whether it is not
    a step but the absorbing state, whose observation is zero."""

    observation: Array
    action: Float[Array, "*B A"]
    next_observation: Array
    terminated: Float[Array, "*B"]
    log_prob: Float[Array, "*B"]
    absorbed: Float[Array, "*B"]


class RewardModel(NamedTuple):
    """init: (key) -> params.  reward: (params, Step [*B]) -> g [*B].

    logit: (params, Step [*B]) -> g + gamma h(s') - h(s) [*B] where shaped, h being 0 after a termination; else g.
    """

    init: Callable[[Key], Params]
    reward: Callable[[Params, Step], Array]
    logit: Callable[[Params, Step], Array]


def make(spec: EnvSpec, config: Any, shaped: bool = False) -> RewardModel:
    """A reward of `config.inputs`, one of INPUTS.

    Args:
      config: the fields of `Config`, and `gamma`, `channels` and `dtype`.
    Raises:
      UserError: there are no such inputs; or an absorbing state is lived in for ever and nothing is discounted.
    """
    if config.inputs not in INPUTS:
        raise UserError(f"There is no inputs {config.inputs!r}; {nearest(config.inputs, INPUTS)}")
    if config.absorbing and isinstance(config.gamma, float) and config.gamma >= 1.0:
        raise UserError(f"gamma={config.gamma} must be below 1 where an absorbing state is lived in for ever.")
    rank = len(spec.observation_shape)
    structure = dict(channels=config.channels, activation=config.reward_activation, dtype=config.dtype)
    network = FeedForward(1, config.reward_hidden, rank, **structure)

    def inputs(step: Step):
        flat = step.next_observation.reshape(*step.action.shape[:-1], -1)
        some = [step.action] * ("action" in config.inputs) + [flat] * ("next" in config.inputs)
        flag = [step.absorbed[..., None]] * config.absorbing
        return step.observation, *some, *flag

    def apply(params, *inputs):
        return network.apply(spectral.normalised(params) if config.spectral_norm else params, *inputs)[..., 0]

    def init(key: Key) -> Params:
        reward_key, potential_key = jax.random.split(key)
        step = nothing(spec)
        params = {"reward": network.init(reward_key, *inputs(step))}
        if shaped:
            params["potential"] = network.init(potential_key, step.observation)
        return params

    def reward(params, step: Step):
        return apply(params["reward"], *inputs(step))

    def logit(params, step: Step):
        if not shaped:
            return reward(params, step)
        potential = functools.partial(apply, params["potential"])
        following = config.gamma * (1.0 - step.terminated) * potential(step.next_observation)
        return reward(params, step) + following - potential(step.observation)

    return RewardModel(init, reward, logit)


def steps_after(config: Any) -> Float[Array, ""]:
    """Steps in the absorbing state for each that led there, by the one discount."""
    return config.gamma / (1.0 - config.gamma)


def loss_function(spec: EnvSpec, config: Any, model: RewardModel, logit_of: Callable, loss_of: Callable) -> Callable:
    """(params, demonstrations: Step [B], own: Step [B], key) -> (loss, metrics) of a logit that is to be high where a step looks
    demonstrated.

    Args:
      logit_of: (params, Step [*B]) -> [*B], the model's logit or what is made of it.
      loss_of: one of `losses.adversarial.LOSSES`.
    """
    absorbing_state = nothing(spec, absorbed=1.0)

    def reward_loss(params, demos: Step, own: Step, key: Key):
        def mean_loss(steps, label):
            """Mean over the steps and what follows those that terminated."""
            loss = lambda logit: jnp.vectorize(loss_of)(logit, jnp.float32(label))
            total, count = loss(logit_of(params, steps)).sum(), steps.terminated.size
            if config.absorbing:
                after = steps_after(config) * steps.terminated.sum()
                total, count = total + after * loss(model.reward(params, absorbing_state)), count + after
            return total / count

        as_demonstrated, as_own = mean_loss(demos, 1.0), mean_loss(own, 0.0)
        if config.positive_unlabelled:
            loss = adversarial.positive_unlabelled_loss(as_demonstrated, mean_loss(demos, 0.0), as_own, config.prior)
        else:
            loss = as_demonstrated + as_own

        def slope_between(share, demo, own):
            """Gradient of the logit in all that it sees, somewhere between the two, or where what terminated has led."""
            if config.absorbing:
                own = jax.tree.map(lambda a, b: jnp.where(own.terminated > 0.0, a, b), absorbing_state, own)
            between = jax.tree.map(lambda a, b: share * a + (1.0 - share) * b, demo, own)
            slope = jax.grad(lambda step: logit_of(params, step))(between)
            seen = slope.observation, slope.action, slope.next_observation, slope.absorbed
            return jnp.concatenate([x.reshape(-1) for x in seen])

        slope = jax.vmap(slope_between)(jax.random.uniform(key, own.terminated.shape), demos, own)
        penalty = jax.vmap(adversarial.gradient_penalty, (0, None))(slope, config.penalty_target).mean()
        metrics = {
            "loss/reward": loss,
            "reward/steepness": jnp.linalg.norm(slope, axis=-1).mean(),
            "reward/demonstrations_told": (logit_of(params, demos) > 0).mean(),
            "reward/own_told": (logit_of(params, own) < 0).mean(),
        }
        return loss + config.gradient_penalty * penalty, metrics

    return reward_loss


def step_of(spec: EnvSpec, steps: Transition, log_prob: Float[Array, "*B"]) -> Step:
    """Transitions [*B] as a reward sees them; continuous actions clipped to their box, as the environment takes them, and zero
    where they are not known."""
    if steps.action is None:
        action = jnp.zeros((*log_prob.shape, nothing(spec).action.shape[0]))
    else:
        action = action_vector(spec, steps.action)
    terminated = steps.terminated.astype(jnp.float32)
    return Step(steps.observation, action, steps.next_observation, terminated, log_prob, jnp.zeros_like(terminated))


def nothing(spec: EnvSpec, absorbed: float = 0.0) -> Step:
    """One step of zeros, without a batch axis; the absorbing state if `absorbed` is 1."""
    size = spec.action.size if isinstance(spec.action, Continuous) else spec.action.num_actions
    observation = jnp.zeros(spec.observation_shape)
    return Step(observation, jnp.zeros(size), observation, jnp.zeros(()), jnp.zeros(()), jnp.float32(absorbed))
