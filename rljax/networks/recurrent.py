"""Running a network with a memory along time."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Bool

from rljax.rollout import where


def unroll_memory(
    apply: Callable, memory: Any, initial_memory: Any, observation: Array, done: Bool[Array, "T N"]
) -> tuple[Any, Any]:
    """Outputs of `apply` along a rollout, its memory beginning anew after each step that ended an episode.

    Args:
      apply: (observation [N, ...], memory [N]) -> (memory, output).
      memory: [N], before the first step.
      initial_memory: [N], at the start of an episode.
      observation: [T, N, ...].
      done: [T, N], the episode ended with this step.
    Returns:
      (memory [T, N] just after each step, before any reset; outputs [T, N]).
    """

    def step(memory, inputs):
        observation, done = inputs
        memory, output = apply(observation, memory)
        return where(done, initial_memory, memory), (memory, output)

    return jax.lax.scan(step, memory, (observation, done))[1]
