"""Experience at rest: whole episodes one after another, on the device. Sampling costs O(batch).

Transitions stand in time order, so what follows row i is row i + 1 unless an episode ended there. Batches are drawn episode
first (in proportion to length times weight), then a step of it; with equal weights that is uniform over all steps.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from rljax.errors import UserError
from rljax.losses.multistep import n_step
from rljax.record import record
from rljax.types import Key, Sample, Transition

KEPT = ("log_prob", "noise")  # of what acting gave besides the action


@record
class Dataset:
    """N transitions of E episodes.

    transition: [N]; truncated also where the recording stopped. `extras` hold `log_prob` of the actions and the
      `noise` of who took them (agents/behaviour/noisy.py), where they were recorded.
      `action` is None where what was done is not known.
    next_action: [N], the action that followed; the row's own where an episode ended.
    has_next: whether there is a next_action.
    return_to_go: undiscounted sum of rewards from this step to the episode's end.
    episode: which one each transition belongs to.
    start, length: of each episode [E].
    cumulative: [E], distribution function over episodes by which they are drawn.
    env_state: [N], states of the environment before each step, where they were recorded; else ().
    feedback: what was thought of segments of it (rljax/data/feedback.py), where anything was; else ().
    """

    transition: Transition
    next_action: Array
    has_next: Bool[Array, " N"]
    return_to_go: Float[Array, " N"]
    episode: Int[Array, " N"]
    start: Int[Array, " E"]
    length: Int[Array, " E"]
    cumulative: Float[Array, " E"]
    env_state: Any = ()
    feedback: Any = ()

    @property
    def size(self) -> int:
        return self.episode.shape[0]

    @property
    def episode_return(self) -> Float[Array, " E"]:
        return self.return_to_go[self.start]


def from_transitions(steps: Transition) -> Dataset:
    """A dataset of `steps` [N] in time order; the last one ends an episode, by truncation if nothing else."""
    steps = jax.tree.map(np.asarray, steps)
    env_state = steps.extras.get("env_state", ())
    steps = steps.replace(extras={name: x for name, x in steps.extras.items() if name in KEPT})
    ends = np.flatnonzero(steps.done)
    if not len(ends) or ends[-1] != len(steps.reward) - 1:
        ends = np.append(ends, len(steps.reward) - 1)
    last = np.zeros(len(steps.reward), bool)
    last[ends] = True
    steps = dataclasses.replace(steps, truncated=last & ~steps.terminated)
    start = np.concatenate([[0], ends[:-1] + 1])
    length = ends - start + 1
    episode = np.repeat(np.arange(len(ends)), length)
    following = np.where(last, np.arange(len(last)), np.arange(len(last)) + 1)
    total = np.cumsum(steps.reward.astype(np.float64))  # up to and with each step
    return_to_go = total[ends][episode] - total + steps.reward
    dataset = Dataset(
        transition=jax.tree.map(jnp.asarray, steps),
        next_action=None if steps.action is None else jnp.asarray(steps.action[following]),
        has_next=jnp.asarray(~last),
        return_to_go=jnp.asarray(return_to_go, jnp.float32),
        episode=jnp.asarray(episode, jnp.int32),
        start=jnp.asarray(start, jnp.int32),
        length=jnp.asarray(length, jnp.int32),
        cumulative=jnp.zeros(len(ends)),
        env_state=jax.tree.map(jnp.asarray, env_state),
    )
    return weighted(dataset, np.ones(len(ends)))


def paid(dataset: Dataset, reward: Callable, at_once: int | None = None, memory: Any = ()) -> Dataset:
    """The same steps, paid anew; episodes are drawn as before. May be traced.

    Args:
      reward: (transitions [B]) -> [B]; where there is a memory (transitions [B], memory [B, ...]) -> (reward [B], memory).
      at_once: how many steps are paid together, 4,096 by default; with a memory so many episodes, 256 by default.
      memory: of one episode before its first step. Each is then paid in time order.
    """
    steps = dataset.transition
    if jax.tree.leaves(memory):
        steps = steps.replace(reward=_in_order(dataset, reward, at_once or 256, memory))
    else:
        one = lambda step: reward(jax.tree.map(lambda x: x[None], step))[0]
        steps = steps.replace(reward=jax.lax.map(one, steps, batch_size=at_once or 4096))

    def add(total, step):
        total = jnp.where(step[1], 0.0, total) + step[0]
        return total, total

    _, return_to_go = jax.lax.scan(add, jnp.zeros(()), (steps.reward, steps.done), reverse=True)
    return dataset.replace(transition=steps, return_to_go=return_to_go)


def _in_order(dataset: Dataset, reward: Callable, at_once: int, memory: Any) -> Float[Array, " N"]:
    """What steps are worth to who remembers those before them: all episodes side by side, until the longest has ended."""

    def one(step_and_memory):
        found = reward(*jax.tree.map(lambda x: x[None], step_and_memory))
        return jax.tree.map(lambda x: x[0], found)

    def advance(carry):
        time, memory, found = carry
        row = dataset.start + jnp.minimum(time, dataset.length - 1)
        steps = jax.tree.map(lambda x: x[row], dataset.transition)
        new, memory = jax.lax.map(one, (steps, memory), batch_size=at_once)
        going = jnp.where(time < dataset.length, row, dataset.size)  # beyond the end nothing is written
        return time + 1, memory, found.at[going].set(new, mode="drop")

    count = dataset.start.shape[0]
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), memory)
    carry = jnp.int32(0), memory, jnp.zeros(dataset.size)
    return jax.lax.while_loop(lambda carry: carry[0] < dataset.length.max(), advance, carry)[-1]


def weighted(dataset: Dataset, weight: Float[np.ndarray, " E"]) -> Dataset:
    """The same data, with steps of each episode drawn in proportion to its weight >= 0.

    Weights by return under any agent: Hong et al., 2023 (arXiv:2306.13085).
    """
    mass = np.cumsum(np.asarray(dataset.length, np.float64) * np.asarray(weight, np.float64))
    if not (np.isfinite(mass[-1]) and mass[-1] > 0 and np.min(weight) >= 0):
        raise UserError("Weights of episodes must be finite and not negative, and one of them above 0.")
    return dataset.replace(cumulative=jnp.asarray(mass / mass[-1], jnp.float32))


def joined(datasets: list[Dataset]) -> Dataset:
    """The episodes of all of them. Each is drawn from in proportion to its number of steps, and within it as before; of extras
    and states those are kept that all have.

    Raises:
      UserError: some hold actions and others none, or there are judgements of their segments.
    """
    if any(jax.tree.leaves(data.feedback) for data in datasets):
        raise UserError("Data with judgements of their segments cannot be joined to others.")
    steps = [data.transition for data in datasets]
    if len({step.action is None for step in steps}) > 1:
        raise UserError("Data with actions cannot be joined to data without.")
    kept = set.intersection(*(set(step.extras) for step in steps))
    extras = [{name: step.extras[name] for name in kept} for step in steps]
    if all(jax.tree.leaves(data.env_state) for data in datasets):
        extras = [x | {"env_state": data.env_state} for x, data in zip(extras, datasets)]
    steps = [step.replace(extras=x) for step, x in zip(steps, extras)]
    whole = from_transitions(jax.tree.map(lambda *x: np.concatenate(x), *steps))
    share = [np.diff(np.asarray(data.cumulative, np.float64), prepend=0.0) * data.size for data in datasets]
    return weighted(whole, np.concatenate(share) / np.asarray(whole.length))


def top_weights(dataset: Dataset, fraction: float) -> Float[np.ndarray, " E"]:
    """1 for the episodes of highest return that together hold `fraction` of all steps (at least one episode), 0 for others."""
    if not 0.0 < fraction <= 1.0:
        raise UserError(f"top={fraction} must be above 0 and at most 1.")
    best_first = np.argsort(-np.asarray(dataset.episode_return), kind="stable")
    length = np.asarray(dataset.length)[best_first]
    chosen = np.cumsum(length) - length < fraction * dataset.size
    weight = np.zeros(len(length))
    weight[best_first[chosen]] = 1.0
    return weight


def return_weights(dataset: Dataset, temperature: float) -> Float[np.ndarray, " E"]:
    """exp(G / temperature) of each episode's return G, scaled to [0, 1] over the dataset. arXiv:2306.13085 (RW)."""
    return _scaled_exponential(np.asarray(dataset.episode_return, np.float64), temperature, "temperature")


def advantage_weights(dataset: Dataset, temperature: float) -> Float[np.ndarray, " E"]:
    """exp(A / temperature) of each episode's advantage A = G - V(s_0), scaled to [0, 1] over the dataset. arXiv:2306.13085 (AW).

    V is the linear regression of returns on the observations that episodes start with, as in the authors' code. Where starts
    decide much of the return, weights by return would draw lucky starts; these draw what was made of them.
    """
    first = np.asarray(dataset.transition.observation[dataset.start], np.float64)
    inputs = np.concatenate([first.reshape(len(first), -1), np.ones((len(first), 1))], axis=1)
    if len(inputs) <= inputs.shape[1]:
        raise UserError(
            f"advantage_temperature fits {inputs.shape[1]} numbers to the returns of {len(inputs)} episodes, which says nothing "
            "of any; it needs more episodes than numbers."
        )
    returns = np.asarray(dataset.episode_return, np.float64)
    value = inputs @ np.linalg.lstsq(inputs, returns, rcond=None)[0]
    return _scaled_exponential(returns - value, temperature, "advantage_temperature")


def _scaled_exponential(score: Float[np.ndarray, " E"], temperature: float, name: str) -> Float[np.ndarray, " E"]:
    if not temperature > 0.0:
        raise UserError(f"{name}={temperature} must be above 0.")
    scaled = (score - score.min()) / max(score.max() - score.min(), 1e-8)
    return np.exp((scaled - 1.0) / temperature)


def by_episode(
    dataset: Dataset, x: Shaped[Array, " N ..."], length: int
) -> tuple[Shaped[Array, " E T ..."], Bool[Array, "E T"]]:
    """What belongs to the steps, laid out by episode: the first `length` steps T of each, 0 where it has fewer, and a mask."""
    time = jnp.arange(length)
    mask = time < dataset.length[:, None]
    found = x[jnp.where(mask, dataset.start[:, None] + time, 0)]
    return jnp.where(mask.reshape(mask.shape + (1,) * (found.ndim - 2)), found, 0), mask


def whole(dataset: Dataset, length: int) -> Bool[Array, " E"]:
    """Which episodes were recorded to their end: a termination, or a time limit of `length` steps."""
    return dataset.transition.terminated[dataset.start + dataset.length - 1] | (dataset.length >= length)


def require_whole(dataset: Dataset, length: int) -> None:
    """Raises UserError where no episode is `whole`. Of a traced dataset nothing can be said."""
    found = whole(dataset, length)
    if not isinstance(found, jax.core.Tracer) and not found.any():
        raise UserError(f"No episode of the data is whole: terminated, or of all {length} steps of the time limit.")


def draw_whole(dataset: Dataset, key: Key, number: int, length: int) -> tuple[Transition, Bool[Array, "T M"]]:
    """`number` episodes M of those that are `whole`, drawn by their weights, however long they are: the first `length` steps T of
    each, after its end the last one again, and a mask."""
    weight = jnp.diff(dataset.cumulative, prepend=0.0) / dataset.length * whole(dataset, length)
    episode = jax.random.categorical(key, jnp.log(weight), shape=(number,))
    time = jnp.arange(length)[:, None]
    rows = dataset.start[episode] + jnp.minimum(time, dataset.length[episode] - 1)
    return jax.tree.map(lambda x: x[rows], dataset.transition).replace(extras={}), time < dataset.length[episode]


def draw(dataset: Dataset, key: Key, batch_size: int) -> Int[Array, " B"]:
    """Rows of transitions: an episode by its weight, then any of its steps."""
    episode_key, step_key = jax.random.split(key)
    u = jax.random.uniform(episode_key, (batch_size,))
    episode = jnp.searchsorted(dataset.cumulative, u, side="right", method="scan_unrolled")
    episode = jnp.minimum(episode, dataset.cumulative.shape[0] - 1)
    length = dataset.length[episode]
    step = jnp.floor(jax.random.uniform(step_key, (batch_size,)) * length).astype(jnp.int32)
    return dataset.start[episode] + jnp.minimum(step, length - 1)


def first_observations(dataset: Dataset, key: Key, shape: tuple[int, ...]) -> Array:
    """What episodes began with: each is drawn by its weight, however long it is."""
    mass = jnp.diff(dataset.cumulative, prepend=0.0) / dataset.length
    episode = jax.random.choice(key, len(dataset.start), shape, p=mass / mass.sum())
    return dataset.transition.observation[dataset.start[episode]]


def read(dataset: Dataset, row: Int[Array, " B"], gamma: Float[Array, ""], num_steps: int = 1) -> Sample:
    """The transitions at `row`, each joined with the `num_steps` - 1 that follow it in its episode. Among their extras are the
    `next_action` after the last of them and whether it `has_next`, and `return_to_go` and `time` in the episode of the first."""
    ahead = row[:, None] + jnp.arange(num_steps)
    rows = jnp.minimum(ahead, _end(dataset, row)[:, None])  # an end is done: what repeats it does not count
    all_steps = dataset.transition
    reward, discount, position = jax.vmap(n_step, (0, 0, 0, None))(
        all_steps.reward[rows], all_steps.terminated[rows], all_steps.truncated[rows], gamma
    )
    last = row + position
    extras = {
        "has_next": dataset.has_next[last],
        "return_to_go": dataset.return_to_go[row],
        "time": row - dataset.start[dataset.episode[row]],
    }
    if dataset.next_action is not None:
        extras["next_action"] = dataset.next_action[last]
    steps = jax.tree.map(lambda x: x[row], all_steps).replace(
        reward=reward,
        terminated=all_steps.terminated[last],
        truncated=all_steps.truncated[last],
        next_observation=all_steps.next_observation[last],
        extras=extras,
    )
    return Sample(steps, discount, jnp.ones_like(reward), row)


def read_ahead(dataset: Dataset, row: Int[Array, " B"], length: int) -> tuple[Transition, Bool[Array, "B K"]]:
    """As `data.replay.read_segments`: the steps at `row` [B] and those that followed, [B, K], and the mask of those that belong.
    After the episode's end its last step is repeated."""
    wanted, end = row[:, None] + jnp.arange(length), _end(dataset, row)[:, None]
    rows = jnp.minimum(wanted, end)
    return jax.tree.map(lambda x: x[rows], dataset.transition.replace(extras={})), wanted <= end


def _end(dataset: Dataset, row: Int[Array, " B"]) -> Int[Array, " B"]:
    """The last row of the episode that each row belongs to."""
    episode = dataset.episode[row]
    return dataset.start[episode] + dataset.length[episode] - 1


@jax.jit
def outcomes(dataset: Dataset, gamma: Float[Array, ""]) -> dict[str, Array]:
    """What each step [N] led to until its episode ended, as `extras` of a sample:

      outcome: discounted sum of its reward and those that followed.
      outcome_discount: of the value of the last observation, which is missing in that sum; 0 where the episode terminated.

    An episode that was truncated earned more than was recorded: `outcome` alone would call its last steps worth next to nothing.
    """
    steps = dataset.transition
    last = steps.done
    carry_on = jnp.where(last, 0.0, gamma)

    def join(later, earlier):
        return earlier[0] + earlier[1] * later[0], earlier[1] * later[1]

    outcome, _ = jax.lax.associative_scan(join, (steps.reward, carry_on), reverse=True)
    end = dataset.start + dataset.length - 1
    left = (end[dataset.episode] + 1 - jnp.arange(dataset.size)).astype(jnp.float32)
    terminated = steps.terminated[end][dataset.episode]
    return {"outcome": outcome, "outcome_discount": jnp.where(terminated, 0.0, gamma**left)}


def read_outcomes(dataset: Dataset, found: dict[str, Array], row: Int[Array, " B"]) -> dict[str, Array]:
    """Those of `outcomes` at `row`, with `outcome_observation`, the last one of the episode."""
    end = _end(dataset, row)
    return {name: x[row] for name, x in found.items()} | {
        "outcome_observation": dataset.transition.next_observation[end]
    }


def outcome_value(extras: dict[str, Array], end_value: Float[Array, " B"], reward_scale) -> Float[Array, " B"]:
    """What the steps of a sample led to (the extras of `read_outcomes`), with values of the last observations for what was left; a
    constant to gradients. Cal-QL's reference: arXiv:2303.05479."""
    value = reward_scale * extras["outcome"] + extras["outcome_discount"] * end_value
    return jax.lax.stop_gradient(value)


@record
class Segment:
    """H steps [B, H] of one episode each, padded in front.

    mask: where there is a step. time: its place in the episode.
    """

    transition: Transition
    return_to_go: Float[Array, "B H"]
    time: Int[Array, "B H"]
    mask: Bool[Array, "B H"]


def read_segments(dataset: Dataset, row: Int[Array, " B"], length: int) -> Segment:
    """The `length` steps that end with `row`, never from before its episode; what is missing repeats its first step, masked."""
    first = dataset.start[dataset.episode[row]][:, None]
    wanted = row[:, None] - jnp.arange(length - 1, -1, -1)
    rows = jnp.maximum(wanted, first)
    return Segment(
        jax.tree.map(lambda x: x[rows], dataset.transition), dataset.return_to_go[rows], rows - first, wanted >= first
    )
