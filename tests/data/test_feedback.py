"""Segments and their judgements: where they may lie, what is read of them, and the files that hold them."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.data import dataset as dataset_lib
from rljax.data import feedback as lib
from rljax.data import files, pairs
from rljax.errors import UserError
from rljax.types import Transition

REAL = pathlib.Path(__file__).parents[3] / "shared" / "data" / "hopper_medium_expert_human_train.npz"
LENGTHS = (5, 2, 4)


@pytest.fixture(scope="module")
def data():
    row = np.arange(sum(LENGTHS))
    ends = np.isin(row, np.cumsum(LENGTHS) - 1)
    column = np.float32(row)[:, None]
    return dataset_lib.from_transitions(
        Transition(column, column, np.float32(row), ends, np.zeros_like(ends), column + 0.5)
    )


def test_segments_lie_within_episodes_and_each_place_is_drawn_alike(data):
    """Of three steps: three places in the first episode, the second one whole, two in the third, the last start included."""
    start, length = jax.jit(lambda key: lib.segments(data, key, (3000, 2), 3))(jax.random.key(0))
    places, counts = np.unique(np.stack([start.ravel(), length.ravel()], 1), axis=0, return_counts=True)
    assert places.tolist() == [[0, 3], [1, 3], [2, 3], [5, 2], [7, 3], [8, 3]]
    assert np.square(counts - 1000.0).sum() / 1000.0 < 20.5  # chi-square, 5 degrees of freedom: once in a thousand


def judged(data, label=(1.0, 0.5, 0.0)):
    starts, lengths = np.array([[0, 5], [7, 1], [2, 7]]), np.array([[5, 2], [4, 3], [3, 4]])
    return data.replace(feedback=lib.pairs(starts, lengths, np.array(label)))


def test_whole_segments_are_read_and_masked(data):
    found = lib.read(judged(data), jnp.array([0, 2]), jax.random.key(0))
    assert found.transition.reward[0, 0].tolist() == [0, 1, 2, 3, 4]
    assert found.transition.reward[0, 1, :2].tolist() == [5, 6]
    assert found.mask.sum(-1).tolist() == [[5, 2], [3, 4]]
    assert found.rank.tolist() == [[1, 0], [0, 1]]


def test_what_is_cut_out_lies_anywhere_in_its_segment(data):
    keys = jax.random.split(jax.random.key(0), 200)
    found = jax.vmap(lambda key: lib.read(judged(data), jnp.array([0]), key, 3))(keys)
    assert set(np.asarray(found.transition.reward[:, 0, 0, 0]).tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(np.diff(found.transition.reward[:, 0, 0]), 1)
    assert (found.transition.reward[:, 0, 1, 0] == 5).all() and (found.mask[:, 0, 1].sum(-1) == 2).all()


def test_labels_become_ranks_and_what_is_between_counts_for_both_orders(data):
    told = judged(data, (1.0, 0.5, 0.8)).feedback
    assert told.rank.tolist() == [[1, 0], [0, 0], [1, 0], [0, 1]]
    np.testing.assert_allclose(told.weight, [1.0, 1.0, 0.8, 0.2], rtol=1e-6)
    assert told.start[3].tolist() == told.start[2].tolist()
    assert lib.labels(told).tolist() == [1.0, 0.5, 1.0, 0.0]
    with pytest.raises(UserError, match="Labels must lie in 0 to 1"):
        judged(data, (1.0, 0.5, 1.1))
    with pytest.raises(UserError, match="3 pairs need as many labels"):
        judged(data, (1.0, 0.5))


def test_a_dataset_without_judgements_is_refused(data):
    with pytest.raises(UserError, match="no judgements to learn from: make some by .preferences=NUMBER"):
        lib.draw(data, jax.random.key(0), 4)


def arrays(count=3, length=4):
    rng = np.random.default_rng(0)
    shape = (count, length)
    return {
        "obs_1": rng.normal(size=(*shape, 2)),
        "obs_2": rng.normal(size=(*shape, 2)),
        "action_1": rng.uniform(-1, 1, (*shape, 1)),
        "action_2": rng.uniform(-1, 1, (*shape, 1)),
        "label": np.array([1.0, 0.5, 0.0])[:count],
    }


def test_files_of_pairs_are_read_and_written_again(tmp_path):
    given = arrays()
    np.savez(tmp_path / "one.npz", **given)
    data = files.load(str(tmp_path / "one.npz"))
    assert len(data.start) == 6 and data.feedback.longest == 3 and not data.transition.terminated.any()
    found = lib.read(data, jnp.arange(3), jax.random.key(0))
    np.testing.assert_allclose(found.transition.observation[:, 1], given["obs_2"][:, :-1], rtol=1e-6)
    np.testing.assert_allclose(found.transition.next_observation[:, 0], given["obs_1"][:, 1:], rtol=1e-6)
    np.testing.assert_allclose(found.transition.action[:, 0], given["action_1"][:, :-1], rtol=1e-6)
    pairs.save(tmp_path / "two.npz", data)
    again = files.load(str(tmp_path / "two.npz"))
    jax.tree.map(np.testing.assert_array_equal, again, data)
    with pytest.raises(UserError, match="holds judgements of its segments: .every cannot"):
        files.load(str(tmp_path / "one.npz") + "?every=2")


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"label": np.array([1.0, 0.5])}, "labels of shape .2,. for 3 pairs"),
        ({"label": np.array([1.0, 0.5, -1.0])}, "Labels must lie in 0 to 1"),
        ({"label": np.array([1.0, np.nan, 0.0])}, "NaN or infinite numbers in label"),
        ({"obs_2": np.zeros((3, 5, 2))}, "segments must be equally long"),
        ({"action_2": np.zeros((3, 4, 2))}, "action_1 of shape .3, 4, 1. but action_2"),
        ({"action_1": np.zeros((3, 3, 1)), "action_2": np.zeros((3, 3, 1))}, "both begin with .P, K."),
        ({"obs_1": None}, "lacks obs_1"),
        ({"label": np.array([None] * 3)}, "nothing is ever unpickled|cannot be read"),
    ],
    ids=lambda x: None if isinstance(x, dict) else x[:12],
)
def test_bad_files_of_pairs_are_one_sentence(tmp_path, change, sentence):
    given = {name: x for name, x in (arrays() | change).items() if x is not None}
    if "obs_1" not in given:
        given["obs_1_"] = given["obs_2"]
    np.savez(tmp_path / "bad.npz", **given)
    if "obs_1" not in given:
        with pytest.raises(UserError, match="lacks obs_1"):
            pairs.to_arrays(given, "bad.npz")
        return
    with pytest.raises(UserError, match=sentence):
        files.load(str(tmp_path / "bad.npz"))


@pytest.mark.skipif(not REAL.exists(), reason="data made by others are not here")
def test_peoples_judgements_of_hopper():
    """28 of 100 are ties; the segments are of 100 steps, of which 99 are known to the end."""
    data = files.load(str(REAL))
    assert data.size == 19_800 and data.feedback.longest == 99
    label = lib.labels(data.feedback)
    assert (label == 0.5).sum() == 28 and len(label) == 100


def test_paid_in_time_order_each_episode_remembers_its_own(data):
    """Each step is paid the sum of what its episode was paid so far, times 2; several episodes at a time or all at once."""
    reward = lambda steps, total: (2.0 * (total + steps.reward), total + steps.reward)
    expected = 2.0 * np.concatenate([np.cumsum(x) for x in np.split(np.arange(11.0), np.cumsum(LENGTHS)[:-1])])
    for at_once in (2, None):
        found = jax.jit(dataset_lib.paid, static_argnums=(1, 2))(data, reward, at_once, jnp.float32(0.0))
        np.testing.assert_allclose(found.transition.reward, expected)
        np.testing.assert_allclose(
            found.return_to_go[np.array([0, 5, 6])], [expected[:5].sum(), expected[5:7].sum(), 22]
        )
    np.testing.assert_array_equal(found.transition.observation, data.transition.observation)


def test_paid_otherwise_returns_begin_anew_with_each_episode(data):
    found = dataset_lib.paid(data, lambda steps: jnp.ones_like(steps.reward), 4)
    assert found.return_to_go.tolist() == [5, 4, 3, 2, 1, 2, 1, 4, 3, 2, 1]
    same = dataset_lib.paid(data, lambda steps: steps.reward)
    for field in dataclasses.fields(data):
        jax.tree.map(np.testing.assert_array_equal, getattr(same, field.name), getattr(data, field.name))


def test_overlapping_segments_lie_within_the_episode_and_nobody_judged_them(data):
    """Of three steps; the second episode has but two, so both are all of it."""
    found = jax.jit(lambda key: lib.overlapping(data, key, 2000, 3, 1.5))(jax.random.key(0))
    first = np.asarray(found.transition.reward[..., 0])
    episode = np.searchsorted(np.cumsum(LENGTHS), first, side="right")
    assert (episode[:, 0] == episode[:, 1]).all() and set(episode[:, 0]) == {0, 1, 2}
    assert (found.mask.sum(-1) == np.minimum(np.array(LENGTHS)[episode], 3)).all()
    assert ((first + found.mask.sum(-1))[:, 1] <= np.cumsum(LENGTHS)[episode[:, 0]]).all()
    middle = first[:, 0] == 1
    share = [(first[middle, 1] == place).mean() for place in range(3)]
    tail = 0.3694  # of a standard normal above 0.5 / 1.5, which is rounded up to a step or more
    np.testing.assert_allclose(share, [tail, 1 - 2 * tail, tail], atol=0.06)
    assert not found.weight.any() and not found.rank.any()
    into = first - np.array([0, 5, 7])[episode]
    np.testing.assert_array_equal(found.transition.extras["time"][..., 0], into)


def test_without_spread_segments_overlap_wholly(data):
    found = lib.overlapping(data, jax.random.key(0), 20, 3, 0.0)
    np.testing.assert_array_equal(found.transition.reward[:, 0], found.transition.reward[:, 1])


def drawn(data, score, **options):
    """Which rows the two snippets of a pair begin with, and how often; of 12,000 pairs."""
    starts, lengths = jax.jit(lambda key: lib.snippets(data, np.array(score), key, 12_000, 3, **options))(
        jax.random.key(0)
    )
    assert (lengths[:, 0] == lengths[:, 1]).all()
    places, counts = np.unique(np.concatenate([starts, lengths[:, :1]], 1), axis=0, return_counts=True)
    return {tuple(place): count for place, count in zip(places.tolist(), counts)}


def test_snippets_of_ranked_episodes_the_better_one_no_earlier(data):
    """By hand, of the first (5 steps) above the third (4), above the second (2): better row, worse row, steps."""
    expected = {
        **{(0, 7, 3): 1 / 18, (1, 7, 3): 1 / 18, (2, 7, 3): 1 / 18, (1, 8, 3): 1 / 12, (2, 8, 3): 1 / 12},
        **{(row, 5, 2): 1 / 12 for row in (0, 1, 2, 3)},
        **{(row, 5, 2): 1 / 9 for row in (7, 8, 9)},
    }
    found = drawn(data, [2.0, 0.0, 1.0])
    assert set(found) == set(expected)
    size = {place: 12_000 * share for place, share in expected.items()}
    assert sum((found[p] - size[p]) ** 2 / size[p] for p in size) < 31.3  # chi-square, 11 degrees: once in a thousand


def test_snippets_from_anywhere_and_of_episodes_that_are_far_apart(data):
    assert (0, 8, 3) in drawn(data, [2.0, 0.0, 1.0], later=False)
    assert set(drawn(data, [2.0, 0.0, 1.0], margin=1.0)) == {(row, 5, 2) for row in (0, 1, 2, 3)}
    level = drawn(data, [1.0, 1.0, 0.0])  # the first two, which are never compared
    assert set(level) == {(0, 7, 3), (1, 7, 3), (2, 7, 3), (1, 8, 3), (2, 8, 3), (5, 7, 2)}
    with pytest.raises(UserError, match="No two of the 3 episodes have scores more than 2 apart, so none is ranked"):
        lib.snippets(data, np.array([2.0, 0.0, 1.0]), jax.random.key(0), 5, 3, 2.0)
