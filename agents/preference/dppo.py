"""Direct preference-based policy optimisation: a policy from ranked segments, without rewards. An et al., 2023, arXiv:2301.12842.

A predictor learns from judgements which of two segments is better. It reads a segment as a whole, so it is no reward of steps, and
it is held to tell overlapping segments about the same. The policy learns from segments of all the data: a segment's score is how
near the policy's actions are to those in it, and of any two in a batch the one that the predictor puts first is to score higher. As
in CPL (agents/preference/cpl.py) a bias below 1 makes more of the better segment than of the worse.

Both learn side by side; the authors train the predictor first. The paper has continuous actions alone: how far a policy is from a
discrete one is here the probability of all others. The authors' optional dropout of the policy is not here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rljax import sources
from rljax.errors import UserError
from rljax.losses import preference
from rljax.networks.feed_forward import structure
from rljax.networks.policies import Policy, blank_action, distance, log_prob_of, sample_or_mode
from rljax.networks.segments import SegmentEncoder
from rljax.record import record, static
from rljax.types import Agent, Discrete, Env, EnvSpec, Key, Metrics, Model, Source, Transition
from rljax.updates import descend


@record
class Config:
    """Defaults: the authors' for locomotion (github.com/snu-mllab/DPPO), with networks, segments and batches of this suite's size.
    `smoothness` and `shift` they leave to the command."""

    learning_rate: float = 3e-4
    predictor_learning_rate: float = 3e-4
    temperature: float = 0.1  # what distances are divided by
    bias: float = 0.5  # lambda, of the policy's loss
    smoothness: float = 1.0  # weight of squared differences between overlapping segments
    shift: float = 10.0  # standard deviation of how many steps apart these begin
    likelihood: str = static("pairwise")  # of judgements by the predictor
    segment: int = static(64)  # steps, cut out of longer ones
    hidden: tuple[int, ...] = static((256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers of the policy
    activation: str = static("relu")
    dtype: str = static("float32")
    width: int = static(64)  # of the predictor
    num_layers: int = static(1)
    num_heads: int = static(4)
    dropout: float = static(0.1)
    batch_size: int = static(64)  # of segments that the policy learns from
    num_judgements: int = static(32)  # beside them
    num_updates: int = static(8)  # on batches drawn together


class State(NamedTuple):
    policy: Model
    predictor: Model


def networks(spec: EnvSpec, config: Config) -> tuple[Policy, SegmentEncoder]:
    """Policy (observation) -> distribution, predictor (observation [B, K, ...], action, mask) -> [B, 1]."""
    shape = (config.segment, config.width, config.num_layers, config.num_heads, config.dropout)
    predictor = SegmentEncoder(spec, 1, *shape)
    return Policy(spec, structure(spec, config)), predictor


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """DPPO for any actions. Reads `sources.Beside`: `Judged` [B, G, K], and overlapping segments [S, 2, K] that nobody judged. The
    reward it reports is what a step adds to the policy's score of a segment, times the number of steps.

    Raises:
      UserError: there is no such likelihood, or num_heads does not divide width.
    """
    preference.check(config.likelihood)
    if config.width % config.num_heads:
        raise UserError(f"num_heads={config.num_heads} must divide width={config.width}.")
    policy, predictor = networks(spec, config)
    optimiser, predictor_optimiser = optax.adam(config.learning_rate), optax.adam(config.predictor_learning_rate)
    discrete = isinstance(spec.action, Discrete)

    def init(key: Key) -> State:
        policy_key, predictor_key = jax.random.split(key)
        shape = (1, config.segment)
        observation = jnp.zeros((*shape, *spec.observation_shape))
        policy_params = policy.init(policy_key, observation[0])
        predictor_params = predictor.init(predictor_key, observation, blank_action(spec, *shape), jnp.ones(shape, bool))
        return State(
            Model(policy_params, optimiser.init(policy_params)),
            Model(predictor_params, predictor_optimiser.init(predictor_params)),
        )

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        distribution = policy.apply(state.policy.params, observation)
        return sample_or_mode(distribution, spec, key, explore and discrete), memory, {}

    def log_prob(state: State, observation, action, explore: bool = True):
        return log_prob_of(policy.apply(state.policy.params, observation), spec, action, explore)

    def predicted(params, steps: Transition, mask, key: Key | None) -> Float[Array, "*B"]:
        """The predictor's scores of segments [*B, K]."""
        flat = lambda x: x.reshape(-1, *x.shape[mask.ndim - 1 :])
        return predictor.apply(params, flat(steps.observation), flat(steps.action), flat(mask), key).reshape(
            mask.shape[:-1]
        )

    def step_score(params, steps: Transition) -> Float[Array, "*B"]:
        return -distance(policy.apply(params, steps.observation), spec, steps.action) / config.temperature

    def update(state: State, batch: sources.Beside, key: Key) -> tuple[State, Metrics]:
        judged, anywhere = batch.own, batch.data
        judged_key, anywhere_key = jax.random.split(key)

        def predictor_loss(params):
            scores = predicted(params, judged.transition, judged.mask, judged_key)
            told = preference.batch_loss(config.likelihood, scores, judged.rank, judged.weight, 1.0)
            pair = predicted(params, anywhere.transition, anywhere.mask, anywhere_key)
            rough = jnp.square(pair[:, 0] - pair[:, 1]).mean()
            metrics = {"loss/predictor": told, "predictor/roughness": rough}
            return told + config.smoothness * rough, metrics | preference.agreed(scores, judged.rank)

        new_predictor, predictor_metrics = descend(predictor_optimiser, state.predictor, predictor_loss)
        steps, mask = jax.tree.map(lambda x: x[:, 0], (anywhere.transition, anywhere.mask))
        rank = jnp.argsort(jnp.argsort(-predicted(new_predictor.params, steps, mask, None)))

        def policy_loss(params):
            scores = jnp.where(mask, step_score(params, steps), 0.0).sum(axis=-1) / mask.sum(axis=-1)
            loss = preference.pairwise(scores, rank, config.bias)
            return loss, {"loss/policy": loss, "policy/distance": -config.temperature * scores.mean()}

        new_policy, policy_metrics = descend(optimiser, state.policy, policy_loss)
        return State(new_policy, new_predictor), predictor_metrics | policy_metrics

    def reward(state: State, steps: Transition) -> Float[Array, " B"]:
        return step_score(state.policy.params, steps)

    return Agent(init, act, update, log_prob=log_prob if discrete else None, reward=reward)


def source(env: Env, config: Config, dataset) -> Source:
    """Judgements of the dataset, and segments from anywhere in it beside them; the environment is only evaluated in."""
    batches = dict(num_batches=config.num_updates, length=config.segment)
    judged = sources.judged(dataset, batch_size=config.num_judgements, **batches)
    anywhere = sources.unjudged(dataset, batch_size=config.batch_size, spread=config.shift, **batches)
    return sources.beside(judged, anywhere)
