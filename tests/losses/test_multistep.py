"""Returns and advantages by hand, with a termination and a time limit in mid-sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import multistep

# Four steps; gamma = lambda = 0.5. Powers of two: all numbers are exact.
REWARD = jnp.array([1.0, 2.0, 3.0, 4.0])
VALUE_TM1 = jnp.array([1.0, 2.0, 4.0, 8.0])
VALUE_T = jnp.array([2.0, 6.0, 8.0, 16.0])  # after the second step not the next episode's 4: what the dynamics led to
GOES_ON = jnp.full(4, 0.5)
ENDS = GOES_ON.at[1].set(0.0)  # with the second step


def test_lambda_advantages_without_an_end():
    # delta = [1 + 1 - 1, 2 + 3 - 2, 3 + 4 - 4, 4 + 8 - 8] = [1, 3, 3, 4]; A_t = delta_t + A_{t+1} / 4
    advantage = multistep.lambda_advantages(REWARD, GOES_ON, GOES_ON, VALUE_TM1, VALUE_T)
    np.testing.assert_allclose(advantage, [1 + 4 / 4, 3 + 4 / 4, 3 + 4 / 4, 4.0])


def test_lambda_advantages_with_a_termination():
    # delta_2 = 2 - 2 = 0 without its bootstrap, and nothing of the next episode
    advantage = multistep.lambda_advantages(REWARD, ENDS, ENDS, VALUE_TM1, VALUE_T)
    np.testing.assert_allclose(advantage, [1.0, 0.0, 4.0, 4.0])


def test_lambda_advantages_with_a_time_limit():
    # delta_2 = 2 + 3 - 2 = 3 with its bootstrap, and nothing of the next episode
    advantage = multistep.lambda_advantages(REWARD, GOES_ON, ENDS, VALUE_TM1, VALUE_T)
    np.testing.assert_allclose(advantage, [1 + 3 / 4, 3.0, 4.0, 4.0])


@pytest.mark.parametrize(
    "discount, trace, expected",
    [
        # G_4 = 4 + 8; G_3 = 3 + .5 (.5 8 + .5 12) = 8; G_2 = 2 + .5 (.5 6 + .5 8) = 5.5; G_1 = 1 + .5 (.5 2 + .5 5.5)
        (GOES_ON, GOES_ON, [2.875, 5.5, 8.0, 12.0]),
        (ENDS, ENDS, [1 + 0.5 * (0.5 * 2 + 0.5 * 2), 2.0, 8.0, 12.0]),  # terminated: G_2 = r_2
        (GOES_ON, ENDS, [1 + 0.5 * (0.5 * 2 + 0.5 * 5), 5.0, 8.0, 12.0]),  # time limit: G_2 = 2 + .5 6
    ],
)
def test_lambda_returns(discount, trace, expected):
    np.testing.assert_allclose(multistep.lambda_returns(REWARD, discount, trace, VALUE_T), expected)


def sequence(seed, length=20, gamma=0.97):
    """Rewards, values and ends at random; within an episode the value after a step is that before the next."""
    rng = np.random.default_rng(seed)
    reward, value_tm1, value_t = rng.normal(size=(3, length)).astype(np.float32)
    terminated = rng.random(length) < 0.15
    truncated = (rng.random(length) < 0.15) & ~terminated
    done = terminated | truncated
    value_t[:-1] = np.where(done[:-1], value_t[:-1], value_tm1[1:])
    return reward, terminated, truncated, gamma * (1.0 - terminated), 1.0 - done, value_tm1, value_t


def on_device(function, *sequences):
    """`function` of numpy sequences."""
    return function(*(jnp.asarray(x, jnp.float32) for x in sequences))


@pytest.mark.parametrize("seed", range(3))
def test_lambda_one_is_discounted_monte_carlo(seed):
    reward, terminated, truncated, discount, trace, value_tm1, value_t = sequence(seed)
    expected, following = np.zeros(20), value_t[-1]
    for t in reversed(range(20)):
        if terminated[t]:
            following = 0.0
        elif truncated[t] or t == 19:
            following = value_t[t]
        following = reward[t] + 0.97 * following
        expected[t] = following
    advantage = on_device(multistep.lambda_advantages, reward, discount, trace, value_tm1, value_t)
    np.testing.assert_allclose(advantage + value_tm1, expected, rtol=1e-4, atol=1e-5)
    returns = on_device(multistep.lambda_returns, reward, discount, trace, value_t)
    np.testing.assert_allclose(returns, expected, rtol=1e-4, atol=1e-5)


def test_lambda_zero_is_one_step():
    reward, _, _, discount, _, value_tm1, value_t = sequence(3)
    advantage = on_device(multistep.lambda_advantages, reward, discount, np.zeros(20, np.float32), value_tm1, value_t)
    np.testing.assert_allclose(advantage, reward + discount * value_t - value_tm1, rtol=1e-5, atol=1e-6)


def test_returns_are_advantages_over_the_value():
    reward, _, _, discount, trace, value_tm1, value_t = sequence(4)
    advantage = on_device(multistep.lambda_advantages, reward, discount, 0.7 * trace, value_tm1, value_t)
    returns = on_device(multistep.lambda_returns, reward, discount, 0.7 * trace, value_t)
    np.testing.assert_allclose(advantage + value_tm1, returns, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "terminated, truncated, expected",
    [
        # gamma = 1/2: 1 + 2/2 + 3/4 + 4/8, bootstrap by gamma^4
        ([0, 0, 0, 0], [0, 0, 0, 0], (3.25, 0.0625, 3)),
        ([0, 1, 0, 0], [0, 0, 0, 0], (2.0, 0.0, 1)),  # terminated: no bootstrap
        ([0, 0, 0, 0], [0, 1, 0, 0], (2.0, 0.25, 1)),  # time limit: bootstrap by gamma^2
        ([0, 0, 0, 1], [0, 1, 0, 0], (2.0, 0.25, 1)),  # the termination is of another episode
        ([1, 0, 0, 0], [0, 0, 0, 0], (1.0, 0.0, 0)),
        ([0, 0, 0, 1], [0, 0, 0, 0], (3.25, 0.0, 3)),
    ],
)
def test_n_step(terminated, truncated, expected):
    as_flags = lambda x: jnp.array(x, bool)
    joined = jax.jit(multistep.n_step)(REWARD, as_flags(terminated), as_flags(truncated), 0.5)
    np.testing.assert_allclose(joined, expected)
