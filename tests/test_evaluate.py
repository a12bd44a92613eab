"""Evaluation: whole first episodes, counted once, and the summary over seeds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs
from rljax.evaluate import evaluate, interquartile_mean
from rljax.types import Agent

RIGHT = Agent(
    lambda key: (), lambda s, observation, m, k, explore: (jnp.full(observation.shape[0], 1 - explore), m, {}), None
)


def test_returns_and_lengths_of_known_episodes():
    episodes = evaluate(envs.make("rljax/Probe-TimeLimit"), RIGHT, (), jax.random.key(0), 4)
    np.testing.assert_array_equal(episodes.returns, [10.0] * 4)
    np.testing.assert_array_equal(episodes.lengths, [10] * 4)
    assert episodes.finished.all()


def test_nothing_is_counted_after_an_episode_ended():
    env = envs.make("gymnax/CartPole-v1")
    episodes = evaluate(env, RIGHT, (), jax.random.key(0), 50)  # always pushing right falls within about ten steps
    assert 7 < episodes.lengths.min() < episodes.lengths.max() < 13
    np.testing.assert_array_equal(episodes.returns, episodes.lengths)


def test_explore_reaches_the_agent():
    env = envs.make("rljax/Probe-ActionReward")
    assert evaluate(env, RIGHT, (), jax.random.key(0), 3, explore=False).returns.tolist() == [1.0] * 3
    assert evaluate(env, RIGHT, (), jax.random.key(0), 3, explore=True).returns.tolist() == [-1.0] * 3


def test_interquartile_mean_leaves_out_a_quarter_at_each_end():
    summary = interquartile_mean(np.array([-1000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0]))
    assert summary["iqm"] == pytest.approx(3.5)  # of 2, 3, 4, 5
    low, high = summary["ci95"]
    assert low < 3.5 < high
    assert summary["mean"] == pytest.approx(21 / 8)


def test_one_seed_has_no_interval_and_failed_seeds_are_left_out():
    assert interquartile_mean(np.array([3.0]))["ci95"] is None
    summary = interquartile_mean(np.array([1.0, np.nan, 3.0]))
    assert summary["failed"] == 1 and summary["iqm"] == pytest.approx(2.0) and summary["per_seed"] == [1.0, None, 3.0]
    assert interquartile_mean(np.array([np.nan]))["iqm"] is None


def test_intervals_are_percentiles_over_all_resamples_and_repeat():
    scores = np.array([0.0, 1.0, 10.0, 100.0])
    resampled = np.sort(np.array(list(itertools.product(scores, repeat=4))), axis=1)
    exact = np.percentile(resampled[:, 1:3].mean(axis=1), (2.5, 97.5))  # a quarter is left out at each end
    found = interquartile_mean(scores)["ci95"]
    np.testing.assert_allclose(found, exact)
    assert interquartile_mean(scores)["ci95"] == found
