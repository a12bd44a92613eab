"""Objectives of pre-training: values by numpy, slopes by hand, and what they come to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.errors import UserError
from rljax.losses import pretraining as lib

OPTIONS = lib.Options(threshold=0.4, unlikelihood_weight=0.7, beta=0.5, max_weight=3.0)
P = np.array([0.9, 0.3, 0.05])
VALUE = np.array([0.1, 0.6, -0.5])
NUMPY = {  # of a reward
    "mle": lambda r: -np.log(P),
    "unlikelihood": lambda r: -np.log(P) if r > 0.4 else -0.7 * np.log(1.0 - P),
    "rwr": lambda r: -np.minimum(np.exp(r / 0.5), 3.0) * np.log(P),
    "awr": lambda r: -np.minimum(np.exp((r - VALUE) / 0.5), 3.0) * np.log(P),
}


@pytest.mark.parametrize("reward", [0.3, 0.5, -0.2])
@pytest.mark.parametrize("name", lib.OBJECTIVES)
def test_losses_and_slopes(name, reward):
    """Weights are constants: in p the slope of each is that of its own logarithm."""
    value = jnp.float32(VALUE if name == "awr" else np.zeros(3))
    loss = lambda log_prob, value: lib.OBJECTIVES[name](log_prob, jnp.float32(reward), value, OPTIONS)
    by_hand = NUMPY.get(name, NUMPY["mle"])(reward)
    log_prob = jnp.float32(np.log(P))
    np.testing.assert_allclose(loss(log_prob, value), by_hand, rtol=1e-5)
    slope, of_value = jax.grad(lambda *x: loss(*x).sum(), (0, 1))(log_prob, value)
    unlearned = name == "unlikelihood" and reward <= 0.4
    np.testing.assert_allclose(slope, 0.7 * P / (1.0 - P) if unlearned else by_hand / np.log(P), rtol=1e-5)
    np.testing.assert_array_equal(of_value, 0.0)


def test_what_is_certain_is_unlearned_without_infinities():
    loss = lambda log_prob: lib.unlikelihood(log_prob, jnp.float32(0.0), jnp.zeros(3), OPTIONS)
    certain = jnp.float32([0.0, -1e-9, -1e-3])
    value, slope = loss(certain), jax.grad(lambda x: loss(x).sum())(certain)
    assert np.isfinite(value).all() and (value > 4.0).all()
    np.testing.assert_allclose(slope, [0.0, 0.0, 0.7 / np.expm1(1e-3)], rtol=1e-3)


@pytest.mark.parametrize("name", ["rwr", "awr"])
def test_weights_tilt_the_data_alike(name, float64):
    """Of trees of two tokens, whose values are what the reward is expected to be, the best policy is in proportion to the data's
    times the mean of e^(reward / beta): the gradient is 0 there."""
    rng = np.random.default_rng(0)
    law, reward = rng.dirichlet(np.ones(9)).reshape(3, 3), rng.uniform(size=(3, 3))
    value = np.stack(
        [np.full((3, 3), (law * reward).sum()), np.repeat((law * reward).sum(1) / law.sum(1), 3).reshape(3, 3)], -1
    )
    best = law * np.exp(reward / 0.7)
    best = best / best.sum()
    options = lib.Options(beta=0.7)

    def loss(theta):
        first, second = jax.nn.log_softmax(theta[0]), jax.nn.log_softmax(theta[1:])
        log_prob = jnp.stack([jnp.broadcast_to(first[:, None], (3, 3)), second], -1)
        objective = jax.vmap(jax.vmap(lib.OBJECTIVES[name], (0, 0, 0, None)), (0, 0, 0, None))
        return (
            law[..., None] * objective(log_prob, jnp.asarray(reward), value if name == "awr" else 0.0 * value, options)
        ).sum()

    first = best.sum(1)
    theta = jnp.log(jnp.asarray(np.vstack([first, best / first[:, None]])))
    slope = jax.grad(loss)
    np.testing.assert_allclose(slope(theta), 0.0, atol=1e-12)
    assert np.abs(slope(jnp.log(jnp.asarray(np.vstack([law.sum(1), law]))))).max() > 0.01


@pytest.mark.parametrize(
    "name, options, sentence",
    [
        ("conditonal", {}, "There is no objective 'conditonal'; nearest: conditional"),
        ("rwr", dict(beta=0.0), "beta=0.0 must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(name, options, sentence):
    with pytest.raises(UserError, match=sentence):
        lib.check(name, lib.Options(**options))
