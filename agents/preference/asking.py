"""A replay that asks: a synthetic person judges pairs of segments of an agent's own experience, while it is gathered.

What the environment paid is for this person alone (rljax/data/labellers.py); the judgements go to the agent.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rljax.agents.preference import reward_model
from rljax.data import labellers, neighbours, queries
from rljax.data import replay as replay_lib
from rljax.data.feedback import Judged
from rljax.losses import preference
from rljax.metrics import Average
from rljax.record import record
from rljax.types import Env, Sample, Source
from rljax.updates import once


@record
class Batch:
    """Steps [B], the judgements of a query [Q, 2, K], and what to make of them.

    newness: [B], how far the steps' observations lie from others; 0 once somebody has been asked.
    exploring: nobody has been asked yet.
    asked: judgements there are, of the Q; 0 between queries. first: these are the first.
    """

    sample: Sample
    newness: Float[Array, " B"]
    judged: Judged
    exploring: Bool[Array, ""]
    asked: Int[Array, ""]
    first: Bool[Array, ""]


@record
class Progress:
    """Of the source: steps taken, steps since the last query, judgements asked for."""

    steps: Int[Array, ""]
    since: Int[Array, ""]
    asked: Int[Array, ""]


def source(env: Env, own: Source, rewards: Callable, config: Any) -> Source:
    """The batches of `own`, a replay of the agent's steps, and judgements of segments from it, as `Batch`es.

    Its metric `preference/foretold` is the share of pairs, ties left out, in the order of which the rewards were right before they
    were learned from.

    Args:
      rewards: (parameters, steps [*B]) -> [M, *B], by each of the learned rewards; the parameters are those of the agent's
        `reward`, a Model.
      config: the fields of pebble.Config from `pretraining` on.
    Raises:
      UserError: the replay is too short for a segment, or there is no such selection.
    """
    queries.check(config.selection)
    size = config.query_size
    teacher = labellers.Teacher(
        config.teacher_temperature, config.teacher_flip, config.teacher_equal, config.teacher_skip
    )

    def query(ring, params, uniformly, asked, key) -> tuple[Judged, Average]:
        draw_key, judge_key = jax.random.split(key)
        steps, mask = replay_lib.segments(ring, draw_key, (config.candidates * size, 2), config.segment)
        scores = reward_model.scores(rewards(params, steps), mask)
        chosen = jnp.where(uniformly, jnp.arange(size), queries.choose(config.selection, scores, size))
        steps, mask = jax.tree.map(lambda x: x[chosen], (steps, mask))
        paid = lambda reward, mask: labellers.partial_return(reward, mask, config.teacher_discount)
        utility = jax.vmap(jax.vmap(paid))(steps.reward, mask)
        rank, weight = jax.vmap(labellers.judge, (None, 0, 0))(teacher, utility, jax.random.split(judge_key, size))
        weight = jnp.where((jnp.arange(size) < asked) & mask.any((1, 2)), weight, 0.0)
        rank = jnp.where(weight[:, None] > 0.0, rank, 0)  # where nothing is said there is no order to tell
        share, count = jax.vmap(preference.agreement)(scores.mean(0)[chosen], rank)
        unpaid = steps.replace(reward=jnp.zeros_like(steps.reward))
        judged = Judged(unpaid, mask, rank, weight, jnp.zeros(size, jnp.int32))
        return judged, Average((share * count).sum(), count.sum())

    def newness_of(ring, sample: Sample, key):
        slots = replay_lib.sample_uniform(ring, key, config.among)
        flat = lambda x: x.reshape(-1, math.prod(env.spec.observation_shape)).astype(jnp.float32)
        seen, same = flat(ring.data.observation)[slots], sample.slot.reshape(-1)[:, None] == slots
        points = flat(sample.transition.observation)
        return neighbours.distances(points, seen, same, config.neighbour).reshape(sample.slot.shape)

    def init(agent, key):
        none = jnp.int32(0)
        return own.init(agent, key), Progress(none, none, none)

    def next_batch(state, agent, agent_state, key):
        own_key, query_key, newness_key = jax.random.split(key, 3)
        experience, progress = state
        experience, sample, metrics = own.next(experience, agent, agent_state, own_key)
        _, ring, _ = experience  # actors, replay, priorities: see sources.replay
        steps, since = progress.steps + own.env_steps, progress.since + own.env_steps
        exploring = steps < config.pretraining
        first = (progress.asked == 0) & ~exploring
        due = first | ((progress.asked > 0) & (since >= config.query_every))
        asked = jnp.where(due, jnp.minimum(size, config.max_judgements - progress.asked), 0)
        progress = Progress(steps, jnp.where(due, 0, since), progress.asked + asked)

        judged, foretold = once(asked > 0, query, ring, agent_state.reward.params, first, asked, query_key)
        newness = once(exploring, newness_of, ring, sample, newness_key)
        batch = Batch(sample, newness, judged, exploring, asked, first)
        if own.num_batches > 1:  # a query's judgements come with the first of them
            every = lambda x: jnp.broadcast_to(x, (own.num_batches, *x.shape))
            begins = jnp.arange(own.num_batches) == 0
            batch = Batch(
                sample, newness, jax.tree.map(every, judged), every(exploring), begins * asked, begins & first
            )
        return (experience, progress), batch, metrics | {"preference/foretold": foretold}

    return own._replace(init=init, next=next_batch)
