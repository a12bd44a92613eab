"""DIP-RL: a reward that prefers what was demonstrated to what the agent does. Novoseller et al., 2023, arXiv:2307.12158.

Demonstrations are used twice. Nobody is asked: a segment of them is taken to be preferred to a segment of the agent's own
experience, and a reward learns from such pairs by Bradley & Terry's law, as it would from people's. And they fill half of each
batch that the policy learns from. All steps are paid by the reward of the day, whatever the environment paid and however old they
are.

A segment is worth the sum of its rewards, and one whose episode ended early has fewer: so it can be learned that ending is bad, or
good where demonstrations end sooner. The paper's encoder of images, learned as an autoencoder's, is not here; its soft Q-learning
of discrete actions is SAC's with exact expectations.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax import sources
from rljax.agents.online import sac
from rljax.agents.preference import reward_model
from rljax.data import feedback as feedback_lib
from rljax.data import replay as replay_lib
from rljax.data.feedback import Judged
from rljax.errors import UserError
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Sample, Source


@record
class Config(sac.Config):
    """SAC's, and those of the reward; the latter are ours, for observations that are no images."""

    reward_learning_rate: float = 3e-4
    reward_weight_decay: float = 0.0
    num_models: int = static(1)
    reward_hidden: tuple[int, ...] = static((256, 256))
    reward_activation: str = static("relu")
    reward_batch_size: int = static(32)  # pairs, for each update of the policy
    segment: int = static(25)  # steps


@record
class Batch:
    """Steps [B], half of them demonstrated, and pairs of segments [P, 2, K]: the first demonstrated, the second of the agent."""

    sample: Sample
    judged: Judged


class State(NamedTuple):
    policy: sac.State
    reward: Model


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For any actions. Reads a `Batch`.

    Raises:
      UserError: samples span several steps, whose sum of rewards cannot be learned anew.
    """
    if config.num_steps != 1:
        raise UserError(f"num_steps={config.num_steps} must be 1: each step is paid anew whenever it is drawn.")
    policy = sac.make(spec, config)
    model = reward_model.make(spec, reward_model.beside_policy(config))
    act, log_prob, learned_reward = reward_model.by_parts(policy, model)

    def init(key: Key) -> State:
        policy_key, reward_key = jax.random.split(key)
        return State(policy.init(policy_key), model.init(reward_key))

    def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        reward_key, policy_key = jax.random.split(key)
        reward, metrics = model.update(state.reward, batch.judged, reward_key)
        steps, judged = batch.sample.transition, batch.judged
        pay = jax.lax.stop_gradient(model.reward(reward, steps))
        paid = batch.sample.replace(transition=steps.replace(reward=pay))
        new, policy_metrics = policy.update(state.policy, paid, policy_key)
        of_segments = jnp.where(judged.mask, model.reward(reward, judged.transition), 0.0).sum(axis=(0, 2))
        mean = of_segments / jnp.maximum(judged.mask.sum(axis=(0, 2)), 1)
        metrics |= {"reward/demonstrations": mean[0], "reward/own": mean[1]}
        return State(new, reward), metrics | policy_metrics

    return Agent(init, act, update, policy.memory, policy.receive, log_prob, learned_reward)


def source(env: Env, config: Config, dataset) -> Source:
    """Half of each batch from the demonstrations, half from a replay of the agent's own steps, and segments of both in pairs; its
    steps are the environment's.

    Raises:
      UserError: the replay is too short for a segment, or what was demonstrated is not known.
    """
    half, pairs = config.batch_size // 2, config.num_updates * config.reward_batch_size
    data = sources.at_rest(dataset, batch_size=half, num_batches=config.num_updates, gamma=config.gamma)
    own = sources.replay_of(env, config, batch_size=config.batch_size - half)
    both = sources.mixed(own, data)

    def judgements(ring: replay_lib.Replay, key: Key) -> Judged:
        """Pairs of a demonstrated segment and one of the ring; where that holds none yet, nothing is said."""
        shown_key, own_key = jax.random.split(key)
        start, length = feedback_lib.segments(dataset, shown_key, (pairs,), config.segment, weighted=True)
        shown, shown_mask = feedback_lib.steps_of(dataset, start, length, config.segment)
        done, done_mask = replay_lib.segments(ring, own_key, (pairs,), config.segment)
        beside = lambda a, b: jnp.stack([a, b.astype(a.dtype)], axis=1)
        steps = jax.tree.map(beside, shown.replace(extras={}), done.replace(extras={}))
        unpaid = steps.replace(reward=jnp.zeros_like(steps.reward))
        rank = jnp.tile(jnp.array([0, 1]), (pairs, 1))
        weight = done_mask.any(axis=1).astype(jnp.float32)
        return Judged(unpaid, beside(shown_mask, done_mask), rank, weight, jnp.zeros(pairs, jnp.int32))

    def next_batch(state, agent, agent_state, key):
        key, judge_key = jax.random.split(key)
        state, sample, metrics = both.next(state, agent, agent_state, key)
        (_, ring, _), _ = state  # actors, replay, priorities: see sources.replay; the data keep nothing
        judged = sources.stacked(judgements(ring, judge_key), config.num_updates)
        return state, Batch(sample, judged), metrics

    return both._replace(next=next_batch)
