"""Running statistics against numpy, however the data are split."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax import normalize


def test_batches_of_any_size_give_numpys_mean_and_variance():
    data = np.random.RandomState(0).normal(5.0, 3.0, (100, 2)).astype(np.float32)
    statistics = normalize.init((2,))
    for part in np.split(data, [1, 7, 60]):
        statistics = normalize.update(statistics, jnp.asarray(part))
    assert statistics.count == 100
    np.testing.assert_allclose(statistics.mean, data.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics.variance, data.var(0), rtol=1e-4)


def test_leading_axes_are_all_batch():
    data = jnp.asarray(np.random.RandomState(0).normal(size=(3, 4, 2)), jnp.float32)
    a = normalize.update(normalize.init((2,)), data)
    b = normalize.update(normalize.init((2,)), data.reshape(12, 2))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_merging_is_symmetric_and_leaves_nothing_out():
    a = normalize.update(normalize.init(()), jnp.array([1.0, 2.0]))
    b = normalize.update(normalize.init(()), jnp.array([6.0]))
    for merged in (normalize.merge(a, b), normalize.merge(b, a)):
        np.testing.assert_allclose([merged.count, merged.mean, merged.variance], [3.0, 3.0, 14.0 / 3.0], rtol=1e-6)


def test_large_offsets_do_not_cancel():
    data = np.float32(10_000.0) + np.arange(8, dtype=np.float32)
    statistics = normalize.init(())
    for x in data:
        statistics = normalize.update(statistics, jnp.array([x]))
    np.testing.assert_allclose(statistics.variance, data.astype(np.float64).var(), rtol=1e-3)


def test_normalised_data_and_data_never_seen():
    statistics = normalize.update(normalize.init(()), jnp.array([0.0, 2.0]))
    np.testing.assert_allclose(
        normalize.normalize(statistics, jnp.array([0.0, 1.0, 3.0, 1000.0])), [-1, 0, 2, 10], rtol=1e-5
    )
    np.testing.assert_array_equal(normalize.normalize(normalize.init(()), jnp.array([3.0])), [3.0])
