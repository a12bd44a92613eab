"""MR.Q: model-based representations for Q-learning. Fujimoto et al., 2025, "Towards general-purpose model-free reinforcement
learning", arXiv:2501.16142.

An encoder learns features of observations and actions from which the next features, the reward and the termination are linear, by
being unrolled over several steps. Critics and policy are TD3's on these features (the lower of two, a smoothed target
policy; arXiv:1802.09477), learn from steps drawn by the size of their errors (LAP; Fujimoto et al., 2020, arXiv:2007.06049), and
their rewards are divided by how large rewards are. So one set of hyperparameters is meant for all environments, whether actions are
continuous or discrete.

One update is a period: the targets are what the networks were when it began, the encoder takes `target_period` steps, and after it
critics and policy take as many.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rljax import distributions, sources
from rljax.errors import UserError
from rljax.losses import actor_critic, distributional, latent, value
from rljax.networks.ensemble import ensemble
from rljax.networks.feed_forward import FeedForward, structure
from rljax.networks.latent import LatentModel
from rljax.networks.policies import action_vector
from rljax.record import record, static
from rljax.types import Agent, Continuous, Env, EnvSpec, Key, Metrics, Model, Params, Sample, Source
from rljax.updates import descend


@record
class Config:
    """Defaults: the paper's, by its authors' code (github.com/facebookresearch/MRQ)."""

    encoder_learning_rate: float = 1e-4
    policy_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    max_grad_norm: float = 20.0  # of the critics
    gamma: float = 0.99
    exploration_noise: float = (
        0.2  # standard deviation, of actions in [-1, 1]; of one-hot ones half as much, as of the next two
    )
    target_noise: float = 0.2  # standard deviation, of the target's action
    target_noise_clip: float = 0.3
    temperature: float = 10.0  # of discrete actions while the policy learns
    pre_activation_weight: float = 1e-5
    dynamics_weight: float = 1.0
    reward_weight: float = 0.1
    termination_weight: float = 0.1
    log_reward_range: float = 10.0  # rewards are told apart up to symexp of it
    priority_exponent: float = 0.4  # 0 draws uniformly
    least_priority: float = 1.0
    num_bins: int = static(65)  # of rewards
    horizon: int = static(5)  # steps that the encoder is unrolled over
    num_steps: int = static(3)  # that a target of the critics spans
    target_period: int = static(250)  # gradient steps of each network in an update
    num_critics: int = static(2)
    state_size: int = static(512)
    action_size: int = static(256)
    pair_size: int = static(512)
    hidden: tuple[int, ...] = static((512, 512))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("elu")
    policy_activation: str = static("relu")
    dtype: str = static("float32")
    num_envs: int = static(1)
    rollout_length: int = static(250)  # steps in each environment between updates
    batch_size: int = static(256)  # of one gradient step
    capacity: int = static(1_000_000)
    warmup: int = static(10_000)  # random steps before the first update


class State(NamedTuple):
    encoder: Model
    policy: Model
    critic: Model
    reward_scale: Float[Array, ""]  # what rewards are divided by in the critics' values


def networks(spec: EnvSpec, config: Config) -> tuple[LatentModel, FeedForward, FeedForward]:
    """Encoder; policy (features of observations) -> [..., A], before its tanh, or logits; critics (features of both) ->
    Q / reward_scale [E, ..., 1]."""
    sizes = config.state_size, config.action_size, config.pair_size
    encoder = LatentModel(*sizes, config.num_bins, **structure(spec, config))
    num_outputs = spec.action.size if isinstance(spec.action, Continuous) else spec.action.num_actions
    shared = dict(layer_norm=True, dtype=config.dtype)
    policy = FeedForward(num_outputs, config.hidden, activation=config.policy_activation, **shared)
    deeper = (*config.hidden, *config.hidden[-1:])
    return encoder, policy, ensemble(FeedForward, config.num_critics)(1, deeper, activation=config.activation, **shared)


def reward_support(config: Config) -> Float[Array, " N"]:
    """The rewards that a reward is spread over: the denser the smaller they are."""
    return distributional.symexp(jnp.linspace(-config.log_reward_range, config.log_reward_range, config.num_bins))


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """MR.Q for continuous actions in [-1, 1] or discrete ones. Reads a `Sample` [target_period * B] at a time, with segments and
    statistics of the replay among its extras (see `source`).

    Raises:
      UserError: there are not two bins; or, from `update`, target_period does not divide the sample.
    """
    if config.num_bins < 2:
        raise UserError(f"num_bins={config.num_bins} must be at least 2: a reward lies between two.")
    continuous = isinstance(spec.action, Continuous)
    encoder, policy, critic = networks(spec, config)
    adam = lambda rate: optax.adamw(rate, weight_decay=config.weight_decay)
    encoder_optimiser, policy_optimiser = adam(config.encoder_learning_rate), adam(config.policy_learning_rate)
    critic_optimiser = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adam(config.critic_learning_rate))
    noise_scale = 1.0 if continuous else 0.5

    def encode(params: Params, observation):
        return encoder.apply(params, observation, method="encode")

    def join(params: Params, features, action):
        return encoder.apply(params, features, action, method="join")

    def q_values(params: Params, pair):
        return critic.apply(params, pair)[..., 0]

    def choose(params: Params, features, key: Key):
        """Actions as vectors [B, A] through which gradients pass, and what they are made of."""
        output = policy.apply(params, features)
        if continuous:
            return jnp.tanh(output), output
        return distributions.gumbel_softmax(output, config.temperature, key), output

    def init(key: Key) -> State:
        encoder_key, policy_key, critic_key = jax.random.split(key, 3)
        action = jnp.zeros((1, policy.size))
        encoder_params = encoder.init(encoder_key, jnp.zeros((1, *spec.observation_shape)), action)
        policy_params = policy.init(policy_key, jnp.zeros((1, config.state_size)))
        critic_params = critic.init(critic_key, jnp.zeros((1, config.pair_size)))
        return State(
            Model(encoder_params, encoder_optimiser.init(encoder_params)),
            Model(policy_params, policy_optimiser.init(policy_params)),
            Model(critic_params, critic_optimiser.init(critic_params)),
            jnp.float32(1.0),
        )

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        """Without exploring, by the likeliest of discrete actions."""
        choice_key, noise_key = jax.random.split(key)
        action, output = choose(state.policy.params, encode(state.encoder.params, observation), choice_key)
        if explore:
            action += noise_scale * config.exploration_noise * jax.random.normal(noise_key, action.shape)
        elif not continuous:
            action = output
        return (jnp.clip(action, -1.0, 1.0) if continuous else action.argmax(axis=-1)), memory, {}

    def encoder_step(targets: State, model: Model, batch: Sample) -> tuple[Model, Metrics]:
        """One gradient step of the encoder on segments [B, H]."""
        extras, support = batch.transition.extras, reward_support(config)
        segment = extras["segment"]
        following = encode(targets.encoder.params, segment.next_observation)
        actions = jnp.swapaxes(action_vector(spec, segment.action), 0, 1)  # [H, B, A]

        def loss(params):
            def step(features, action):
                predicted = encoder.apply(params, join(params, features, action), method="predict")
                return predicted[0], predicted

            _, predicted = jax.lax.scan(step, encode(params, batch.transition.observation), actions)
            per_sequence = jax.vmap(latent.unrolled, (1, 1, 1, 0, 0, 0, 0, None))
            found = following, segment.reward, segment.terminated, extras["mask"]
            dynamics, reward, termination = (x.mean() for x in per_sequence(*predicted, *found, support))
            termination *= extras["terminates"][0]  # nothing to tell apart before the first
            loss = config.dynamics_weight * dynamics + config.reward_weight * reward
            loss += config.termination_weight * termination
            parts = {"loss/dynamics": dynamics, "loss/reward": reward, "loss/termination": termination}
            return loss, {"loss/encoder": loss} | parts

        return descend(encoder_optimiser, model, loss)

    def target_of(targets: State, scale, batch: Sample, key: Key) -> Float[Array, " B"]:
        """Of Q / scale."""
        steps, (choice_key, noise_key) = batch.transition, jax.random.split(key)
        features = encode(targets.encoder.params, steps.next_observation)
        action, _ = choose(targets.policy.params, features, choice_key)
        noise = noise_scale * config.target_noise * jax.random.normal(noise_key, action.shape)
        clip = noise_scale * config.target_noise_clip
        if continuous:
            action = jax.vmap(actor_critic.smoothed_action, (0, 0, None))(action, noise, clip)
        else:
            action = action_vector(spec, (action + jnp.clip(noise, -clip, clip)).argmax(axis=-1))
        lowest = q_values(targets.critic.params, join(targets.encoder.params, features, action)).min(axis=0)
        return jax.vmap(value.td_target)(steps.reward, batch.discount, targets.reward_scale * lowest) / scale

    def critic_and_policy_step(targets: State, scale, encoder_params, models, batch: Sample, key: Key):
        """One gradient step of the critics, and one of the policy, on a batch [B] by an encoder that stays as it is."""
        (critic_model, policy_model), steps = models, batch.transition
        target_key, policy_key = jax.random.split(key)
        target = target_of(targets, scale, batch, target_key)
        features = encode(encoder_params, steps.observation)
        taken = join(encoder_params, features, action_vector(spec, steps.action))

        def critic_loss(params):
            q = q_values(params, taken)
            errors = target - q
            losses = jax.vmap(jax.vmap(value.huber, (0, None)), (0, None))(errors, 1.0)
            loss = (batch.weight * losses.mean(axis=0)).mean()
            priority = jnp.maximum(jnp.abs(errors).max(axis=0), config.least_priority)
            return loss, {"loss/critic": loss, "critic/q": scale * q.mean(), "priority": priority}

        critic_model, metrics = descend(critic_optimiser, critic_model, critic_loss)

        def policy_loss(params):
            action, output = choose(params, features, policy_key)
            q = q_values(critic_model.params, join(encoder_params, features, action))
            loss = -q.mean() + config.pre_activation_weight * jnp.square(output).mean()
            return loss, {"loss/policy": loss}

        policy_model, policy_metrics = descend(policy_optimiser, policy_model, policy_loss)
        return (critic_model, policy_model), metrics | policy_metrics

    def update(state: State, batch: Sample, key: Key) -> tuple[State, Metrics]:
        """A period. Each of its batches is from all of the replay: neighbours of a sample that was drawn in strata part."""
        size, period = batch.weight.shape[0], config.target_period
        if size % period:
            raise UserError(f"target_period={period} must divide the {size} transitions of a sample.")
        batches = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, period, *x.shape[1:]), 0, 1), batch)
        scale = jnp.maximum(batch.transition.extras["reward_size"][0], 1e-8)
        learn_features = lambda model, batch: encoder_step(state, model, batch)
        encoder_model, metrics = jax.lax.scan(learn_features, state.encoder, batches)
        step = lambda models, inputs: critic_and_policy_step(state, scale, encoder_model.params, models, *inputs)
        models = state.critic, state.policy
        (critic_model, policy_model), more = jax.lax.scan(step, models, (batches, jax.random.split(key, period)))
        priority = jnp.swapaxes(more.pop("priority"), 0, 1).reshape(size)
        metrics = jax.tree.map(jnp.mean, metrics | more) | {"priority": priority, "critic/reward_scale": scale}
        return State(encoder_model, policy_model, critic_model, scale), metrics

    return Agent(init, act, update)


def source(env: Env, config: Config = Config()) -> Source:
    """Steps of the present policy into a replay, batches for a period out of it, drawn by priority and not corrected for that."""
    return sources.replay_of(
        env,
        config,
        batch_size=config.target_period * config.batch_size,
        num_batches=1,
        priority_exponent=config.priority_exponent,
        importance_exponent=0.0,
        segment_steps=config.horizon,
        with_statistics=True,
    )
