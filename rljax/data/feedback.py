"""What people or programs thought of segments of a dataset: which of some was best, in order, with ties and confidence.

Pairs are judgements of two segments; rankings have more; scores are rankings by their order; a good and a bad example are a pair.
A segment is a stretch of one episode, told by its first row and its length, so nothing is copied. A dataset carries
its judgements (`Dataset.feedback`), and whoever learns from steps alone reads it as any other.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rljax.errors import UserError
from rljax.record import record, static
from rljax.types import Key, Transition


@record
class Feedback:
    """P judgements of G segments each.

    start, length: [P, G], the row that each segment begins with, and how many steps it has, all of one episode.
    rank: [P, G], 0 for the best; equal ranks are a tie.
    weight: [P], how sure a judgement is; 0 says nothing.
    rater: [P], whose it is.
    longest: steps of the longest segment.
    """

    start: Int[Array, "P G"]
    length: Int[Array, "P G"]
    rank: Int[Array, "P G"]
    weight: Float[Array, " P"]
    rater: Int[Array, " P"]
    longest: int = static(1)

    @property
    def size(self) -> int:
        return self.start.shape[0]


@record
class Judged:
    """A batch of judgements: steps [B, G, K], the `mask` of those that belong to the segments, and what was said of them."""

    transition: Transition
    mask: Bool[Array, "B G K"]
    rank: Int[Array, "B G"]
    weight: Float[Array, " B"]
    rater: Int[Array, " B"]


def segments(dataset, key: Key, shape: tuple[int, ...], length: int, weighted: bool = False) -> tuple[Array, Array]:
    """Segments of `length` steps drawn uniformly from all that lie within an episode: their first rows and lengths, of `shape`.

    An episode that is shorter is a segment by itself. weighted: segments are drawn in proportion to the weights of their episodes.
    """
    episode_key, start_key = jax.random.split(key)
    last_start = jnp.maximum(dataset.length - length, 0)
    if weighted:
        weight = jnp.diff(dataset.cumulative, prepend=0.0) / dataset.length
        cumulative = jnp.cumsum((last_start + 1) * weight)
        chosen = cumulative[-1] * jax.random.uniform(episode_key, shape)
    else:
        cumulative = jnp.cumsum(last_start + 1)
        chosen = jax.random.randint(episode_key, shape, 0, cumulative[-1])
    episode = jnp.searchsorted(cumulative, chosen, side="right", method="scan_unrolled")
    offset = jax.random.randint(start_key, shape, 0, last_start[episode] + 1)
    return dataset.start[episode] + offset, jnp.minimum(dataset.length[episode], length)


def snippets(
    dataset, score: Float[np.ndarray, " E"], key: Key, count: int, length: int, margin: float = 0.0, later: bool = True
) -> tuple[Int[Array, "P 2"], Int[Array, "P 2"]]:
    """Pairs of segments of ranked episodes, the first of each from the one of higher score: their first rows and lengths.

    Pairs of episodes are drawn uniformly from those whose scores differ by more than `margin`, and cut to segments of `length`
    steps, or of as many as the shorter one has. With `later` that of the better episode begins no earlier in it than the other's
    does in its own, since getting on is part of being good: T-REX, Brown et al., 2019 (arXiv:1904.06387).

    Raises:
      UserError: there are no such episodes.
    """
    score = np.asarray(score, np.float64)
    rising = np.argsort(score, kind="stable")
    worse_ones = np.searchsorted(score[rising], score - margin)  # than each
    if not worse_ones.any():
        raise UserError(
            f"No two of the {len(score)} episodes have scores more than {margin:g} apart, so none is ranked."
        )
    better_key, worse_key, first_key, later_key = jax.random.split(key, 4)
    better = jax.random.choice(better_key, len(score), (count,), p=jnp.asarray(worse_ones / worse_ones.sum()))
    worse = jnp.asarray(rising)[jax.random.randint(worse_key, (count,), 0, jnp.asarray(worse_ones)[better])]
    shorter = jnp.minimum(dataset.length[better], dataset.length[worse])
    steps = jnp.minimum(shorter, length)
    room = shorter if later else dataset.length[worse]
    start = jax.random.randint(first_key, (count,), 0, room - steps + 1)
    least = start if later else jnp.zeros_like(start)
    start_of_better = jax.random.randint(later_key, (count,), least, dataset.length[better] - steps + 1)
    rows = jnp.stack([dataset.start[better] + start_of_better, dataset.start[worse] + start], 1)
    return rows, jnp.stack([steps, steps], 1)


def read(dataset, judgement: Int[Array, " B"], key: Key, length: int | None = None) -> Judged:
    """The judgements by their index, with the steps they are of.

    length: K, by default that of the longest segment; of longer segments so many steps are cut out, from anywhere in them.
    """
    told = dataset.feedback
    length = told.longest if length is None else min(length, told.longest)
    start, steps = told.start[judgement], told.length[judgement]
    spare = jnp.maximum(steps - length, 0)
    start = start + jax.random.randint(key, start.shape, 0, spare + 1)
    transition, mask = steps_of(dataset, start, jnp.minimum(steps, length), length)
    return Judged(transition, mask, told.rank[judgement], told.weight[judgement], told.rater[judgement])


def steps_of(
    dataset, start: Int[Array, "*B"], steps: Int[Array, "*B"], length: int
) -> tuple[Transition, Bool[Array, "*B K"]]:
    """What segments hold, `length` steps K of room for each, and a mask of those that there are; behind them stands the first.
    Their extras are the `time` of each step in its episode."""
    ahead = jnp.arange(length)
    mask = ahead < steps[..., None]
    rows = start[..., None] + jnp.where(mask, ahead, 0)
    time = rows - dataset.start[dataset.episode[rows]]
    return jax.tree.map(lambda x: x[rows], dataset.transition).replace(extras={"time": time}), mask


def unjudged(dataset, key: Key, batch_size: int, length: int) -> Judged:
    """Segments of `length` steps drawn as `segments` does, each by itself, [B, 1, K]. Nobody judged them: they weigh nothing."""
    start, steps = segments(dataset, key, (batch_size, 1), length)
    return _by_nobody(dataset, start, steps, length)


def _by_nobody(dataset, start, steps, length: int) -> Judged:
    transition, mask = steps_of(dataset, start, steps, length)
    nobody = jnp.zeros(start.shape, jnp.int32)
    return Judged(transition, mask, nobody, jnp.zeros(len(start)), nobody[:, 0])


def overlapping(dataset, key: Key, batch_size: int, length: int, spread) -> Judged:
    """Segments of `length` steps drawn as `segments` does, and beside each another of its episode that begins some steps earlier or
    later: as many as a normal of standard deviation `spread`, rounded. Nobody judged them: ties that weigh nothing, [B, 2, K]."""
    draw_key, shift_key = jax.random.split(key)
    start, steps = segments(dataset, draw_key, (batch_size,), length)
    episode = dataset.episode[start]
    first = dataset.start[episode]
    shift = jnp.round(spread * jax.random.normal(shift_key, start.shape)).astype(jnp.int32)
    other = jnp.clip(start + shift, first, first + dataset.length[episode] - steps)
    return _by_nobody(dataset, jnp.stack([start, other], 1), jnp.stack([steps, steps], 1), length)


def draw(dataset, key: Key, batch_size: int) -> Int[Array, " B"]:
    """Judgements drawn uniformly. Raises UserError where the dataset has none."""
    if not isinstance(dataset.feedback, Feedback):
        raise UserError(
            "The dataset has no judgements to learn from: make some by ?preferences=NUMBER, or give a file of pairs."
        )
    return jax.random.randint(key, (batch_size,), 0, dataset.feedback.size)


def pairs(starts: Int[np.ndarray, "P 2"], lengths: Int[np.ndarray, "P 2"], label: Float[np.ndarray, " P"]) -> Feedback:
    """Judgements of pairs by their labels: 1 where the second was better, 0 where the first was, 0.5 for a tie. What lies between
    becomes two judgements whose weights say how sure it is.

    Raises:
      UserError: labels outside of 0 to 1, or not as many as there are pairs.
    """
    label = np.asarray(label, np.float64)
    if label.shape != (len(starts),):
        raise UserError(f"{len(starts)} pairs need as many labels, not {label.shape}.")
    if not ((label >= 0.0) & (label <= 1.0)).all():
        raise UserError(
            "Labels must lie in 0 to 1: 1 where the second was better, 0 where the first was, 0.5 for a tie."
        )
    between = np.flatnonzero((label > 0.0) & (label < 1.0) & (label != 0.5))
    which = np.concatenate([np.arange(len(label)), between])
    second = np.concatenate([label > 0.5, ~(label[between] > 0.5)])
    rank = np.stack([second, ~second], 1).astype(np.int32)
    rank[label[which] == 0.5] = 0
    weight = np.maximum(label, 1.0 - label)
    weight[label == 0.5] = 1.0
    weight = np.concatenate([weight, 1.0 - weight[between]])
    return Feedback(
        start=jnp.asarray(starts[which], jnp.int32),
        length=jnp.asarray(lengths[which], jnp.int32),
        rank=jnp.asarray(rank),
        weight=jnp.asarray(weight, jnp.float32),
        rater=jnp.zeros(len(which), jnp.int32),
        longest=int(lengths.max()),
    )


def ties(feedback: Feedback) -> Bool[np.ndarray, " P"]:
    """Whether a judgement puts all of its segments level, so that it says nothing of which is better."""
    rank = np.asarray(feedback.rank)
    return (rank == rank[:, :1]).all(axis=1)


def labels(feedback: Feedback) -> Float[np.ndarray, " P"]:
    """Of pairs: 1 where the second was better, 0 where the first was, 0.5 for a tie. Raises UserError for longer rankings."""
    if feedback.rank.shape[1] != 2:
        raise UserError(f"Only pairs have labels, not rankings of {feedback.rank.shape[1]} segments.")
    first, second = np.asarray(feedback.rank).T
    return 0.5 + 0.5 * np.sign(first - second)
