"""Losses of unrolled models by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.losses import latent

SUPPORT = jnp.array([-1.0, 0.0, 3.0])


def inputs(mask):
    """Two steps; the second, if it belongs, terminates."""
    return dict(
        features=jnp.array([[1.0, 2.0], [0.0, 4.0]]),
        reward_logits=jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]])),
        termination=jnp.array([0.5, 0.25]),
        features_t=jnp.array([[0.0, 4.0], [1.0, 1.0]]),
        reward_t=jnp.array([1.0, -0.5]),
        terminated_t=jnp.array([False, True]),
        mask=jnp.array(mask),
        support=SUPPORT,
    )


def test_by_hand():
    features, reward, termination = latent.unrolled(**inputs([True, True]))
    np.testing.assert_allclose(features, (1.0 + 4.0) / 2 + (1.0 + 9.0) / 2)
    # 1 is [0, 2/3, 1/3], -0.5 is [1/2, 1/2, 0]
    first = 2 / 3 * np.log((2 / 3) / 0.25) + 1 / 3 * np.log((1 / 3) / 0.25)
    second = 0.5 * np.log(0.5 / 0.2) + 0.5 * np.log(0.5 / 0.3)
    np.testing.assert_allclose(reward, first + second, rtol=1e-6)
    np.testing.assert_allclose(termination, 0.25 + 0.5625)


def test_what_is_masked_counts_for_nothing_and_targets_are_constants():
    total = lambda given: sum(latent.unrolled(**given))
    given = inputs([True, False])
    np.testing.assert_allclose(latent.unrolled(**given)[0], 2.5)
    floats = {name: x for name, x in given.items() if x.dtype == jnp.float32}
    slopes = jax.grad(lambda x: total(given | x))(floats)
    for name in ("features", "reward_logits", "termination"):
        assert (slopes[name][0] != 0.0).any() and (slopes[name][1] == 0.0).all()
    assert (slopes["features_t"] == 0.0).all() and (slopes["reward_t"] == 0.0).all()
    other = given | {"features_t": given["features_t"].at[1].set(jnp.nan), "reward_t": jnp.array([1.0, 9.0])}
    np.testing.assert_array_equal(total(other), total(given))
