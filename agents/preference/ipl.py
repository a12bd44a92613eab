"""Inverse preference learning: values straight from judgements, without a reward network. Hejna & Sadigh, 2023, arXiv:2305.15363.

A value Q is right for exactly one reward, r(s, a) = Q(s, a) - gamma V(s'); segments are scored by its sum and their judgements made
likely, with rewards held near 0 by their squares. V and the policy are another agent's:

  values="iql"    implicit Q-learning (agents/offline/iql.py); its `value_loss` makes it the form with XQL's or f-DVL's values
  values="awac"   advantage weighted actor-critic (agents/offline/awac.py): V is what the target critics make of the policy's own
                  actions; of continuous ones the reward that it reports takes the most likely
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax import sources
from rljax.agents.offline import awac, iql
from rljax.data.feedback import Judged
from rljax.errors import UserError
from rljax.losses import preference
from rljax.losses.inverse import soft_reward
from rljax.names import nearest
from rljax.networks.feed_forward import FeedForward
from rljax.networks.policies import q_taken
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Sample, Source, Transition


@record
class Config:
    """Defaults: the authors' for locomotion (github.com/jhejna/inverse-preference-learning, configs)."""

    learning_rate: float = 3e-4
    gamma: float = 0.99
    target_rate: float = 0.005  # share of the new critics in the target critics, each update
    lean: float = 0.7  # of the value loss, see `iql`; AWAC has none
    inverse_temperature: float = 3.0  # of the advantages that the policy copies by
    max_weight: float = 100.0
    regularisation: float = 0.5  # weight of squared rewards, half of judged steps and half of all
    bias: float = 1.0  # the likelihood's number
    likelihood: str = static("pairwise")
    values: str = static("iql")
    value_loss: str = static("expectile")  # of IQL's values
    segment: int = static(64)  # steps, cut out of longer ones
    num_critics: int = static(2)
    hidden: tuple[int, ...] = static((256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    layer_norm: bool = static(False)  # in the value and the critics
    dtype: str = static("float32")
    batch_size: int = static(256)  # of steps
    num_judgements: int = static(8)  # beside them
    num_updates: int = static(8)  # on batches drawn together


def _iql(spec: EnvSpec, config: Config) -> tuple[Callable, FeedForward, Callable]:
    _, value, critic = iql.networks(spec, config)

    def next_value(state: iql.State, observation, key):
        return value.apply(state.value.params, observation)[..., 0]

    return functools.partial(iql.make, spec, config), critic, next_value


def _awac(spec: EnvSpec, config: Config) -> tuple[Callable, FeedForward, Callable]:
    known = {field.name for field in dataclasses.fields(awac.Config)}
    same = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name in known}
    rate = config.learning_rate
    of_awac = awac.Config(policy_learning_rate=rate, critic_learning_rate=rate, **same)
    _, critic = awac.networks(spec, of_awac)

    def next_value(state: awac.State, observation, key):
        return awac.value_of_policy(spec, of_awac, state.policy.params, state.target_critic, observation, key)

    return functools.partial(awac.make, spec, of_awac), critic, next_value


VALUES = {  # (spec, config) -> make of the agent, its critics, (state, observation [B], key) -> V(s') [B]
    "iql": _iql,
    "awac": _awac,
}


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """IPL for any actions. Reads `sources.Beside`: `Judged` [B, G, K] and a `Sample`, at whose rewards it does not look.

    Raises:
      UserError: there is no such likelihood, value loss, or agent whose values these could be.
    """
    preference.check(config.likelihood)
    if config.values not in VALUES:
        raise UserError(f"There are no values {config.values!r}; {nearest(config.values, VALUES)}")
    make_agent, critic, next_value = VALUES[config.values](spec, config)
    plain = make_agent()
    # squared rewards cannot make more of values than this
    bound = 1.0 / jnp.maximum(config.regularisation * (1.0 - config.gamma), 1e-8)

    def rewards(critic_params, state, steps: Transition, key: Key | None) -> Float[Array, "E B"]:
        """Of flat steps, by each critic; the next value is a constant."""
        q = q_taken(critic, spec, critic_params, steps.observation, steps.action)
        following = jax.lax.stop_gradient(jnp.clip(next_value(state, steps.next_observation, key), -bound, bound))
        return jax.vmap(jax.vmap(soft_reward), (0, None, None))(q, following, config.gamma * (1.0 - steps.terminated))

    def update(state, batch: sources.Beside, key: Key) -> tuple[iql.State | awac.State, Metrics]:
        judged: Judged = batch.own
        shape, count = judged.mask.shape, judged.mask.size
        flat = jax.tree.map(lambda x: x.reshape(count, *x.shape[3:]), judged.transition)
        data = batch.data.transition.replace(extras={})
        steps = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), flat.replace(extras={}), data)
        weight = jnp.concatenate([judged.mask.reshape(-1).astype(jnp.float32), batch.data.weight])

        def critic_loss(params, state, sample: Sample, key: Key):
            reward = rewards(params, state, steps, key)
            scores = jnp.where(judged.mask, reward[:, :count].reshape(-1, *shape), 0.0).sum(axis=-1)  # [E, B, G]
            told = jax.vmap(
                lambda x: preference.batch_loss(config.likelihood, x, judged.rank, judged.weight, config.bias)
            )
            square = jnp.square(reward)
            of_judged = (square[:, :count] * weight[:count]).sum(axis=1) / jnp.maximum(weight[:count].sum(), 1.0)
            of_all = (square[:, count:] * weight[count:]).mean(axis=1)
            held = 0.5 * (of_judged + of_all).sum()
            loss = told(scores).sum() + config.regularisation * held
            metrics = {"loss/critic": loss, "reward/size": jnp.sqrt(square.mean())}
            return loss, metrics | preference.agreed(scores.mean(axis=0), judged.rank)

        sample = Sample(steps, jnp.zeros_like(weight), weight, jnp.zeros(weight.shape, jnp.int32))
        return make_agent(critic_loss=critic_loss).update(state, sample, key)

    def reward(state, steps: Transition) -> Float[Array, "*B"]:
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[steps.reward.ndim :]), steps.replace(extras={}))
        return rewards(state.critic.params, state, flat, None).mean(axis=0).reshape(steps.reward.shape)

    return plain._replace(update=update, reward=reward)


def source(env: Env, config: Config, dataset) -> Source:
    """Judgements of the dataset, and all of its steps beside them; the environment is only evaluated in."""
    judged = sources.judged(
        dataset, batch_size=config.num_judgements, num_batches=config.num_updates, length=config.segment
    )
    steps = sources.at_rest(dataset, batch_size=config.batch_size, num_batches=config.num_updates, gamma=config.gamma)
    return sources.beside(judged, steps)
