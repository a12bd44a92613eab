"""How good is a policy: whole episodes in environments of its own, with keys of its own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rljax.data import feedback as feedback_lib
from rljax.losses import preference
from rljax.rollout import start
from rljax.types import Agent, Env, Key, initial_memory

MAX_STEPS = 10_000  # of an episode that nothing else bounds


class Episodes(NamedTuple):
    """Return (undiscounted, if not asked otherwise) and length of each episode; `finished` is False where MAX_STEPS cut it off."""

    returns: Float[Array, " E"]
    lengths: Int[Array, " E"]
    finished: Bool[Array, " E"]


def evaluate(
    env: Env, agent: Agent, agent_state: Any, key: Key, num_episodes: int, explore: bool = False, gamma: float = 1.0
) -> Episodes:
    """One episode in each of `num_episodes` environments, side by side. The agent does not learn from them.

    gamma: discount of the returns.
    """
    start_key, key = jax.random.split(key)
    actors = start(env, agent, num_episodes, start_key)
    limit = env.spec.episode_length or MAX_STEPS
    alive = jnp.ones(num_episodes, bool)

    def unfinished(carry):
        step, alive, *_ = carry
        return alive.any() & (step < limit)

    def advance(carry):
        step, alive, env_state, observation, memory, returns, lengths = carry
        act_key, step_key = jax.random.split(jax.random.fold_in(key, step))
        action, memory, _ = agent.act(agent_state, observation, memory, act_key, explore)
        env_state, following = jax.vmap(env.step)(env_state, action, jax.random.split(step_key, num_episodes))
        memory = agent.receive(memory, following.reward)
        returns = returns + jnp.where(alive, jnp.power(gamma, step) * following.reward, 0.0)
        lengths = lengths + alive
        alive = alive & ~(following.terminated | following.truncated)
        return step + 1, alive, env_state, following.observation, memory, returns, lengths

    carry = (0, alive, actors.env, actors.observation, actors.memory, actors.episode_return, actors.episode_length)
    _, alive, _, _, _, returns, lengths = jax.lax.while_loop(unfinished, advance, carry)
    return Episodes(returns, lengths, ~alive)


def returns_from(
    env: Env,
    agent: Agent,
    agent_state: Any,
    env_state: Any,
    observation: Array,
    key: Key,
    num_steps: int,
    gamma: float,
    first_action: Array | None = None,
) -> Float[Array, " E"]:
    """Discounted returns of an agent that does not explore, from states [E] of its environment on: `num_steps` steps, across time
    limits, up to a termination. The agent remembers nothing of what was before.

    first_action: [E], taken first, whatever the agent would do: returns are then of these actions.
    """
    count = observation.shape[0]

    def advance(carry, step):
        env_state, observation, memory, alive, total = carry
        act_key, step_key = jax.random.split(jax.random.fold_in(key, step))
        action, memory, _ = agent.act(agent_state, observation, memory, act_key, False)
        if first_action is not None:
            given = (step == 0).reshape((1,) * action.ndim)
            action = jnp.where(given, first_action, action)
        env_state, following = jax.vmap(env.step)(env_state, action, jax.random.split(step_key, count))
        total += jnp.where(alive, jnp.power(gamma, step) * following.reward, 0.0)
        memory = agent.receive(memory, following.reward)
        return (env_state, following.observation, memory, alive & ~following.terminated, total), None

    carry = (env_state, observation, initial_memory(agent, count), jnp.ones(count, bool), jnp.zeros(count))
    return jax.lax.scan(advance, carry, jnp.arange(num_steps))[0][-1]


def scores(agent: Agent, agent_state: Any, judged: feedback_lib.Judged) -> Float[Array, "B G"]:
    """What an agent thinks of judged segments: its `score`, or the sums of its learned reward."""
    shape = judged.mask.shape
    if agent.score is not None:
        rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (judged.transition, judged.mask))
        return agent.score(agent_state, *rows).reshape(shape[:2])
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), judged.transition)
    reward = agent.reward(agent_state, flat).reshape(shape)
    return jnp.where(judged.mask, reward, 0.0).sum(axis=-1)


def agreement(agent: Agent, agent_state: Any, dataset: Any, at_once: int = 64) -> Float[Array, ""]:
    """Share of a dataset's judged pairs, ties left out, that the agent's `scores` put in the order of their judgements; `at_once`
    of these are scored together."""
    told = dataset.feedback

    def of(judgement):
        key = jax.random.key(0)  # whole segments: nothing is cut out of them
        judged = feedback_lib.read(dataset, judgement[None], key)
        return preference.agreement(scores(agent, agent_state, judged)[0], judged.rank[0])

    share, count = jax.lax.map(of, jnp.arange(told.size), batch_size=at_once)
    return (share * count).sum() / jnp.maximum(count.sum(), 1.0)


def bootstrap(scores: np.ndarray, repetitions: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IQM [*T] over the seeds of `scores` [S, *T] and the ends [*T], [*T] of its 95 % interval: percentiles over seeds drawn anew.
    Agarwal et al., 2021 (arXiv:2108.13264). Equal scores give equal intervals."""
    from scipy import stats

    middle = lambda x: stats.trim_mean(x, 0.25, axis=0)
    drawn = np.random.default_rng(0).integers(len(scores), size=(repetitions, len(scores)))
    low, high = np.percentile([middle(scores[index]) for index in drawn], (2.5, 97.5), axis=0)
    return middle(scores), low, high


def interquartile_mean(scores: np.ndarray) -> dict:
    """Summary of one score for each seed [S]: IQM with its interval (`bootstrap`), mean and spread. With one score there is no
    interval: it is null. Those that are NaN are left out and counted in `failed`.
    """
    scores = np.asarray(scores, np.float64)
    valid = scores[np.isfinite(scores)]
    summary = {
        "per_seed": [float(x) if np.isfinite(x) else None for x in scores],
        "failed": int(scores.size - valid.size),
    }
    if not valid.size:
        return {"iqm": None, "ci95": None, "mean": None, "std": None, **summary}
    middle, *interval = (float(x) for x in bootstrap(valid))
    return {
        "iqm": middle,
        "ci95": interval if valid.size > 1 else None,
        "mean": float(valid.mean()),
        "std": float(valid.std(ddof=1)) if valid.size > 1 else None,
        **summary,
    }
