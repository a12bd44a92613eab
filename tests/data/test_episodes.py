"""Whole episodes: what is kept is what a list in Python would keep, and returns to go are those of hindsight."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import sources
from rljax.data import dataset as dataset_lib
from rljax.data import episodes as lib
from rljax.data.collect import uniform
from rljax.envs import probes
from rljax.errors import UserError
from rljax.types import Discrete, EnvSpec, Transition

NUM_ENVS, CAPACITY, ROW, CHUNK = 3, 4, 5, 8


def stream(length=64, seed=0):
    """Steps [T, N] of episodes of 1 to 9 steps, some terminated and some truncated. Observations are numbers of their own.

    Rewards are whole numbers between -3 and 3, so that returns are often equal."""
    rng = np.random.default_rng(seed)
    shape = (length, NUM_ENVS)
    ends, cut = rng.random(shape) < 0.25, rng.random(shape) < 0.5
    return Transition(
        observation=jnp.arange(length * NUM_ENVS, dtype=jnp.float32).reshape(*shape, 1),
        action=jnp.asarray(rng.integers(0, 2, shape), jnp.int32),
        reward=jnp.asarray(rng.integers(-3, 4, shape), jnp.float32),
        terminated=jnp.asarray(ends & ~cut),
        truncated=jnp.asarray(ends & cut),
        next_observation=-1.0 - jnp.arange(length * NUM_ENVS, dtype=jnp.float32).reshape(*shape, 1),
    )


EXAMPLE = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[2:], x.dtype), stream(1))


def written(steps, keep_best, chunk=CHUNK):
    """The steps, added a chunk at a time."""
    empty = lib.init(EXAMPLE, CAPACITY, ROW, NUM_ENVS, keep_best)
    chunks = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), steps)
    return jax.jit(lambda steps: jax.lax.scan(lambda all, new: (lib.add(all, new), None), empty, steps)[0])(chunks)


def expected(steps, keep_best):
    """Lists of (step, environment) of the episodes that a list keeps."""
    kept, running = [], [[] for _ in range(NUM_ENVS)]
    done, reward = np.asarray(steps.done), np.float64(steps.reward)
    for t in range(len(reward)):
        for n in range(NUM_ENVS):
            running[n].append((t, n))
            if done[t, n]:
                kept.append(running[n])
                running[n] = []
        while len(kept) > CAPACITY:
            worth = [sum(reward[at] for at in episode) if keep_best else 0.0 for episode in kept]
            kept.pop(int(np.argmin(worth)))  # the first of those that are equal: the oldest
    return kept


@pytest.fixture(scope="module", params=[False, True], ids=["newest", "best"])
def kept(request):
    steps = stream()
    return steps, written(steps, request.param), expected(steps, request.param)


def test_what_is_kept_is_what_a_list_keeps(kept):
    """Lengths, returns, steps and what was paid, of short episodes and of those longer than a row; none that still runs."""
    steps, episodes, listed = kept
    reward, observation = np.float64(steps.reward), np.asarray(steps.observation)[..., 0]
    rows = {int(episodes.data.observation[row, 0, 0]): row for row in np.flatnonzero(episodes.kept)}
    assert len(listed) == len(rows) == CAPACITY
    assert max(map(len, listed)) > ROW > min(map(len, listed))
    for episode in listed:
        row = rows[int(observation[episode[0]])]
        rewards, size = np.array([reward[at] for at in episode]), min(len(episode), ROW)
        assert int(episodes.length[row]) == len(episode) and int(episodes.steps[row]) == size
        assert float(episodes.episode_return[row]) == rewards.sum()
        to_go = episodes.episode_return[row] - episodes.paid[row]
        np.testing.assert_array_equal(to_go[:size], np.cumsum(rewards[::-1])[::-1][:size])
        for name in ("observation", "action", "reward", "terminated", "truncated"):
            whole = np.array([getattr(steps, name)[at] for at in episode])
            np.testing.assert_array_equal(getattr(episodes.data, name)[row, :size], whole[:size], err_msg=name)


def test_rows_are_never_lost(kept):
    """Every row is kept or being written, and no two environments write into one."""
    _, episodes, _ = kept
    assert len(set(episodes.row.tolist())) == NUM_ENVS
    np.testing.assert_array_equal(np.sort(np.flatnonzero(~np.asarray(episodes.kept))), np.sort(episodes.row))


def test_chunks_do_not_matter():
    steps = stream(32)
    jax.tree.map(np.testing.assert_array_equal, written(steps, False, 1), written(steps, False, 32))


def test_truncated_episodes_are_kept_too():
    """Both kinds are among the kept, and what runs on is not."""
    steps = stream()
    ends = [
        (bool(steps.terminated[episode[-1]]), bool(steps.truncated[episode[-1]])) for episode in expected(steps, False)
    ]
    assert (True, False) in ends and (False, True) in ends
    none = steps.replace(terminated=jnp.zeros_like(steps.terminated), truncated=jnp.zeros_like(steps.truncated))
    assert not written(none, False).kept.any()


def test_after_a_restart_nothing_of_the_old_episode_counts():
    steps = stream(1).replace(terminated=jnp.zeros((1, NUM_ENVS), bool), truncated=jnp.zeros((1, NUM_ENVS), bool))
    last = steps.replace(terminated=jnp.ones((1, NUM_ENVS), bool), reward=jnp.full((1, NUM_ENVS), 7.0))
    episodes = lib.init(EXAMPLE, CAPACITY, ROW, NUM_ENVS, False)
    episodes = lib.add(lib.restart(lib.add(episodes, steps)), last)
    assert episodes.episode_return[episodes.kept].tolist() == [7.0] * NUM_ENVS
    assert episodes.length[episodes.kept].tolist() == [1] * NUM_ENVS


def test_segments_are_those_of_the_episode(kept):
    """The steps that end with each that can be drawn, with the returns to go of hindsight, masked before the first."""
    steps, episodes, listed = kept
    rows, times = np.nonzero(np.arange(ROW) < np.asarray(episodes.steps)[:, None])
    segment = lib.read_segments(episodes, jnp.asarray(rows), jnp.asarray(times), 3)
    reward, observation = np.float64(steps.reward), np.asarray(steps.observation)[..., 0]
    found = {int(observation[episode[0]]): episode for episode in listed}
    for b, (row, time) in enumerate(zip(rows, times)):
        episode = found[int(episodes.data.observation[row, 0, 0])]
        for k, at in enumerate(range(time - 2, time + 1)):
            assert bool(segment.mask[b, k]) == (at >= 0) and int(segment.time[b, k]) == max(at, 0)
            assert float(segment.transition.observation[b, k, 0]) == observation[episode[max(at, 0)]]
            assert float(segment.return_to_go[b, k]) == sum(reward[step] for step in episode[max(at, 0) :])


def test_samples_are_those_of_the_episode(kept):
    """Three steps at most, not beyond the episode or the row: after a truncation and at a row's end what followed still counts."""
    steps, episodes, listed = kept
    rows, times = np.nonzero(np.arange(ROW) < np.asarray(episodes.steps)[:, None])
    sample = jax.jit(lib.read_samples, static_argnums=4)(episodes, jnp.asarray(rows), jnp.asarray(times), 0.9, 3)
    reward, observation = np.float64(steps.reward), np.asarray(steps.observation)[..., 0]
    following, terminated = np.asarray(steps.next_observation)[..., 0], np.asarray(steps.terminated)
    found = {int(observation[episode[0]]): episode for episode in listed}
    for b, (row, time) in enumerate(zip(rows, times)):
        episode = found[int(episodes.data.observation[row, 0, 0])]
        joined = episode[:ROW][time : time + 3]
        end = terminated[joined[-1]]
        expected = sum(0.9**k * reward[at] for k, at in enumerate(joined)), 0.0 if end else 0.9 ** len(joined)
        np.testing.assert_allclose((sample.transition.reward[b], sample.discount[b]), expected, rtol=1e-6, atol=1e-6)
        assert float(sample.transition.observation[b, 0]) == observation[joined[0]]
        assert float(sample.transition.next_observation[b, 0]) == following[joined[-1]]
        assert bool(sample.transition.terminated[b]) == end
        assert float(sample.transition.extras["episode_return"][b]) == sum(reward[at] for at in episode)
    assert set(np.round(np.float64(sample.discount), 3)) == {0.0, 0.9, 0.81, 0.729}


def test_episodes_that_ended_are_judged_once():
    """By their numbers and how many there are; those kept before stay as they are, also where runs differ in how many are new."""
    steps = stream()
    rewards_of = lambda row, mask: row.observation[:, 0] * mask.sum() - 1.0  # also where there is no step
    part = lambda rows: jax.tree.map(lambda x: x[rows], steps)

    @jax.jit
    @jax.vmap
    def run(early):
        before = lib.add(lib.init(EXAMPLE, 40, ROW, NUM_ENVS, False), part(slice(0, 8)))
        after = lib.add(before, part(slice(8, 16)))
        return before, after, lib.judge(after, jnp.where(early, 0, before.count), rewards_of)

    before, after, judged = run(jnp.array([True, False]))
    new = np.asarray(after.kept & ~before.kept)
    assert 0 < new[0].sum() < after.kept[0].sum()
    one = lambda tree, i: jax.tree.map(lambda x: np.asarray(x[i]), tree)
    for i, rows in enumerate((np.asarray(after.kept)[0], new[1])):
        old, found = one(after, i), one(judged, i)
        mask = np.arange(ROW) < old.steps[:, None]
        expected = np.where(mask, old.data.observation[..., 0] * old.steps[:, None] - 1.0, 0.0)
        expected = np.where(rows[:, None], expected, old.data.reward)
        np.testing.assert_array_equal(found.data.reward, expected)
        np.testing.assert_array_equal(found.episode_return[rows], expected.sum(1)[rows])
        np.testing.assert_array_equal(found.episode_return[~rows], old.episode_return[~rows])
        paid = np.where(rows[:, None], np.cumsum(expected, 1) - expected, old.paid)
        np.testing.assert_array_equal(found.paid[mask], paid[mask])


def test_every_step_is_drawn_as_often(kept):
    """So episodes in proportion to their steps; rows that are empty or being written never."""
    _, episodes, _ = kept
    row, time = jax.jit(lib.draw_steps, static_argnums=2)(episodes, jax.random.key(0), 40_000)
    counts = np.zeros((CAPACITY + NUM_ENVS, ROW))
    np.add.at(counts, (np.asarray(row), np.asarray(time)), 1)
    there = np.arange(ROW) < np.asarray(episodes.steps)[:, None]
    assert counts[~there].sum() == 0
    share, size = 1 / there.sum(), np.sqrt(1 / there.sum() / 40_000)
    np.testing.assert_allclose(counts[there] / 40_000, share, atol=4.5 * size)


@pytest.mark.parametrize("to_the_end", [True, False])
def test_outcomes_are_those_of_hindsight(kept, to_the_end):
    """What was paid from a step on within its horizon; any episode as often, any step of it as often."""
    steps, episodes, listed = kept
    draw = jax.jit(functools.partial(lib.draw_outcomes, batch_size=8000, num_best=2, to_the_end=to_the_end))
    outcomes = draw(episodes, jax.random.key(0))
    reward, observation = np.float64(steps.reward), np.asarray(steps.observation)[..., 0]
    places = {int(observation[at]): (i, k) for i, episode in enumerate(listed) for k, at in enumerate(episode)}
    firsts, horizons = np.zeros(CAPACITY), [set() for _ in listed]
    for first, achieved, horizon in zip(
        np.asarray(outcomes.transition.observation)[:, 0], np.asarray(outcomes.achieved), np.asarray(outcomes.horizon)
    ):
        i, k = places[int(first)]
        firsts[i] += 1
        horizons[i].add((k, int(horizon)))
        assert achieved == sum(reward[at] for at in listed[i][k : k + horizon])
    np.testing.assert_allclose(firsts / 8000, 1 / CAPACITY, atol=0.02)
    for episode, seen in zip(listed, horizons):
        size = min(len(episode), ROW)
        if to_the_end:
            assert seen == {(k, len(episode) - k) for k in range(size)}
        else:
            assert seen == {(k, end - k) for k in range(size) for end in range(k + 1, size + 1)}


def test_the_best_episodes(kept):
    steps, episodes, listed = kept
    reward = np.float64(steps.reward)
    returns = np.array([sum(reward[at] for at in episode) for episode in listed])
    for number in (2, 50):  # more than there are: all of them
        found = lib.best(episodes, number)
        top = np.sort(returns)[::-1][:number]
        assert float(found.mean_return) == pytest.approx(top.mean(), abs=1e-6)
        assert float(found.std_return) == pytest.approx(top.std(), abs=1e-6)
    assert float(found.mean_length) == pytest.approx(np.mean([len(episode) for episode in listed]), abs=1e-5)


def data():
    """Four episodes of 1, 6, 2 and 3 steps with returns 5, -6, 1 and 3."""
    ends = np.array([0, 6, 8, 11])
    reward = np.concatenate([[5.0], -np.ones(6), [0.0, 1.0], [1.0, 1.0, 1.0]])
    flags = np.isin(np.arange(12), ends)
    observation = np.arange(12, dtype=np.float32)[:, None]
    steps = Transition(observation, np.zeros(12, np.int32), np.float32(reward), flags, ~flags & False, observation)
    return dataset_lib.from_transitions(steps)


@pytest.mark.parametrize("keep_best", [False, True])
def test_a_dataset_fills_it_with_its_best_which_leave_worst_first(keep_best):
    fill = lambda room: lib.fill(lib.init(EXAMPLE, room, ROW, NUM_ENVS, keep_best), data())
    three = fill(3)
    assert sorted(three.episode_return[three.kept].tolist()) == [1.0, 3.0, 5.0]
    whole = fill(6)
    assert int(whole.kept.sum()) == 4
    row = int(np.flatnonzero(np.asarray(whole.episode_return) == -6.0)[0])  # longer than a row
    assert int(whole.length[row]) == 6 and int(whole.steps[row]) == ROW
    np.testing.assert_array_equal(whole.data.observation[row, :, 0], np.arange(1, 6))
    np.testing.assert_array_equal(whole.paid[row], [0, -1, -2, -3, -4])
    ended = stream(1).replace(terminated=jnp.ones((1, NUM_ENVS), bool), reward=jnp.array([[2.0, 0.0, -9.0]]))
    after = lib.add(three, ended)
    returns = sorted(after.episode_return[after.kept].tolist())
    assert returns == ([2.0, 3.0, 5.0] if keep_best else [-9.0, 0.0, 2.0])
    one = lib.add(three, jax.tree.map(lambda x: x, ended.replace(terminated=jnp.array([[True, False, False]]))))
    assert sorted(one.episode_return[one.kept].tolist()) == [2.0, 3.0, 5.0]


def source(env, **changes):
    settings = dict(num_envs=3, length=2, capacity=4, warmup=0, num_batches=1, keep_best=False)
    return sources.episodes(env, lambda episodes, key: lib.best(episodes, 2), **(settings | changes))


def test_the_source_begins_with_an_episode_at_the_least():
    """Of four steps each, in rollouts of two; after the random steps environments start anew."""
    env = probes.Memory(delay=3)
    made = source(env)
    actors, episodes = jax.jit(lambda key: made.init(uniform(env), key))(jax.random.key(0))
    assert made.warmup_steps == 12 and made.env_steps == 6 and int(episodes.kept.sum()) == 3
    assert episodes.length[episodes.kept].tolist() == [4, 4, 4]
    (actors, episodes), batch, _ = jax.jit(lambda state, key: made.next(state, uniform(env), (), key))(
        (actors, episodes), jax.random.key(1)
    )
    assert actors.episode_length.tolist() == episodes.time.tolist() == [2, 2, 2]
    assert float(batch.mean_length) == 4.0
    with_data = source(env, dataset=data())
    assert with_data.warmup_steps == 0 and int(with_data.init(uniform(env), jax.random.key(0))[1].kept.sum()) == 4


def test_what_has_no_time_limit_is_refused():
    with pytest.raises(UserError, match="time limit"):
        source(SimpleNamespace(spec=EnvSpec((1,), Discrete(2), None)))
