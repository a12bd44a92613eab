"""A ring of the latest experience on the device. Adding costs O(added), sampling O(batch).

Rows are time, columns are the N environments side by side, so that the step after (row, column) is (row + 1, column) and several
steps can be joined into one when they are sampled. A slot is a place in the ring, row * N + column, whatever it holds now.
The ring fills from row 0 on, so the slots that hold data are those below filled * N.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rljax.errors import UserError
from rljax.losses.multistep import n_step
from rljax.record import record
from rljax.types import Key, Sample, Transition


@record
class Replay:
    """data: transitions [rows, N]. position: the row to be written next. filled: rows that hold data."""

    data: Transition
    position: Int[Array, ""]
    filled: Int[Array, ""]

    @property
    def num_envs(self) -> int:
        return self.data.reward.shape[1]


def init(example: Transition, rows: int) -> Replay:
    """An empty ring of `rows` rows for transitions like `example` [N]."""
    data = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), example)
    return Replay(data, jnp.int32(0), jnp.int32(0))


def add(replay: Replay, steps: Transition) -> Replay:
    """Write `steps` [T, N] over the oldest rows. The number of rows must be a multiple of T, always the same."""
    rows, length = replay.data.reward.shape[0], steps.reward.shape[0]
    if rows % length:
        raise UserError(f"A replay of {rows} rows takes steps in lengths that divide it, not {length}.")
    write = lambda ring, new: jax.lax.dynamic_update_slice_in_dim(ring, new.astype(ring.dtype), replay.position, 0)
    return Replay(
        jax.tree.map(write, replay.data, steps),
        (replay.position + length) % rows,
        jnp.minimum(replay.filled + length, rows),
    )


def added_slots(replay: Replay, length: int) -> Int[Array, " length*N"]:
    """The slots that the next `add` of `length` rows will write."""
    return replay.position * replay.num_envs + jnp.arange(length * replay.num_envs)


def sample_uniform(replay: Replay, key: Key, batch_size: int) -> Int[Array, " B"]:
    """Slots drawn uniformly with replacement from those that hold data."""
    return jax.random.randint(key, (batch_size,), 0, replay.filled * replay.num_envs)


def read(replay: Replay, slot: Int[Array, " B"], gamma: Float[Array, ""], num_steps: int = 1) -> Sample:
    """The transitions at `slot` [B], each joined with the `num_steps` - 1 that follow it.

    A join ends where the episode does or at the newest row; either way the bootstrap is the value of the observation that the
    dynamics led to there, and 0 only after a termination. Slots must hold data: below filled * N. The rewards of several sources
    (extras, `rewards` [B, D]) are summed as their sum is.
    """
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    first = jax.tree.map(lambda x: flat(x)[slot], replay.data)
    if num_steps == 1:
        discount = gamma * (1.0 - first.terminated)
        return Sample(first, discount, jnp.ones_like(first.reward), slot)
    reward, discount, last_slot = _join(replay, slot, gamma, num_steps)
    at_last = lambda x: flat(x)[last_slot]
    extras = dict(first.extras)
    if "rewards" in extras:
        of_one = lambda one: _join(replay.replace(data=replay.data.replace(reward=one)), slot, gamma, num_steps)[0]
        extras["rewards"] = jax.vmap(of_one, -1, -1)(replay.data.extras["rewards"])
    joined = first.replace(
        reward=reward,
        terminated=at_last(replay.data.terminated),
        truncated=at_last(replay.data.truncated),
        next_observation=jax.tree.map(at_last, replay.data.next_observation),
        extras=extras,
    )
    return Sample(joined, discount, jnp.ones_like(reward), slot)


def _join(replay: Replay, slot: Int[Array, " B"], gamma, num_steps: int) -> tuple[Array, Array, Array]:
    """What `num_steps` steps from each slot on come to: summed reward, discount of the bootstrap, slot of the last that belongs."""
    flat = lambda x: x.reshape(-1)
    slots, newest = _slots_from(replay, slot, num_steps)
    reward, discount, last = jax.vmap(n_step, (0, 0, 0, None))(
        flat(replay.data.reward)[slots],
        flat(replay.data.terminated)[slots],
        flat(replay.data.truncated)[slots] | newest,
        gamma,
    )
    return reward, discount, jnp.take_along_axis(slots, last[:, None], axis=1)[:, 0]


def _slots_from(replay: Replay, slot: Int[Array, " B"], num_steps: int) -> tuple[Int[Array, "B n"], Bool[Array, "B n"]]:
    """Each slot and those of the steps after it in its column, whatever episode they are of, and which are of the newest row;
    there they stay."""
    rows, num_envs = replay.data.reward.shape
    row, column = slot // num_envs, slot % num_envs
    newer = (replay.position - 1 - row) % rows  # rows after this one
    following = jnp.minimum(jnp.arange(num_steps), newer[:, None])
    return (row[:, None] + following) % rows * num_envs + column[:, None], following == newer[:, None]


def read_segments(replay: Replay, slot: Int[Array, " B"], length: int) -> tuple[Transition, Bool[Array, "B K"]]:
    """The steps at `slot` [B] and those that followed, [B, K], and the mask of those that belong: up to the episode's end or the
    newest row, which both belong."""
    slots, newest = _slots_from(replay, slot, length)
    steps = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[slots], replay.data)
    over = (steps.done | newest)[:, :-1]  # before each step but the first
    before = jnp.concatenate([jnp.zeros((len(slot), 1), bool), jnp.cumsum(over, axis=1) > 0], axis=1)
    return steps, ~before


def statistics(replay: Replay) -> dict[str, Array]:
    """Of all that is kept: the mean size of rewards, `reward_size`, and whether any step `terminates`."""
    kept = jnp.maximum(replay.filled * replay.num_envs, 1)  # the rest of the ring is 0
    return {"reward_size": jnp.abs(replay.data.reward).sum() / kept, "terminates": replay.data.terminated.any()}


def next_action(replay: Replay, slot: Int[Array, " B"], num_steps: int = 1) -> dict[str, Array]:
    """As `extras` of a sample: the `next_action` [B] taken after the last of the steps joined at `slot`, and whether it `has_next`,
    which it has not where the episode ended or that step is the newest; there the action is its own."""
    rows, num_envs = replay.data.reward.shape
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    last = slot if num_steps == 1 else _join(replay, slot, 1.0, num_steps)[2]
    newest = last // num_envs == (replay.position - 1) % rows
    has_next = ~(flat(replay.data.done)[last] | newest)
    following = jnp.where(has_next, (last + num_envs) % (rows * num_envs), last)
    return {"next_action": flat(replay.data.action)[following], "has_next": has_next}


def read_outcomes(replay: Replay, slot: Int[Array, " B"], gamma: Float[Array, ""], num_steps: int) -> dict[str, Array]:
    """As `data.dataset.read_outcomes`: what followed the steps at `slot` until the episode ended, the newest row or `num_steps`."""
    until = read(replay, slot, gamma, num_steps)
    return {
        "outcome": until.transition.reward,
        "outcome_discount": until.discount,
        "outcome_observation": until.transition.next_observation,
    }


def segments(
    replay: Replay, key: Key, shape: tuple[int, ...], length: int
) -> tuple[Transition, Bool[Array, "*shape K"]]:
    """Segments of `length` steps [*shape, K], drawn uniformly from all in the ring that lie within an episode, and the mask of the
    steps that belong. An episode that is shorter, and all of which is still there, is a segment by itself; where there is no
    segment at all, no step belongs.

    Raises:
      UserError: the ring has fewer rows.
    """
    rows, num_envs = replay.data.reward.shape
    if rows < length:
        raise UserError(f"A replay of {rows} steps of each environment has no segments of {length}.")
    oldest = (replay.position - replay.filled) % rows
    age = jnp.arange(rows)[:, None]
    done = jnp.roll(replay.data.done, -oldest, 0) & (age < replay.filled)  # [rows, N], the oldest first
    ended = jnp.concatenate([jnp.zeros((1, num_envs), jnp.int32), jnp.cumsum(done, 0)])  # before each row
    last = jnp.minimum(age + length - 1, rows)
    ends_within = ended[last, jnp.arange(num_envs)] > ended[:-1]
    begins = jnp.concatenate([jnp.zeros((1, num_envs), bool), done[:-1]])
    whole = ~ends_within & (age + length <= replay.filled)
    cumulative = jnp.cumsum((whole | (begins & ends_within)).reshape(-1))
    chosen = jax.random.randint(key, shape, 0, jnp.maximum(cumulative[-1], 1))
    slot = jnp.searchsorted(cumulative, chosen, side="right", method="scan_unrolled")
    first, column = jnp.minimum(slot // num_envs, rows - 1), slot % num_envs
    time = jnp.arange(length)
    row = (oldest + first[..., None] + time) % rows
    steps = jax.tree.map(lambda x: x[row, column[..., None]], replay.data)
    ends = jnp.cumsum(steps.done, -1) - steps.done  # that lie before each step
    return steps, (ends == 0) & (first[..., None] + time < replay.filled) & (cumulative[-1] > 0)
