"""Critics that first learn the best of what may follow, and more and more its mean. Omura et al., 2025, "Gradual Transition from
Bellman Optimality Operator to Bellman Operator in Online Reinforcement Learning", arXiv:2506.05968.

They are learned by an expectile loss. A target depends on an action that the policy draws, so that a high expectile is near the
value of its best action, as the Bellman optimality operator has it; the expectile of 0.5 is the mean, the policy's value.
"""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rljax.errors import UserError
from rljax.networks.heads import Head
from rljax.record import record, static
from rljax.types import Continuous, EnvSpec, Model


@record
class Config:
    """What a config has whose critics can be annealed; those of SAC and TD3 extend it."""

    annealed: bool = static(False)
    expectile: float = 0.9  # at first, from 0.5 to below 1; theirs are from 0.9 to 0.99
    annealing_steps: float = 5e5  # gradient steps of the critics, from their first on, over which it falls to 0.5


def wanted(config: Any) -> bool:
    """Whether a config asks for it; one that is no such `Config` does not."""
    return isinstance(config, Config) and config.annealed


def check(config: Any, spec: EnvSpec, head: Head, own_loss: bool = False) -> None:
    """Raises UserError where critics cannot be annealed as the config asks.

    Args:
      own_loss: the critics have another loss than that of a target.
    """
    if not wanted(config):
        return
    if isinstance(config.expectile, float) and not 0.5 <= config.expectile < 1.0:
        raise UserError(f"expectile={config.expectile} must be from 0.5 to below 1.")
    if not isinstance(spec.action, Continuous):
        raise UserError(
            "annealed=True needs continuous actions: values of discrete ones are exact means, without a best draw."
        )
    if head.size > 1 or own_loss:
        raise UserError(
            "annealed=True needs critics that regress onto a target's mean; take head='mean' and SAC or TD3."
        )


def expectile(config: Any, critic: Model) -> Float[Array, ""] | None:
    """The expectile that critics learn by their next gradient step, falling linearly to 0.5; None where nothing is annealed."""
    if not wanted(config):
        return None
    progress = jnp.minimum(
        optax.tree_utils.tree_get(critic.opt_state, "count") / jnp.maximum(config.annealing_steps, 1.0), 1.0
    )
    return 0.5 + (1.0 - progress) * (config.expectile - 0.5)
