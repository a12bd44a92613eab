"""What judgements are owed to: counts and shares by numpy, and rewards that already are their shares. What completions are owed to:
policy gradients over all sequences of a small tree."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import symbols as symbols_lib
from rljax.errors import UserError
from rljax.losses import credit as lib
from rljax.types import Discrete, EnvSpec

MASK = np.arange(5) < np.array([[5, 3, 4], [1, 5, 2]])[..., None]  # [B, G, K]


def test_credit_counts_steps_of_better_and_worse_segments():
    """Of a ranking of three with a tie, and of one that says half as much; by loops over pairs. The last symbol was never seen."""
    rng = np.random.default_rng(0)
    which, rank, weight = rng.integers(0, 4, (2, 3, 5)), np.array([[1, 0, 1], [2, 0, 1]]), np.array([1.0, 0.5])
    preferred, rejected = np.zeros(5), np.zeros(5)
    for b, i, j in np.ndindex(2, 3, 3):
        if rank[b, i] < rank[b, j]:
            for k in range(5):
                preferred[which[b, i, k]] += weight[b] * MASK[b, i, k]
                rejected[which[b, j, k]] += weight[b] * MASK[b, j, k]
    found = lib.credit(*map(jnp.asarray, (which, MASK, rank)), jnp.float32(weight), 5)
    np.testing.assert_allclose(found, (preferred + 1) / (preferred + rejected + 2), rtol=1e-6)
    assert float(found[4]) == 0.5 and np.ptp(found) > 0.1
    nobody = lib.credit(*map(jnp.asarray, (which, MASK, np.zeros_like(rank))), jnp.ones(2), 5)
    np.testing.assert_array_equal(nobody, 0.5)


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_returns_are_shared_by_credit_and_those_below_0_by_the_rest(shift):
    """Loss and gradient by hand; the return is a constant, so a step's gradient is its own deviation alone."""
    rng = np.random.default_rng(1)
    reward, owed, mask = rng.normal(size=5) + shift, rng.uniform(0.1, 0.9, 5), np.arange(5) < 4
    total = reward[:4].sum()
    assert np.sign(total) == np.sign(shift)
    importance = owed[:4] if total > 0 else 1 - owed[:4]
    off = np.append(reward[:4] - total * importance / importance.sum(), 0.0)
    loss, slope = jax.value_and_grad(lib.sharing_loss)(jnp.float32(reward), jnp.float32(owed), jnp.asarray(mask))
    np.testing.assert_allclose(loss, np.square(off).sum() / 4, rtol=1e-5)
    np.testing.assert_allclose(slope, 2 * off / 4, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("total", [3.0, -3.0])
def test_rewards_that_are_their_shares_are_left_alone_and_no_others(total):
    owed, mask = np.array([0.2, 0.5, 0.9, 0.4]), np.arange(4) < 3
    importance = np.where(mask, owed if total > 0 else 1 - owed, 0.0)
    shares = jnp.float32(total * importance / importance.sum())
    slope = lambda rewards: jax.grad(lib.sharing_loss)(rewards, jnp.float32(owed), jnp.asarray(mask))
    np.testing.assert_allclose(slope(shares), 0.0, atol=1e-6)
    assert np.abs(slope(shares[jnp.array([1, 0, 2, 3])])).max() > 0.05
    empty = jax.value_and_grad(lib.sharing_loss)(shares, jnp.float32(owed), jnp.zeros(4, bool))
    assert float(empty[0]) == 0.0 and (np.asarray(empty[1]) == 0.0).all()


def test_symbols():
    """States are told by their ones; projections put near observations together, opposite ones on opposite sides of each plane."""
    spec = EnvSpec((6,), Discrete(2))
    states, planes = symbols_lib.make("states", spec), symbols_lib.projections(spec, bits=5)
    np.testing.assert_array_equal(states.of(jnp.eye(6)), np.arange(6))
    seen = jax.random.normal(jax.random.key(0), (3, 40, 6))
    which = planes.of(seen)
    assert states.number == 6 and planes.number == 32 and which.shape == (3, 40)
    np.testing.assert_array_equal(which + planes.of(-seen), 31)
    np.testing.assert_array_equal(which, planes.of(2.0 * seen))
    assert len(np.unique(which)) > 16 and (planes.of(seen + 1e-6) == which).mean() > 0.99
    image = symbols_lib.projections(EnvSpec((2, 3), Discrete(2)), bits=5)
    np.testing.assert_array_equal(image.of(seen.reshape(3, 40, 2, 3)), which)
    with pytest.raises(UserError, match="no symbols 'state'; nearest: states"):
        symbols_lib.make("state", spec)
    with pytest.raises(UserError, match="one-hot vectors, not observations of shape \\(2, 3\\)"):
        symbols_lib.states(EnvSpec((2, 3), Discrete(2)))


# --- Completions: three tokens of three kinds, by policies with a law of their own in each of 13 contexts.

SEQUENCES = np.array(list(itertools.product(range(3), repeat=3)))
CONTEXT = np.stack([np.zeros(27, int), 1 + SEQUENCES[:, 0], 4 + 3 * SEQUENCES[:, 0] + SEQUENCES[:, 1]], axis=1)
PAID = np.random.default_rng(2).uniform(size=27)
POLICY, OTHER = np.random.default_rng(3).normal(size=(2, 13, 3))


def law_of(theta):
    """Of each token that is drawn [27, 3]."""
    return jax.nn.softmax(jnp.asarray(theta))[CONTEXT, SEQUENCES]


def values_of(theta):
    """What is paid in the mean before each token of each sequence, and at last [27, 4], by sums over those that begin alike."""
    law, value = np.asarray(law_of(theta)), np.empty((27, 4))
    for i, t in np.ndindex(27, 4):
        alike = (SEQUENCES[:, :t] == SEQUENCES[i, :t]).all(axis=1)
        value[i, t] = (law[:, t:].prod(axis=1) * PAID)[alike].sum()
    return value


def ascent(weight):
    """E[sum_t grad log pi(token t) weight_t] over all sequences, by the policy."""
    law = np.asarray(law_of(POLICY)).prod(axis=1)
    return jax.grad(lambda theta: (law[:, None] * jnp.log(law_of(theta)) * weight).sum())(jnp.asarray(POLICY))


def policy_gradient():
    return jax.grad(lambda theta: law_of(theta).prod(axis=1) @ PAID)(jnp.asarray(POLICY))


def test_progress_telescopes(float64):
    """To what was paid, less the value of the prompt: returns to go of it are the policy gradient, whoever the prover is."""
    value = values_of(OTHER)
    progress = np.asarray(jax.vmap(lib.process_advantages)(jnp.asarray(value)))
    np.testing.assert_allclose(progress.sum(axis=1), PAID - value[:, 0], atol=1e-12)
    to_go = np.cumsum(progress[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(ascent(to_go), policy_gradient(), atol=1e-12)


def effective(prover, alpha):
    progress = jax.vmap(lib.process_advantages)(jnp.asarray(values_of(prover)))
    return jax.vmap(lib.effective_rewards, (0, 0, None))(jnp.asarray(PAID), progress, alpha)


def test_a_prover_that_is_the_policy_tells_nothing_new(float64):
    np.testing.assert_allclose(ascent(effective(POLICY, 0.7)), 1.7 * policy_gradient(), atol=1e-12)
    np.testing.assert_allclose(effective(OTHER, 0.0), np.repeat(PAID[:, None], 3, axis=1))


def test_another_prover_moves_each_step_to_what_it_values(float64):
    """By the gradient of E[A] of each step, in contexts that come up as often as the policy has them come up now; which leads
    elsewhere."""
    law, progress = np.asarray(law_of(POLICY)), np.diff(values_of(OTHER), axis=1)
    before = (
        np.cumprod(law, axis=1) / law
    )  # how often a context comes up, by each of the 27, 9 or 3 sequences that have it
    times = before / np.array([9.0, 3.0, 1.0])
    per_step = lambda theta: (times * law_of(theta) * progress).sum()
    besides = jax.grad(per_step)(jnp.asarray(POLICY))
    np.testing.assert_allclose(ascent(effective(OTHER, 0.7)), policy_gradient() + 0.7 * besides, atol=1e-12)
    one, other = policy_gradient().ravel(), besides.ravel()
    assert one @ other < 0.9 * np.linalg.norm(one) * np.linalg.norm(other)


@pytest.mark.parametrize(
    "value, level, expected",
    [
        ([0.5, 0.75, 0.0, 0.0], 0.0, 1),  # falls once
        ([0.5, 0.0, 0.25, 0.0], 0.0, 0),  # by chance twice: the first counts
        ([0.0, 0.0, 0.25, 0.0], 0.0, 2),  # by chance not from the prompt
        ([0.5, 0.6, 0.4, 0.0], 0.0, 2),  # with the last step alone
        ([0.5, 0.6, 0.4, 0.0], 0.45, 1),
        ([0.0, 0.0, 0.0, 0.0], 0.0, None),  # nobody came to a right answer from anywhere
        ([0.5, 0.0, 0.5, 1.0], 0.0, None),  # it was right
    ],
)
def test_the_first_pit(value, level, expected):
    pit, there = lib.first_pit(jnp.float32(value), level)
    assert bool(there) == (expected is not None) and (expected is None or int(pit) == expected)
