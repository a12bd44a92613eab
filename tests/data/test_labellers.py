"""Synthetic people at their limits, and their utilities by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.data import labellers as lib

MASK = jnp.array([True, True, True, False])
REWARD = jnp.array([1.0, 2.0, 3.0, 100.0])


def test_returns_of_the_short_sighted():
    assert float(lib.partial_return(REWARD, MASK)) == 6.0
    assert float(lib.partial_return(REWARD, MASK, 0.5)) == pytest.approx(3 + 0.5 * 2 + 0.25 * 1)


def test_regret_is_the_discounted_sum_of_advantages():
    value = np.array([4.0, 1.0, 2.5, 3.0])  # of the observations along the segment, any numbers
    advantages = np.asarray(REWARD)[:3] + 0.9 * value[1:] - value[:-1]
    found = lib.regret(REWARD, MASK, value[0], value[3], 0.9)
    np.testing.assert_allclose(found, (0.9 ** np.arange(3) * advantages).sum(), rtol=1e-6)


def test_criteria_drift():
    criteria, first, last = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])
    found = [lib.mixed_utility(criteria, first, last, share).tolist() for share in (0.0, 0.5, 1.0)]
    assert found == [[1.0, 0.0], [0.5, 1.0], [0.0, 2.0]]


def judged(teacher, utility, count=4000, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    rank, weight = jax.vmap(lambda key: lib.judge(teacher, jnp.array(utility), key))(keys)
    return np.asarray(rank), np.asarray(weight)


def test_without_noise_the_best_is_chosen_and_ties_are_told():
    rank, weight = judged(lib.Teacher(), [0.3, 2.0, 0.3, -1.0], 3)
    assert rank.tolist() == [[1, 0, 1, 2]] * 3 and (weight == 1).all()
    assert judged(lib.Teacher(equal=0.5), [0.3, 2.0, 0.0], 1)[0].tolist() == [[1, 0, 1]]
    assert judged(lib.Teacher(skip=2.5), [0.3, 2.0], 1)[1].tolist() == [0.0]


def test_boltzmanns_choice_is_bradley_and_terrys():
    """Within 4 standard errors of the sigmoid; with more segments the best comes first as often as softmax says."""
    rank, _ = judged(lib.Teacher(temperature=2.0), [1.0, 0.0])
    p = 1.0 / (1.0 + np.exp(-0.5))
    assert abs((rank[:, 0] == 0).mean() - p) < 4 * np.sqrt(p * (1 - p) / 4000)
    rank, _ = judged(lib.Teacher(temperature=1.0), [1.0, 0.0, -1.0])
    p = np.exp([1.0, 0.0, -1.0]) / np.exp([1.0, 0.0, -1.0]).sum()
    assert (np.abs((rank == 0).mean(0) - p) < 4 * np.sqrt(p * (1 - p) / 4000)).all()


def test_thurstones_choice_is_a_normals():
    rank, _ = judged(lib.Teacher(temperature=1.0, noise="gaussian"), [1.0, 0.0])
    p = 0.76025  # Phi(1 / sqrt 2)
    assert abs((rank[:, 0] == 0).mean() - p) < 4 * np.sqrt(p * (1 - p) / 4000)


def test_flips():
    """All turned round at 1; at one half judgements say nothing."""
    assert (judged(lib.Teacher(flip=1.0), [0.0, 1.0, 2.0], 50)[0] == [0, 1, 2]).all()
    rank, _ = judged(lib.Teacher(flip=0.5), [5.0, 0.0])
    assert abs((rank[:, 0] == 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_many_teachers_at_once():
    teachers = lib.Teacher(flip=jnp.array([0.0, 1.0]))
    axes = jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, teachers)
    keys = jax.random.split(jax.random.key(0), 2)
    rank, _ = jax.vmap(lib.judge, (axes, None, 0))(teachers, jnp.array([0.0, 1.0]), keys)
    assert rank.tolist() == [[1, 0], [0, 1]]
