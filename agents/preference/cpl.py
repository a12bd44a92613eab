"""Contrastive preference learning: a policy from judgements, without rewards or values. Hejna et al., 2023, arXiv:2310.13639.

People are taken to judge by regret, and the optimal advantage of a step is alpha log pi*(a | s); so segments are scored by the sum
of that under the policy which is sought, and their judgements made likely. With bias below 1 what is better is made likely rather
than what is worse unlikely, which ties the policy to the data. The policy begins as a clone of all segments.

  CPL        bias=0.5                      the conservative form
  CPL-BC     clone_weight=1, bias=1        held to the data by cloning
  CPL-KL     from_reference=True           scored against the clone that it began as
  SFT        supervised=True               the baseline: a clone of all, then of the best segments alone
  rankings   any number of segments in a judgement, by `likelihood` (rljax.losses.preference)

Continuous actions have the unit normal's log-likelihood without its constant and half, -|a - pi(s)|^2, as in the authors' code,
where sums are not discounted either. Their dropout is not here.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from rljax import sources
from rljax.data.feedback import Judged
from rljax.losses import preference
from rljax.networks.feed_forward import structure
from rljax.networks.policies import Policy, closeness, log_prob_of, sample_or_mode
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Source, Transition
from rljax.updates import descend


@record
class Config:
    """Defaults: the authors' for states (github.com/jhejna/cpl, configs/cpl), with a network of this suite's size."""

    learning_rate: float = 1e-4
    alpha: float = 0.1  # temperature of the optimal policy
    gamma: float = 1.0  # of the sum over a segment
    bias: float = 0.5  # lambda; the number of another likelihood
    clone_weight: float = 0.0
    clone_updates: float = 20_000.0  # of cloning alone, at first; theirs are 200,000 of 500,000
    likelihood: str = static("pairwise")
    from_reference: bool = static(False)  # scores are alpha log(pi / reference), the clone
    supervised: bool = static(False)  # clones the best segments after all of them
    segment: int = static(64)  # steps, cut out of longer ones
    hidden: tuple[int, ...] = static((256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    dtype: str = static("float32")
    batch_size: int = static(32)  # of judgements
    num_updates: int = static(8)  # on batches drawn together


class State(NamedTuple):
    policy: Model
    reference: Any  # parameters of the clone, where it is scored against
    updates: Int[Array, ""]


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """CPL for any actions. Reads `Judged` [B, G, K] at a time. The reward it reports is the optimal advantage, alpha log pi.

    Raises:
      UserError: there is no such likelihood.
    """
    preference.check(config.likelihood)
    policy = Policy(spec, structure(spec, config))
    optimiser = optax.adam(config.learning_rate)

    def init(key: Key) -> State:
        params = policy.init(key, jnp.zeros((1, *spec.observation_shape)))
        reference = jax.tree.map(jnp.copy, params) if config.from_reference else ()
        return State(Model(params, optimiser.init(params)), reference, jnp.int32(0))

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        return sample_or_mode(policy.apply(state.policy.params, observation), spec, key, explore), memory, {}

    def log_prob(state: State, observation, action, explore: bool = True):
        return log_prob_of(policy.apply(state.policy.params, observation), spec, action, explore)

    def advantage(params, reference, steps: Transition) -> Float[Array, "*B"]:
        found = closeness(policy.apply(params, steps.observation), spec, steps.action)
        if config.from_reference:
            found -= closeness(policy.apply(reference, steps.observation), spec, steps.action)
        return config.alpha * found

    def update(state: State, batch: Judged, key: Key) -> tuple[State, Metrics]:
        steps, mask = batch.transition, batch.mask
        discount = config.gamma ** jnp.arange(mask.shape[-1])
        cloning = state.updates < config.clone_updates
        reference = state.reference
        if config.from_reference:
            reference = jax.tree.map(lambda new, old: jnp.where(cloning, new, old), state.policy.params, reference)

        def clone_loss(params, some):
            near = closeness(policy.apply(params, steps.observation), spec, steps.action)
            return -jnp.where(some, near, 0.0).sum() / jnp.maximum(some.sum(), 1)

        def loss(params):
            scores = jnp.where(mask, discount * advantage(params, reference, steps), 0.0).sum(axis=-1)
            every = clone_loss(params, mask)
            if config.supervised:
                best = batch.rank == batch.rank.min(axis=-1, keepdims=True)
                learned = clone_loss(params, mask & best[..., None])
            else:
                told = preference.batch_loss(config.likelihood, scores, batch.rank, batch.weight, config.bias)
                learned = told + config.clone_weight * every
            total = jnp.where(cloning, every, learned)
            return total, {"loss/policy": total, "loss/clone": every, **preference.agreed(scores, batch.rank)}

        model, metrics = descend(optimiser, state.policy, loss)
        return State(model, reference, state.updates + 1), metrics

    def reward(state: State, steps: Transition) -> Float[Array, " B"]:
        return advantage(state.policy.params, state.reference, steps)

    return Agent(init, act, update, log_prob=log_prob, reward=reward)


def source(env: Env, config: Config, dataset) -> Source:
    """Judgements of the dataset; the environment is only evaluated in."""
    return sources.judged(dataset, batch_size=config.batch_size, num_batches=config.num_updates, length=config.segment)
