"""Dataset aggregation: cloning of what a demonstrator would have done where the agent itself has come. Ross, Gordon & Bagnell,
2011, arXiv:1011.0686.

Cloning errs where demonstrations never were, and one error leads to the next. Here the agent acts, at first with the demonstrator
and ever less so, a demonstrator is asked at every step, and what it answered is kept and cloned with all that was kept before.
"""

import jax
import jax.numpy as jnp

from rljax import distributions, sources
from rljax.agents.offline import bc
from rljax.record import record, static
from rljax.rollout import where
from rljax.sources import Demonstrator
from rljax.types import Agent, Env, EnvSpec, Source


@record
class Config(bc.Config):
    """Cloning's. By default the demonstrator acts before the first update and never after (the paper's parameter-free choice)."""

    demonstrator_decay: float = (
        0.0  # of the probability that the demonstrator acts, in each rollout; 0: in none but the first
    )
    num_envs: int = static(8)
    rollout_length: int = static(16)  # steps in each environment between updates
    capacity: int = static(100_000)
    warmup: int = static(128)  # steps of the demonstrator before the first update


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """Cloning of any actions. Reads a `Sample` [B] at a time; its state is the policy's Model."""
    return bc.make(spec, config)


def source(env: Env, config: Config, demonstrator: Demonstrator) -> Source:
    """A replay of the agent's own steps, each with the action that the demonstrator would have taken: its best one, not one to
    explore by. Its steps are the environment's."""

    def answer(observation, key):
        return distributions.in_box(
            env.spec.action, demonstrator.act(demonstrator.state, observation, (), key, False)[0]
        )

    def first_act(observation, memory, key):
        action = answer(observation, key)
        return action, memory, {"answer": action}

    keep = lambda steps: steps.replace(action=steps.extras["answer"])
    replay = sources.replay_of(env, config, gamma=1.0, num_steps=1, first_act=first_act, keep=keep)

    def together(agent: Agent, helped) -> Agent:
        """The agent, with the demonstrator acting in its stead with probability `helped`, and its answers noted."""

        def act(state, observation, memory, key, explore=True):
            own_key, answer_key, choice_key = jax.random.split(key, 3)
            action, memory, _ = agent.act(state, observation, memory, own_key, explore)
            right = answer(observation, answer_key)
            instead = jax.random.uniform(choice_key, observation.shape[:1]) < helped
            return where(instead, right, action), memory, {"answer": right}

        return agent._replace(act=act)

    def next_batch(state, agent, agent_state, key):
        kept, iteration = state
        helped = config.demonstrator_decay ** (iteration + 1.0)
        kept, batch, metrics = replay.next(kept, together(agent, helped), agent_state, key)
        return (kept, iteration + 1), batch, metrics

    return replay._replace(init=lambda agent, key: (replay.init(agent, key), jnp.int32(0)), next=next_batch)
