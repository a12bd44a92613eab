"""Data at rest: what follows what, and what is drawn how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import sources
from rljax.data import dataset as lib
from rljax.errors import UserError
from rljax.types import Transition

LENGTHS = (3, 1, 4)
REWARD = np.array([1.0, 2.0, 3.0, 10.0, 4.0, 5.0, 6.0, 7.0], np.float32)  # returns 6, 10, 22
N = sum(LENGTHS)


def steps():
    """Three episodes: terminated, truncated, and one where the recording stops. Observation and action are the row's number."""
    row = np.arange(N)
    return Transition(
        observation=np.float32(row)[:, None],
        action=np.float32(row)[:, None],
        reward=REWARD,
        terminated=row == 2,
        truncated=row == 3,
        next_observation=np.float32(row)[:, None] + 0.5,
    )


@pytest.fixture(scope="module")
def data():
    return lib.from_transitions(steps())


def test_episodes_are_found_and_the_last_one_is_truncated(data):
    assert data.start.tolist() == [0, 3, 4] and data.length.tolist() == list(LENGTHS)
    assert data.episode.tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
    assert np.flatnonzero(data.transition.terminated).tolist() == [2]
    assert np.flatnonzero(data.transition.truncated).tolist() == [3, 7]


def test_the_next_action_is_never_that_of_another_episode(data):
    assert data.next_action[:, 0].tolist() == [1, 2, 2, 3, 5, 6, 7, 7]
    assert data.has_next.tolist() == [True, True, False, False, True, True, True, False]


def test_return_to_go_ends_with_its_episode(data):
    np.testing.assert_allclose(data.return_to_go, [6, 5, 3, 10, 22, 18, 13, 7])
    np.testing.assert_allclose(data.episode_return, [6, 10, 22])


def test_samples_bootstrap_after_truncation_and_not_after_termination(data):
    sample = lib.read(data, jnp.arange(N), 0.9)
    np.testing.assert_allclose(sample.discount, np.where(np.arange(N) == 2, 0.0, 0.9))
    np.testing.assert_allclose(sample.transition.next_observation[:, 0], np.arange(N) + 0.5)
    assert sample.transition.extras["has_next"].tolist() == data.has_next.tolist()
    assert sample.transition.extras["time"].tolist() == [0, 1, 2, 0, 0, 1, 2, 3]


def test_what_is_ahead_ends_with_its_episode(data):
    ahead, mask = lib.read_ahead(data, jnp.arange(N), 3)
    rows = [[0, 1, 2], [1, 2, 2], [2, 2, 2], [3, 3, 3], [4, 5, 6], [5, 6, 7], [6, 7, 7], [7, 7, 7]]
    np.testing.assert_array_equal(ahead.action[..., 0], rows)
    np.testing.assert_array_equal(mask.sum(1), [3, 2, 1, 1, 3, 3, 2, 1])
    np.testing.assert_array_equal(mask, np.sort(mask, axis=1)[:, ::-1])  # what belongs comes first


def frequencies(data, draws=80_000):
    rows = jax.jit(lambda key: lib.draw(data, key, draws))(jax.random.key(0))
    return np.bincount(rows, minlength=N) / draws


def test_samples_of_three_steps_end_with_their_episode(data):
    sample = lib.read(data, jnp.arange(N), 0.5, 3)
    last = np.array([2, 2, 2, 3, 6, 7, 7, 7])
    reward = [
        1 + 0.5 * 2 + 0.25 * 3,
        2 + 0.5 * 3,
        3,
        10,
        4 + 0.5 * 5 + 0.25 * 6,
        5 + 0.5 * 6 + 0.25 * 7,
        6 + 0.5 * 7,
        7,
    ]
    np.testing.assert_allclose(sample.transition.reward, reward)
    np.testing.assert_allclose(sample.discount, [0, 0, 0, 0.5, 0.125, 0.125, 0.25, 0.5])
    np.testing.assert_allclose(sample.transition.observation[:, 0], np.arange(N))
    np.testing.assert_allclose(sample.transition.next_observation[:, 0], last + 0.5)
    np.testing.assert_array_equal(sample.transition.extras["next_action"], data.next_action[last])
    assert sample.transition.extras["has_next"].tolist() == data.has_next[last].tolist()
    assert sample.transition.truncated.tolist() == [False, False, False, True, False, True, True, True]
    assert sample.transition.extras["time"].tolist() == [0, 1, 2, 0, 0, 1, 2, 3]


def test_with_equal_weights_all_steps_are_drawn_alike(data):
    np.testing.assert_allclose(frequencies(data), np.full(N, 1 / N), atol=0.005)  # four standard deviations


def test_weights_are_those_of_an_episodes_steps(data):
    share = np.repeat([1.0, 0.0, 3.0], LENGTHS)
    np.testing.assert_allclose(frequencies(lib.weighted(data, [1.0, 0.0, 3.0])), share / share.sum(), atol=0.006)


@pytest.mark.parametrize("fraction, kept", [(0.1, [2]), (0.5, [2]), (0.6, [1, 2]), (1.0, [0, 1, 2])])
def test_the_best_episodes_are_kept_whole(data, fraction, kept):
    """Half of eight steps are the best episode's four; a further one is taken whole."""
    assert np.flatnonzero(lib.top_weights(data, fraction)).tolist() == kept


def test_weights_by_return(data):
    weight = lib.return_weights(data, 0.5)
    np.testing.assert_allclose(weight / weight[0], np.exp([0.0, 0.25 / 0.5, 1.0 / 0.5]), rtol=1e-6)


def test_weights_by_advantage_leave_out_what_the_start_explains():
    """Returns are 10 times the start and 0, 1 or 3 more; by return the best start wins, by advantage what was made of it."""
    start, more = np.arange(12.0), np.tile([0.0, 1.0, 3.0], 4)
    one = np.ones(12, bool)
    episodes = Transition(
        np.float32(start)[:, None], np.zeros((12, 1), np.float32), np.float32(10.0 * start + more), one, ~one,
        np.float32(start)[:, None],
    )  # fmt: skip
    data = lib.from_transitions(episodes)
    inputs = np.stack([start, np.ones(12)], 1)
    advantage = 10.0 * start + more - inputs @ np.linalg.solve(inputs.T @ inputs, inputs.T @ (10.0 * start + more))
    weight = lib.advantage_weights(data, 0.5)
    np.testing.assert_allclose(np.log(weight), (advantage - advantage.max()) / np.ptp(advantage) / 0.5, atol=1e-4)
    assert set(np.argsort(weight)[-4:]) == {2, 5, 8, 11}
    with pytest.raises(UserError, match="needs more episodes than numbers"):
        lib.advantage_weights(lib.from_transitions(jax.tree.map(lambda x: x[:2], episodes)), 0.5)
    with pytest.raises(UserError, match="advantage_temperature=0.0 must be above 0"):
        lib.advantage_weights(data, 0.0)


def test_outcomes_are_what_was_earned_until_the_end_and_what_was_left(data):
    """The episodes: 1, 2, 3 and terminated; 10 and truncated; 4, 5, 6, 7 where the recording stopped."""
    found = lib.outcomes(data, jnp.float32(0.5))
    outcome = [2.75, 3.5, 3, 10, 8.875, 9.75, 9.5, 7]
    np.testing.assert_allclose(found["outcome"], outcome)
    np.testing.assert_allclose(found["outcome_discount"], [0, 0, 0, 0.5, 0.5**4, 0.5**3, 0.5**2, 0.5])
    rows = jnp.array([1, 3, 4, 7])
    read = lib.read_outcomes(data, found, rows)
    np.testing.assert_allclose(read["outcome"], np.array(outcome)[np.array(rows)])
    np.testing.assert_allclose(read["outcome_observation"][:, 0], [2.5, 3.5, 7.5, 7.5])


@pytest.mark.parametrize("weight", [[0.0, 0.0, 0.0], [-1.0, 1.0, 1.0], [np.nan, 1.0, 1.0]])
def test_weights_that_are_none_are_refused(data, weight):
    with pytest.raises(UserError, match="finite and not negative"):
        lib.weighted(data, weight)


def test_segments_stay_in_their_episode(data):
    segment = lib.read_segments(data, jnp.array([2, 3, 7, 5]), 3)
    np.testing.assert_array_equal(segment.transition.observation[..., 0], [[0, 1, 2], [3, 3, 3], [5, 6, 7], [4, 4, 5]])
    np.testing.assert_array_equal(segment.mask, [[1, 1, 1], [0, 0, 1], [1, 1, 1], [0, 1, 1]])
    np.testing.assert_array_equal(segment.time, [[0, 1, 2], [0, 0, 0], [1, 2, 3], [0, 0, 1]])
    np.testing.assert_array_equal(segment.return_to_go[2], [18, 13, 7])


def test_the_source_stacks_batches_and_keeps_nothing(data):
    source = sources.at_rest(data, batch_size=5, num_batches=2, gamma=0.9)
    state, batch, metrics = source.next(source.init(None, None), None, None, jax.random.key(0))
    assert state == () and metrics == {} and source.env_steps == 0
    assert batch.transition.reward.shape == (2, 5) and batch.transition.observation.shape == (2, 5, 1)
    np.testing.assert_array_equal(batch.transition.observation[..., 0], batch.slot)


def test_by_episode_lays_out_and_masks(data):
    found, mask = lib.by_episode(data, data.transition.reward, 4)
    np.testing.assert_array_equal(found, [[1, 2, 3, 0], [10, 0, 0, 0], [4, 5, 6, 7]])
    np.testing.assert_array_equal(mask.sum(1), LENGTHS)
    vectors, mask = lib.by_episode(data, data.transition.observation, 2)
    np.testing.assert_array_equal(vectors[..., 0], [[0, 1], [3, 0], [4, 5]])
    assert mask.tolist() == [[True, True], [True, False], [True, True]]


def test_likelihoods_of_the_actions_are_kept_and_other_extras_are_not():
    log_prob = -np.arange(N, dtype=np.float32)
    data = lib.from_transitions(steps().replace(extras={"log_prob": log_prob, "value": log_prob}))
    assert list(data.transition.extras) == ["log_prob"]
    np.testing.assert_array_equal(data.transition.extras["log_prob"], log_prob)
    assert "log_prob" not in lib.read(data, jnp.arange(2), 0.9).transition.extras


def test_joined_data_are_drawn_by_their_number_of_steps_and_within_as_before(data):
    """The second of two parts has the first of its episodes weighted to be never drawn."""
    other = lib.weighted(data, np.array([0.0, 1.0, 1.0]))
    both = lib.joined([data, other])
    assert both.size == 2 * N and both.length.tolist() == [*LENGTHS, *LENGTHS]
    np.testing.assert_array_equal(both.transition.reward, np.tile(data.transition.reward, 2))
    share = np.diff(np.asarray(both.cumulative), prepend=0.0)
    np.testing.assert_allclose(share, [3 / 16, 1 / 16, 4 / 16, 0.0, 0.5 * 1 / 5, 0.5 * 4 / 5], atol=1e-6)


def test_joined_data_keep_what_all_have(data):
    known = lib.from_transitions(steps().replace(extras={"log_prob": np.zeros(N, np.float32)}))
    assert list(lib.joined([known, known]).transition.extras) == ["log_prob"]
    assert list(lib.joined([known, data]).transition.extras) == []
    watched = lib.from_transitions(steps().replace(action=None))
    assert lib.joined([watched, watched]).transition.action is None
    with pytest.raises(UserError, match="Data with actions cannot be joined to data without"):
        lib.joined([data, watched])


def test_first_observations_are_drawn_by_episode_however_long(data):
    """Episodes begin at 0, 3 and 4; the second is to be drawn twice as often as each of the others."""
    first = lib.first_observations(lib.weighted(data, np.array([1.0, 2.0, 1.0])), jax.random.key(0), (2, 2000))
    assert first.shape == (2, 2000, 1)
    frequency = [float((first == x).mean()) for x in (0, 3, 4)]
    np.testing.assert_allclose(frequency, [0.25, 0.5, 0.25], atol=0.03)


def test_starts_stand_beside_the_samples(data):
    source = sources.at_rest(data, batch_size=5, num_batches=2, gamma=0.9)
    _, batch, _ = sources.with_starts(source, data).next((), None, None, jax.random.key(0))
    assert batch.transition.extras["first_observation"].shape == (2, 5, 1)


def test_without_actions_data_can_be_watched_but_not_copied():
    watched = lib.from_transitions(steps().replace(action=None))
    settings = dict(batch_size=5, num_batches=1, gamma=0.9)
    _, batch, _ = sources.at_rest(watched, **settings, actions=False).next((), None, None, jax.random.key(0))
    assert batch.transition.action is None and "next_action" not in batch.transition.extras
    with pytest.raises(UserError, match="These data hold no actions"):
        sources.at_rest(watched, **settings)
