"""Where batches come from."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rljax import distributions, rollout
from rljax.data import dataset as dataset_lib
from rljax.data import episodes as episodes_lib
from rljax.data import feedback as feedback_lib
from rljax.data import priorities as priorities_lib
from rljax.data import replay as replay_lib
from rljax.data.dataset import Dataset
from rljax.errors import UserError
from rljax.metrics import average
from rljax.record import record, static
from rljax.types import Env, Key, Sample, Source, initial_memory


def rollouts(env: Env, num_envs: int, length: int) -> Source:
    """Fresh experience of the present policy: a `Rollout` [length, num_envs] at a time, episodes going on across rollouts."""

    def init(agent, key):
        return rollout.start(env, agent, num_envs, key)

    def next_batch(state, agent, agent_state, key):
        def act(observation, memory, key):
            return agent.act(agent_state, observation, memory, key, True)

        return rollout.unroll(env, act, initial_memory(agent, num_envs), state, key, length, agent.receive)

    return Source(init, next_batch, env_steps=num_envs * length)


def replay(
    env: Env,
    *,
    num_envs: int,
    length: int,
    capacity: int,
    warmup: int,
    batch_size: int,
    num_batches: int,
    gamma,
    num_steps=1,
    priority_exponent=None,
    importance_exponent=1.0,
    with_next_action: bool = False,
    outcome_steps: int = 0,
    segment_steps: int = 0,
    with_statistics: bool = False,
    first_act: Callable | None = None,
    keep: Callable = lambda steps: steps,
    keep_rewards: bool = False,
) -> Source:
    """Experience kept and drawn again: `length` steps in `num_envs` environments, then `num_batches` batches of `Sample`.

    Args:
      capacity: transitions kept, rounded up to whole rollouts.
      warmup: transitions by uniformly random actions before the first batch, rounded up to whole rollouts, at least one.
      gamma: discount of the samples; may be traced.
      num_steps: steps that a sample spans.
      priority_exponent: None draws uniformly; a number (it may be traced) draws in proportion to priority^exponent and wants
        the agent's update to return a `priority` [B] (see rljax.data.priorities).
      importance_exponent: of the weights that correct for this; a number, or a function of the agent's state.
      with_next_action: samples have `next_action` and `has_next` among their extras, as those of a dataset do.
      outcome_steps: if above 0, samples have what the next so many steps led to among their extras (see `at_rest`).
      segment_steps: if above 0, samples have the next so many steps, their own first, among their extras, as `segment` [B, K], and
        the `mask` [B, K] of those before the episode has ended.
      with_statistics: samples have what the whole replay is like among their extras (`data.replay.statistics`), [B].
      first_act: (observation [N, ...], memory [N], key) -> (action, memory, extras), who acts before the first batch; None: random.
      keep: (transitions) -> transitions, what is kept of steps; extras never are,
      keep_rewards: but, if so, `rewards`, what each of several sources paid, summed as the reward is.

    The batches of one `next` are drawn together, then updated on and their priorities set one after another: with
    `num_batches` > 1 the later ones do not see the priorities that the earlier ones changed.
    """
    prioritised = priority_exponent is not None
    rows = length * math.ceil(capacity / (num_envs * length))
    warmup_rollouts = max(1, math.ceil(warmup / (num_envs * length)))

    def kept(steps):
        rewards = {"rewards": steps.extras["rewards"]} if keep_rewards else {}
        return keep(steps).replace(extras=rewards)

    def collect(state, act, agent, key):
        actors, ring, priorities = state
        initial = initial_memory(agent, num_envs)
        actors, batch, finished = rollout.unroll(env, act, initial, actors, key, length, agent.receive)
        if prioritised:
            slots = replay_lib.added_slots(ring, length)
            priorities = priorities_lib.insert(priorities, slots, priority_exponent)
        return (actors, replay_lib.add(ring, kept(batch.steps)), priorities), finished

    def init(agent, key):
        start_key, example_key, key = jax.random.split(key, 3)
        actors = rollout.start(env, agent, num_envs, start_key)

        def anyhow(observation, memory, key):
            return distributions.uniform_action(env.spec.action, num_envs, key), memory, {}

        act = first_act or anyhow
        initial = initial_memory(agent, num_envs)
        example = jax.eval_shape(lambda: kept(rollout.unroll(env, act, initial, actors, example_key, 1)[1].steps))
        ring = replay_lib.init(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), example), rows)
        keys = jax.random.split(key, warmup_rollouts)
        priorities = priorities_lib.init(rows * num_envs) if prioritised else ()
        state = actors, ring, priorities
        return jax.lax.scan(lambda state, key: collect(state, act, agent, key), state, keys)[0]

    def next_batch(state, agent, agent_state, key):
        collect_key, sample_key = jax.random.split(key)

        def act(observation, memory, key):
            return agent.act(agent_state, observation, memory, key, True)

        state, finished = collect(state, act, agent, collect_key)
        _, ring, priorities = state
        if prioritised:
            beta = importance_exponent(agent_state) if callable(importance_exponent) else importance_exponent
            slots, power = priorities_lib.sample(priorities, sample_key, (num_batches, batch_size))
            weights = priorities_lib.importance_weights(power, beta)
            batch = replay_lib.read(ring, slots.reshape(-1), gamma, num_steps).replace(weight=weights.reshape(-1))
        else:
            slots = replay_lib.sample_uniform(ring, sample_key, num_batches * batch_size)
            batch = replay_lib.read(ring, slots, gamma, num_steps)
        extras = dict(batch.transition.extras)
        if with_next_action:
            extras |= replay_lib.next_action(ring, batch.slot, num_steps)
        if outcome_steps:
            extras |= replay_lib.read_outcomes(ring, batch.slot, gamma, outcome_steps)
        if segment_steps:
            extras |= dict(zip(("segment", "mask"), replay_lib.read_segments(ring, batch.slot, segment_steps)))
        if with_statistics:
            spread_out = lambda x: jnp.broadcast_to(x, batch.slot.shape)
            extras |= jax.tree.map(spread_out, replay_lib.statistics(ring))
        batch = batch.replace(transition=batch.transition.replace(extras=extras))
        batch = stacked(batch, num_batches)
        return state, batch, finished

    def feedback(state, batch, priority):
        if priority is None:
            raise UserError("Prioritised replay needs an agent whose update returns a `priority` for each sample.")
        actors, ring, priorities = state
        return actors, ring, priorities_lib.update(priorities, batch.slot, priority, priority_exponent)

    steps = num_envs * length
    return Source(
        init,
        next_batch,
        feedback if prioritised else None,
        env_steps=steps,
        warmup_steps=warmup_rollouts * steps,
        num_batches=num_batches,
    )


def stacked(batch: Any, num_batches: int) -> Any:
    """A batch [num_batches * B] as the stack of batches that the loop updates on in turn; as it is where there is but one."""
    if num_batches == 1:
        return batch
    return jax.tree.map(lambda x: x.reshape(num_batches, -1, *x.shape[1:]), batch)


def at_rest(
    dataset: Dataset,
    *,
    batch_size: int,
    num_batches: int,
    gamma,
    num_steps: int = 1,
    outcomes: bool = False,
    segment_steps: int = 0,
    actions: bool = True,
) -> Source:
    """Batches of `Sample` from a dataset, `num_batches` at a time; its steps are updates. Nothing is kept in its state.

    Args:
      num_steps: steps that a sample spans.
      outcomes: samples have what their episodes came to among their extras (`data.dataset.outcomes`): `outcome`,
        `outcome_discount` and `outcome_observation`.
      segment_steps: if above 0, samples have their `segment` and its `mask` among their extras (see `replay`).
      actions: the agent reads what was done.
    Raises:
      UserError: it does, and the data do not know.
    """
    if actions and isinstance(dataset, Dataset) and dataset.transition.action is None:
        raise UserError("These data hold no actions, and who learns from them copies what was done.")
    # once for all draws; a source that only acts has no dataset
    found = dataset_lib.outcomes(dataset, gamma) if outcomes and isinstance(dataset, Dataset) else {}

    def read(rows):
        sample = dataset_lib.read(dataset, rows, gamma, num_steps)
        extras = dataset_lib.read_outcomes(dataset, found, rows) if outcomes else {}
        if segment_steps:
            extras |= dict(zip(("segment", "mask"), dataset_lib.read_ahead(dataset, rows, segment_steps)))
        return sample.replace(transition=sample.transition.replace(extras=sample.transition.extras | extras))

    return _drawn(dataset, read, batch_size, num_batches)


def segments(dataset: Dataset, *, length: int, batch_size: int, num_batches: int) -> Source:
    """Batches of `Segment` [B, length], each ending with a step that is drawn as `at_rest` draws its own."""
    return _drawn(dataset, lambda rows: dataset_lib.read_segments(dataset, rows, length), batch_size, num_batches)


def judged(dataset: Dataset, *, batch_size: int, num_batches: int, length: int | None = None) -> Source:
    """Batches of `Judged` [B, G, K] from the judgements that a dataset carries, `num_batches` at a time.

    length: K, by default that of the longest segment; from longer ones so many steps are cut out anew each time.
    """

    def next_batch(state, agent, agent_state, key):
        draw_key, cut_key = jax.random.split(key)
        which = feedback_lib.draw(dataset, draw_key, num_batches * batch_size)
        return state, stacked(feedback_lib.read(dataset, which, cut_key, length), num_batches), {}

    return Source(lambda agent, key: (), next_batch, num_batches=num_batches)


def unjudged(dataset: Dataset, *, batch_size: int, num_batches: int, length: int, spread=None) -> Source:
    """Batches of `Judged` that nobody judged, of segments from anywhere in a dataset: each by itself, [B, 1, K], or, with a
    `spread`, beside one that begins about so many steps earlier or later, [B, 2, K] (`data.feedback.overlapping`)."""

    def next_batch(state, agent, agent_state, key):
        if spread is None:
            found = feedback_lib.unjudged(dataset, key, num_batches * batch_size, length)
        else:
            found = feedback_lib.overlapping(dataset, key, num_batches * batch_size, length, spread)
        return state, stacked(found, num_batches), {}

    return Source(lambda agent, key: (), next_batch, num_batches=num_batches)


class Trajectories(NamedTuple):
    """Whole episodes, and where they have steps: after its end an episode repeats its last one."""

    steps: Any  # Transition [B, T]
    mask: Any  # [B, T]


def trajectories(dataset: Dataset, *, length: int, batch_size: int, num_batches: int) -> Source:
    """Batches of `Trajectories` [B, length] of a dataset, episodes that were recorded to their end, drawn by their weights.

    Raises:
      UserError: there is no such episode.
    """
    if isinstance(dataset, Dataset):  # a source that only acts has none
        dataset_lib.require_whole(dataset, length)

    def next_batch(state, agent, agent_state, key):
        found = dataset_lib.draw_whole(dataset, key, num_batches * batch_size, length)
        found = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), Trajectories(*found))
        return state, stacked(found, num_batches), {}

    return Source(lambda agent, key: (), next_batch, num_batches=num_batches)


def _drawn(dataset: Dataset, read: Callable, batch_size: int, num_batches: int) -> Source:
    def next_batch(state, agent, agent_state, key):
        rows = dataset_lib.draw(dataset, key, num_batches * batch_size)
        return state, stacked(read(rows), num_batches), {}

    return Source(lambda agent, key: (), next_batch, num_batches=num_batches)


def episodes(
    env: Env,
    read: Callable[[episodes_lib.Episodes, Key], Any],
    *,
    num_envs: int,
    length: int,
    capacity: int,
    warmup: int,
    num_batches: int,
    keep_best: bool,
    dataset: Dataset | None = None,
    rewards_of: Callable | None = None,
) -> Source:
    """Whole episodes kept and read again: `length` steps in `num_envs` environments, then `num_batches` batches.

    Args:
      read: (episodes, key) -> batch, of the episodes that ended and are kept (see rljax.data.episodes).
      capacity: episodes kept.
      warmup: steps by uniformly random actions before the first batch, at least one whole episode in each environment; none
        where there is a dataset.
      keep_best: the episodes of highest return are kept; otherwise the newest.
      dataset: its episodes of highest return are there from the start.
      rewards_of: (steps [L], mask [L]) -> reward [L], what steps are worth as soon as their episode has ended, in place of what
        they were paid. The metrics then have what episodes came to by it, as `episode/judged`.

    Raises:
      UserError: episodes have no time limit.
    """
    if env.spec.episode_length is None:
        raise UserError("A replay of whole episodes needs an environment with a time limit.")
    starts_empty = dataset is None
    least = max(warmup, num_envs * env.spec.episode_length)
    warmup_rollouts = math.ceil(least / (num_envs * length)) if starts_empty else 0

    def collect(state, act, agent, key):
        actors, kept = state
        actors, batch, finished = rollout.unroll(
            env, act, initial_memory(agent, num_envs), actors, key, length, agent.receive
        )
        count, kept = kept.count, episodes_lib.add(kept, batch.steps.replace(extras={}))
        if rewards_of is not None:
            kept = episodes_lib.judge(kept, count, rewards_of)
            new = episodes_lib.added_since(kept, count)
            finished["episode/judged"] = average(kept.episode_return, new)
        return (actors, kept), finished

    def init(agent, key):
        start_key, example_key, restart_key, key = jax.random.split(key, 4)
        actors = rollout.start(env, agent, num_envs, start_key)

        def act(observation, memory, key):
            return distributions.uniform_action(env.spec.action, num_envs, key), memory, {}

        initial = initial_memory(agent, num_envs)
        steps = jax.eval_shape(lambda: rollout.unroll(env, act, initial, actors, example_key, 1)[1].steps)
        steps = steps.replace(extras={})
        example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), steps)
        kept = episodes_lib.init(example, capacity, env.spec.episode_length, num_envs, keep_best)
        if not starts_empty:
            return actors, episodes_lib.fill(kept, dataset)
        keys = jax.random.split(key, warmup_rollouts)
        (actors, kept), _ = jax.lax.scan(lambda state, key: collect(state, act, agent, key), (actors, kept), keys)
        # what was at random is not gone on with: the agent does not remember it
        return rollout.start(env, agent, num_envs, restart_key), episodes_lib.restart(kept)

    def next_batch(state, agent, agent_state, key):
        collect_key, read_key = jax.random.split(key)

        def act(observation, memory, key):
            return agent.act(agent_state, observation, memory, key, True)

        state, finished = collect(state, act, agent, collect_key)
        if num_batches == 1:
            return state, read(state[1], read_key), finished
        keys = jax.random.split(read_key, num_batches)
        return state, jax.vmap(read, (None, 0))(state[1], keys), finished

    steps = num_envs * length
    return Source(init, next_batch, env_steps=steps, warmup_steps=warmup_rollouts * steps, num_batches=num_batches)


def episodes_of(env: Env, config: Any, read: Callable, keep_best: bool, dataset: Dataset | None) -> Source:
    """The replay of whole episodes that a config describes by the fields num_envs, rollout_length, capacity, random_steps and
    num_updates; the rest are arguments of `episodes`."""
    return episodes(
        env,
        read,
        num_envs=config.num_envs,
        length=config.rollout_length,
        capacity=config.capacity,
        warmup=config.random_steps,
        num_batches=config.num_updates,
        keep_best=keep_best,
        dataset=dataset,
    )


def together(first: Source, second: Source, join: Callable) -> Source:
    """Two sources read side by side: their batches are `join`ed, their steps and metrics are both counted.

    Raises:
      UserError: they do not give equally many batches, or learn priorities.
    """
    if first.num_batches != second.num_batches:
        raise UserError(
            f"Sources of {first.num_batches} and of {second.num_batches} batches at a time cannot be mixed."
        )
    if first.feedback or second.feedback:
        raise UserError("Sources that learn priorities cannot be mixed.")

    def init(agent, key):
        return tuple(source.init(agent, key) for source, key in zip((first, second), jax.random.split(key)))

    def next_batch(state, agent, agent_state, key):
        states, batches, metrics = [], [], {}
        for source, old, source_key in zip((first, second), state, jax.random.split(key)):
            new, batch, found = source.next(old, agent, agent_state, source_key)
            states.append(new)
            batches.append(batch)
            metrics |= found
        return tuple(states), join(*batches), metrics

    return Source(
        init,
        next_batch,
        env_steps=first.env_steps + second.env_steps,
        warmup_steps=first.warmup_steps + second.warmup_steps,
        num_batches=first.num_batches,
    )


class Beside(NamedTuple):
    """What an agent did, and data to hold it against."""

    own: Any  # a Rollout or a Sample
    data: Sample


def beside(own: Source, data: Source) -> Source:
    """Batches of both, as `Beside`. Raises UserError as `together` does."""
    return together(own, data, Beside)


def with_starts(source: Source, dataset: Dataset) -> Source:
    """The same batches of `Sample`, with a `first_observation` among the extras of each: that of an episode of the dataset, drawn
    by itself and not the sample's own."""

    def next_batch(state, agent, agent_state, key):
        key, start_key = jax.random.split(key)
        state, batch, metrics = source.next(state, agent, agent_state, key)
        steps = batch.transition
        first = dataset_lib.first_observations(dataset, start_key, batch.weight.shape)
        extras = steps.extras | {"first_observation": first}
        return state, batch.replace(transition=steps.replace(extras=extras)), metrics

    return source._replace(next=next_batch)


def labelled(source: Source, **values) -> Source:
    """The same batches of `Sample`, with fields of their transitions set to `values` throughout: a `reward` of 1, say. Names of
    no field become extras."""

    def next_batch(state, agent, agent_state, key):
        state, batch, metrics = source.next(state, agent, agent_state, key)
        steps = batch.transition
        filled = {name: jnp.full_like(batch.weight, value) for name, value in values.items()}
        known = {field.name for field in dataclasses.fields(steps)}
        fields = {name: x for name, x in filled.items() if name in known}
        extras = steps.extras | {name: x for name, x in filled.items() if name not in fields}
        return state, batch.replace(transition=steps.replace(**fields, extras=extras)), metrics

    return source._replace(next=next_batch)


def mixed(first: Source, second: Source) -> Source:
    """Batches of `Sample` of which some are of `first` and some of `second`, spread evenly, so that every part of a batch is
    mixed as the whole. Of their extras they keep those that both have. Raises UserError as `together` does.
    """
    axis = 0 if first.num_batches == 1 else 1

    def mix(*batches):
        common = set.intersection(*(set(batch.transition.extras) for batch in batches))
        batches = list(batches)
        for i, batch in enumerate(batches):
            extras = {name: x for name, x in batch.transition.extras.items() if name in common}
            batches[i] = batch.replace(transition=batch.transition.replace(extras=extras))
        sizes = [batch.weight.shape[axis] for batch in batches]
        spread = np.argsort(np.concatenate([(np.arange(size) + 0.5) / size for size in sizes]), kind="stable")
        return jax.tree.map(lambda *x: jnp.take(jnp.concatenate(x, axis), spread, axis), *batches)

    return together(first, second, mix)


@record
class Demonstrator:
    """Who can be asked what to do in any state: an agent's `act`, and its state; who writes, also of completions of others, and for
    completions of its own."""

    state: Any
    act: Callable = static()
    token_log_probs: Callable | None = static(None)

    def read(
        self, prompt: Int[Array, "Q P"], tokens: Int[Array, "B T"]
    ) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
        """`token_log_probs`: how likely each token of completions is by who is asked, and by the reference of that one. Raises
        UserError where it writes none."""
        self._must_write()
        return self.token_log_probs(self.state, prompt, tokens)

    def write(
        self, prompt: Int[Array, "Q P"], key: Key, beginning: Int[Array, "B T"] | None = None
    ) -> Int[Array, "B T"]:
        """Completions drawn by who is asked, which go on from a `beginning` where there is one. Raises UserError where it writes
        none."""
        self._must_write()
        return self.act(self.state, prompt, (), key, True, beginning)[0]

    def _must_write(self) -> None:
        if self.token_log_probs is None:
            raise UserError(
                "Who is asked of completions must write some itself: --demonstrator must be a run of sft, grpo, dpo ..."
            )


@record
class Online:
    """What the config of an agent that learns from data says of going on in the environment (see `of_data`)."""

    online: bool = static(False)  # read a mixture of the data and of its own steps, rather than the data alone
    data_share: float = static(0.5)  # of each batch, online
    num_steps: int = static(1)  # that a sample spans, of the data and of its own
    num_envs: int = static(8)
    rollout_length: int = static(1)  # steps in each environment between updates
    capacity: int = static(1_000_000)  # of its own steps kept
    warmup: int = static(1_000)  # random steps before the first update, online


def of_data(env: Env, config: Any, dataset: Dataset, batch_size: int | None = None, outcome_steps: int = 0) -> Source:
    """Transitions of the dataset, or, with `config.online`, a mixture of them and of a replay of the agent's own steps; then its
    steps are the environment's.

    Args:
      config: with the fields of `Online`, and batch_size, num_updates and gamma.
      batch_size: where it is not the config's.
      outcome_steps: if above 0, samples have what they led to among their extras: until the end of the episode in the
        dataset, and at most so many steps in the replay (see `at_rest`).
    Raises:
      UserError: a share that leaves no room for the one or the other.
    """
    batch_size = batch_size or config.batch_size
    rest = dict(
        num_batches=config.num_updates, gamma=config.gamma, num_steps=config.num_steps, outcomes=outcome_steps > 0
    )
    if not config.online:
        return at_rest(dataset, batch_size=batch_size, **rest)
    of_the_data = round(config.data_share * batch_size)
    if not 0 < of_the_data < batch_size:
        raise UserError(
            f"data_share={config.data_share} of a batch of {batch_size} leaves nothing for the data or for the agent's own steps."
        )
    own = replay_of(
        env,
        config,
        batch_size=batch_size - of_the_data,
        with_next_action=True,
        outcome_steps=outcome_steps,
    )
    return mixed(own, at_rest(dataset, batch_size=of_the_data, **rest))


def half_and_half(env: Env, config: Any, dataset: Dataset, segment_steps: int = 0) -> Source:
    """Half of each batch of `Sample` from the dataset, half from the replay that a config describes (`replay_of`); its steps are
    the environment's. Among the extras `from_data` [B] is 1 of the former, 0 of the latter. Ball et al., 2023 (arXiv:2302.02948).

    segment_steps: as of `replay`.
    Raises:
      UserError: a batch has no halves.
    """
    half = config.batch_size // 2
    if not half:
        raise UserError(f"batch_size={config.batch_size} must be at least 2: half of a batch is of the data.")
    rest = dict(num_batches=config.num_updates, gamma=config.gamma, num_steps=config.num_steps)
    data = at_rest(dataset, batch_size=half, segment_steps=segment_steps, **rest)
    own = replay_of(env, config, batch_size=config.batch_size - half, segment_steps=segment_steps)
    return mixed(labelled(own, from_data=0.0), labelled(data, from_data=1.0))


def replay_of(env: Env, config: Any, **changes) -> Source:
    """The replay that the config of an off-policy agent describes by the fields num_envs, rollout_length, capacity, warmup,
    batch_size, num_updates, gamma and num_steps; `changes` are arguments of `replay`, in place of fields or beside them."""
    same = ("num_envs", "capacity", "warmup", "batch_size", "gamma", "num_steps")
    fields = {"length": "rollout_length", "num_batches": "num_updates"} | {name: name for name in same}
    arguments = {name: getattr(config, field) for name, field in fields.items() if name not in changes}
    return replay(env, **arguments, **changes)
