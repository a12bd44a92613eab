"""Rewards of commands: gradients by visits, and what they are worth in layouts and for commands that were never seen."""

import jax
import numpy as np

from rljax.agents.inverse import language
from rljax.experiments.studies.commands import DISCOUNT, measure, tasks_of


def test_the_loss_is_the_mean_over_tasks_of_likelihoods_in_numpy():
    """And learning raises the likelihood; the policies returned are those that have it."""
    tasks, _ = jax.jit(lambda key: tasks_of(key, 3, 2, size=2, num_objects=2))(jax.random.key(0))
    learner = language.make(language.Config(hidden=(8,), tolerance=1e-6))
    state = learner.init(jax.random.key(1), tasks)
    after, metrics = jax.jit(learner.update)(state, tasks)
    found = np.asarray(jax.jit(learner.policy)(state, tasks))
    losses = []
    for i in range(3):
        transition, policy = np.asarray(tasks.shown.transition[i]), np.asarray(found[i], np.float64)
        # a soft-optimal policy's reward is log pi + V - gamma E V': of states alone if and only if that is so for all actions
        log_policy, value = np.log(policy), np.zeros(len(policy))
        lstsq = []
        for s in range(len(policy)):
            for a in range(1, policy.shape[1]):
                lstsq.append((log_policy[s, a] - log_policy[s, 0], DISCOUNT * (transition[s, a] - transition[s, 0])))
        target, matrix = (np.array(x) for x in zip(*lstsq, strict=True))
        value, *_ = np.linalg.lstsq(matrix, target, rcond=None)
        np.testing.assert_allclose(matrix @ value, target, atol=1e-4)
        visits = np.asarray(tasks.shown.visits[i])
        losses.append(-(visits * log_policy).sum() / visits.sum())
    np.testing.assert_allclose(metrics["loss/reward"], np.mean(losses), rtol=1e-4)
    assert jax.jit(learner.update)(after, tasks)[1]["loss/reward"] < metrics["loss/reward"]


def test_new_layouts_are_no_matter_for_rewards_and_are_for_clones():
    options = (("size", 3), ("num_objects", 2), ("bring", False))
    config = language.Config(learning_rate=1e-2, hidden=(32,))
    reward, clone, best = np.asarray(measure(jax.random.key(0), 48, 120, config, options))[:, 0]
    assert best > 0.9 and reward > 0.85 * best and clone < 0.6 * reward
