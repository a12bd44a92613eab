"""Another agent with noise: a share of its actions is uniformly random. The more of it the worse, so it ranks what was done.

D-REX: Brown et al., 2019, arXiv:1907.03976.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax import distributions
from rljax.types import Agent, EnvSpec, Key


class State(NamedTuple):
    noise: Float[Array, ""]  # share of random actions
    agent: Any


def make(spec: EnvSpec, agent: Agent) -> Agent:
    """The agent with noise, by a `State` of how much of it and its own. Continuous actions are clipped to their box. It
    learns nothing, and does not tell how likely its actions are."""

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        agent_key, noise_key, choice_key = jax.random.split(key, 3)
        action, memory, extras = agent.act(state.agent, observation, memory, agent_key, explore)
        noise = distributions.uniform_action(spec.action, observation.shape[0], noise_key)
        random = jax.random.uniform(choice_key, (observation.shape[0],)) < state.noise
        chosen = jnp.where(random.reshape(-1, *[1] * (action.ndim - 1)), noise, action)
        return distributions.in_box(spec.action, chosen), memory, extras

    return agent._replace(
        init=lambda key: State(jnp.zeros(()), agent.init(key)),
        act=act,
        update=lambda state, batch, key: (state, {}),
        log_prob=None,
        reward=None,
        reward_memory=(),
        score=None,
    )
