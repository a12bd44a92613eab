"""Whole episodes on the device, of which the best or the newest are kept. Adding costs O(added) and a sort of the rows a step.

An episode has a row to itself. Each of N environments writes into a row of its own; when its episode ends, the row joins those
that are kept, and the environment takes over the row of the episode that has to go: nothing is copied. Before that an episode
cannot be drawn, so that what followed a step is always known: returns to go are the episode's return less what was paid before.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rljax.data.dataset import Dataset, Segment
from rljax.losses.multistep import n_step
from rljax.record import record, static
from rljax.types import Key, Sample, Transition

EMPTY, OPEN = -jnp.inf, jnp.inf  # worth of rows that hold nothing, and of those that are being written


@record
class Episodes:
    """R = num_episodes + N rows of L steps each; of an episode that is longer the first L steps are here.

    data: [R, L]. paid: what the episode had paid before each step [R, L].
    episode_return, length: of the whole episode, also where it is longer than a row [R].
    worth, age: the row whose worth is least is given up first, and of these the oldest; `age` counts upwards [R].
    row, time, earned: of the episode each environment is in [N]: where it is written, its steps and its rewards so far.
    count: episodes that were ever kept.
    keep_best: an episode is worth its return; otherwise all are worth the same, and the oldest goes.
    """

    data: Transition
    paid: Float[Array, "R L"]
    episode_return: Float[Array, " R"]
    length: Int[Array, " R"]
    worth: Float[Array, " R"]
    age: Int[Array, " R"]
    row: Int[Array, " N"]
    time: Int[Array, " N"]
    earned: Float[Array, " N"]
    count: Int[Array, ""]
    keep_best: bool = static(False)

    @property
    def kept(self) -> Bool[Array, " R"]:
        """Which rows hold an episode that ended."""
        return jnp.isfinite(self.worth)

    @property
    def steps(self) -> Int[Array, " R"]:
        """Steps of each row that can be drawn."""
        return jnp.where(self.kept, jnp.minimum(self.length, self.paid.shape[1]), 0)


def init(example: Transition, num_episodes: int, row_length: int, num_envs: int, keep_best: bool) -> Episodes:
    """Room for `num_episodes` episodes of transitions like `example` (one, without batch axes), and none of them yet."""
    rows = num_episodes + num_envs
    return Episodes(
        data=jax.tree.map(lambda x: jnp.zeros((rows, row_length, *x.shape), x.dtype), example),
        paid=jnp.zeros((rows, row_length)),
        episode_return=jnp.zeros(rows),
        length=jnp.zeros(rows, jnp.int32),
        worth=jnp.full(rows, EMPTY).at[num_episodes:].set(OPEN),
        age=jnp.zeros(rows, jnp.int32),
        row=num_episodes + jnp.arange(num_envs),
        time=jnp.zeros(num_envs, jnp.int32),
        earned=jnp.zeros(num_envs),
        count=jnp.int32(0),
        keep_best=keep_best,
    )


def add(episodes: Episodes, steps: Transition) -> Episodes:
    """Write `steps` [T, N] that follow those written before, and keep the episodes that end with them."""
    return jax.lax.scan(lambda episodes, step: (_add_step(episodes, step), None), episodes, steps)[0]


def _add_step(episodes: Episodes, step: Transition) -> Episodes:
    """Write one step [N] of each environment."""
    row, done = episodes.row, step.done
    at = (row, episodes.time)  # past the end of a row nothing is written
    earned, time = episodes.earned + step.reward, episodes.time + 1
    ended = jnp.cumsum(done)  # in how many environments up to each
    worth = episodes.worth.at[row].set(jnp.where(done, earned if episodes.keep_best else 0.0, OPEN))
    age = episodes.age.at[row].set(episodes.count + ended)
    given_up = jnp.lexsort((age, worth))[: row.shape[0]]
    row = jnp.where(done, given_up[ended - 1], row)
    return episodes.replace(
        data=jax.tree.map(lambda old, new: old.at[at].set(new.astype(old.dtype), mode="drop"), episodes.data, step),
        paid=episodes.paid.at[at].set(episodes.earned, mode="drop"),
        episode_return=episodes.episode_return.at[episodes.row].set(earned),
        length=episodes.length.at[episodes.row].set(time),
        worth=worth.at[row].set(OPEN),
        age=age,
        row=row,
        time=jnp.where(done, 0, time),
        earned=jnp.where(done, 0.0, earned),
        count=episodes.count + ended[-1],
    )


def added_since(episodes: Episodes, count: Int[Array, ""]) -> Bool[Array, " R"]:
    """Which of the rows that are kept hold an episode that ended after there had been `count`."""
    return episodes.kept & (episodes.age > count)


def judge(episodes: Episodes, count: Int[Array, ""], rewards_of: Callable) -> Episodes:
    """Put rewards of whole episodes in the place of those paid, in the episodes that ended after there had been `count`.

    Costs as much as there are such episodes, also where many runs are vmapped. Which episodes are best (`keep_best`) is still
    decided by what was paid.

    Args:
      rewards_of: (steps [L], mask [L]) -> reward [L], of an episode whose steps are those where `mask` holds.
    """

    def judge_one(carry):
        waiting, reward, paid, episode_return = carry
        row = jnp.argmax(waiting)
        mask = jnp.arange(paid.shape[1]) < episodes.length[row]
        new = jnp.where(mask, rewards_of(jax.tree.map(lambda x: x[row], episodes.data), mask), 0.0)
        return (
            waiting.at[row].set(False),
            reward.at[row].set(new),
            paid.at[row].set(jnp.cumsum(new) - new),
            episode_return.at[row].set(new.sum()),
        )

    waiting = added_since(episodes, count)
    carry = waiting, episodes.data.reward, episodes.paid, episodes.episode_return
    _, reward, paid, episode_return = jax.lax.while_loop(lambda carry: carry[0].any(), judge_one, carry)
    return episodes.replace(data=episodes.data.replace(reward=reward), paid=paid, episode_return=episode_return)


def restart(episodes: Episodes) -> Episodes:
    """Forget the episodes that have not ended: each environment is at the start of another."""
    return episodes.replace(time=jnp.zeros_like(episodes.time), earned=jnp.zeros_like(episodes.earned))


def fill(episodes: Episodes, dataset: Dataset) -> Episodes:
    """The episodes of highest return in `dataset`, as many as there is room for, into rows that hold nothing yet.

    Those of lower return count as older, so that they are given up first.
    """
    rows, row_length = episodes.paid.shape
    room = min(rows - episodes.row.shape[0], dataset.start.shape[0])
    returns, chosen = jax.lax.top_k(dataset.episode_return, room)
    start, length = dataset.start[chosen], dataset.length[chosen]
    read = start[:, None] + jnp.minimum(jnp.arange(row_length), length[:, None] - 1)
    write = lambda old, new: old.at[:room].set(new.astype(old.dtype))
    return episodes.replace(
        data=jax.tree.map(lambda old, x: write(old, x[read]), episodes.data, dataset.transition.replace(extras={})),
        paid=write(episodes.paid, returns[:, None] - dataset.return_to_go[read]),
        episode_return=write(episodes.episode_return, returns),
        length=write(episodes.length, length),
        worth=write(episodes.worth, returns if episodes.keep_best else jnp.zeros(room)),
        age=write(episodes.age, room - jnp.arange(room)),
        count=episodes.count + room,
    )


def draw_steps(episodes: Episodes, key: Key, batch_size: int) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    """Row and time of steps drawn uniformly from all there are: episodes in proportion to how many of their steps are here."""
    upto = jnp.cumsum(episodes.steps)
    place = jax.random.randint(key, (batch_size,), 0, upto[-1])
    row = jnp.searchsorted(upto, place, side="right", method="scan_unrolled")
    return row, place - (upto[row] - episodes.steps[row])


def read_segments(episodes: Episodes, row: Int[Array, " B"], time: Int[Array, " B"], length: int) -> Segment:
    """The `length` steps that end with that at `row` and `time`; what is missing repeats the first step, masked.

    The returns to go are those of the whole episode, seen from its end.
    """
    wanted = time[:, None] - jnp.arange(length - 1, -1, -1)
    times, row = jnp.maximum(wanted, 0), row[:, None]
    steps = jax.tree.map(lambda x: x[row, times], episodes.data)
    return Segment(steps, episodes.episode_return[row] - episodes.paid[row, times], times, wanted >= 0)


def read_samples(
    episodes: Episodes, row: Int[Array, " B"], time: Int[Array, " B"], gamma: Float[Array, ""], num_steps: int
) -> Sample:
    """The steps at `row` and `time`, each joined with the `num_steps` - 1 that follow it in its episode, with the `episode_return`
    among their extras. After a time limit the bootstrap is the value of what the dynamics led to."""
    last_there = episodes.steps[row] - 1
    times = jnp.minimum(time[:, None] + jnp.arange(num_steps), last_there[:, None])  # [B, n]
    at = lambda x: x[row[:, None], times]
    reward, discount, last = jax.vmap(n_step, (0, 0, 0, None))(
        at(episodes.data.reward),
        at(episodes.data.terminated),
        at(episodes.data.truncated) | (times == last_there[:, None]),
        gamma,
    )
    first = jax.tree.map(lambda x: x[row, time], episodes.data)
    end = jax.tree.map(lambda x: x[row, time + last], episodes.data)
    joined = first.replace(
        reward=reward,
        terminated=end.terminated,
        truncated=end.truncated,
        next_observation=end.next_observation,
        extras={"episode_return": episodes.episode_return[row]},
    )
    return Sample(joined, discount, jnp.ones_like(reward), row * episodes.paid.shape[1] + time)


@record
class Best:
    """The best of the episodes that are kept: mean length, mean and standard deviation of returns."""

    mean_length: Float[Array, ""]
    mean_return: Float[Array, ""]
    std_return: Float[Array, ""]


def best(episodes: Episodes, number: int) -> Best:
    """What the `number` kept episodes of highest return came to; fewer where there are fewer."""
    returns = jnp.where(episodes.kept, episodes.episode_return, -jnp.inf)
    returns, rows = jax.lax.top_k(returns, min(number, len(returns)))
    there = jnp.isfinite(returns)
    mean_of = lambda x: jnp.where(there, x, 0.0).sum() / jnp.maximum(there.sum(), 1)
    mean = mean_of(returns)
    return Best(mean_of(episodes.length[rows]), mean, jnp.sqrt(mean_of(jnp.square(returns - mean))))


@record
class Outcomes:
    """Steps [B] and what came of them: from each on, `achieved` was paid within `horizon` steps. `best`: of all episodes."""

    transition: Transition
    achieved: Float[Array, " B"]
    horizon: Int[Array, " B"]
    best: Best


def draw_outcomes(episodes: Episodes, key: Key, batch_size: int, num_best: int, to_the_end: bool) -> Outcomes:
    """Steps t1 of episodes, any episode as often as another, and what was paid from there up to before a later time t2.

    Args:
      num_best: how many episodes `best` looks at.
      to_the_end: t2 is always the episode's end; otherwise any of the times after t1.
    """
    row_key, first_key, last_key = jax.random.split(key, 3)
    upto = jnp.cumsum(episodes.kept)
    row = jnp.searchsorted(upto, jax.random.randint(row_key, (batch_size,), 0, upto[-1]), side="right")
    steps = episodes.steps[row]
    first = jax.random.randint(first_key, (batch_size,), 0, steps)
    if to_the_end:
        paid, end = episodes.episode_return[row], episodes.length[row]
    else:
        last = jax.random.randint(last_key, (batch_size,), first, steps)
        paid, end = episodes.paid[row, last] + episodes.data.reward[row, last], last + 1
    transition = jax.tree.map(lambda x: x[row, first], episodes.data)
    return Outcomes(transition, paid - episodes.paid[row, first], end - first, best(episodes, num_best))
