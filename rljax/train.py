"""The one loop: batch = source.next(...); state = agent.update(state, batch).

    learner = train.make(agent, source)
    state = learner.init(key)
    state, metrics = learner.run(state, 100)     # a chunk of 100 iterations; pure: jit it, vmap it, shard it

Everything that a run is stands in its state, so running on from a saved state gives the same bits as never having stopped.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from rljax import metrics as metrics_lib
from rljax.record import record
from rljax.types import Agent, Key, Metrics, Source


@record
class TrainState:
    """All that a run is: agent, source (environments, replay), key, and iterations done."""

    agent: Any
    source: Any
    key: Key
    iteration: Int[Array, ""]


class Learner(NamedTuple):
    """A run as pure functions.

    init: (key) -> TrainState
    step: (state) -> (state, metrics): one iteration
    run:  (state, num_iterations) -> (state, metrics): a chunk, metrics averaged over it
    """

    init: Callable[[Key], TrainState]
    step: Callable[[TrainState], tuple[TrainState, Metrics]]
    run: Callable[[TrainState, int], tuple[TrainState, Metrics]]


def make(agent: Agent, source: Source) -> Learner:
    """Join an agent and the source that it reads."""

    def init(key: Key) -> TrainState:
        agent_key, source_key, key = jax.random.split(key, 3)
        return TrainState(agent.init(agent_key), source.init(agent, source_key), key, jnp.int32(0))

    def update(carry, batch_and_key):
        agent_state, source_state = carry
        batch, key = batch_and_key
        agent_state, metrics = agent.update(agent_state, batch, key)
        priority = metrics.pop("priority", None)
        if source.feedback is not None:
            source_state = source.feedback(source_state, batch, priority)
        return (agent_state, source_state), metrics

    def step(state: TrainState) -> tuple[TrainState, Metrics]:
        key, source_key, update_key = jax.random.split(state.key, 3)
        source_state, batch, source_metrics = source.next(state.source, agent, state.agent, source_key)
        carry = state.agent, source_state
        if source.num_batches == 1:
            (agent_state, source_state), metrics = update(carry, (batch, update_key))
        else:
            keys = jax.random.split(update_key, source.num_batches)
            (agent_state, source_state), metrics = jax.lax.scan(update, carry, (batch, keys))
            metrics = metrics_lib.reduce(metrics)
        return TrainState(agent_state, source_state, key, state.iteration + 1), {**metrics, **source_metrics}

    def run(state: TrainState, num_iterations: int) -> tuple[TrainState, Metrics]:
        state, metrics = jax.lax.scan(lambda state, _: step(state), state, length=num_iterations)
        return state, metrics_lib.reduce(metrics)

    return Learner(init, step, run)
