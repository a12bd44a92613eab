"""Rewards of commands: gradients by visits, and what they are worth in layouts and for commands that were never seen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rljax.agents.inverse import language
from rljax.agents.inverse.finite import Demonstrations
from rljax.envs import commands
from rljax.tabular import solvers

DISCOUNT, LENGTH, REWARD = 0.9, 15, 5.0


def soft_policy(transition, reward):
    return solvers.soft_policy(solvers.optimal_q(transition, reward, DISCOUNT, solvers.soft_value, 1e-3))


def demonstrated(key, layout, num_episodes):
    """Visits [S, A] and arrivals [S] of episodes of who is soft-optimal."""
    reward = jnp.broadcast_to(REWARD * layout.goal[:, None], layout.transition.shape[:2])
    log_policy = jnp.log(soft_policy(layout.transition, reward))
    successor = layout.transition.argmax(-1)

    def step(carry, key):
        state, visits, arrivals = carry
        action = jax.random.categorical(key, log_policy[state])
        later = successor[state, action]
        visits = visits.at[jnp.arange(num_episodes), state, action].add(1.0)
        return (later, visits, arrivals.at[later].add(1.0)), None

    state = jnp.full(num_episodes, layout.start.argmax())
    none = jnp.zeros((num_episodes, *reward.shape))
    carry = (state, none, jnp.zeros(reward.shape[0]))
    (_, visits, arrivals), _ = jax.lax.scan(step, carry, jax.random.split(key, LENGTH))
    return visits.sum(0), arrivals


def tasks_of(key, num, num_episodes=1, **options):
    """`num` random tasks with demonstrations, and their goals [B, S]."""
    layout_key, show_key = jax.random.split(key)
    layouts = jax.vmap(lambda key: commands.commanded(key, **options))(jax.random.split(layout_key, num))
    show = lambda key, layout: demonstrated(key, layout, num_episodes)
    visits, arrivals = jax.vmap(show)(jax.random.split(show_key, num), layouts)
    none = jnp.zeros(layouts.goal.shape, bool)
    discount = jnp.full(num, DISCOUNT)
    shown = Demonstrations(visits, arrivals, layouts.transition, discount, layouts.start, none)
    return language.Tasks(shown, layouts.features, layouts.command, layouts.view), layouts.goal


def successes(policy, tasks, goal):
    """The chance to be where the command is done after LENGTH steps, [B]."""

    def one(policy, shown, goal):
        policies = jnp.broadcast_to(policy, (LENGTH + 1, *policy.shape))
        return solvers.occupancy_until(shown.transition, policies, shown.start)[-1] @ goal

    return jax.vmap(one)(policy, tasks.shown, goal)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def measure(key, num_tasks=64, num_updates=300, config=language.Config(), options=()):
    """Success of the learned reward's policy, of the clone's (as they draw actions) and of a demonstrator, in new layouts: with
    commands as in training, and new ones. [3, 2]"""
    options = dict(options)
    train_key, test_key, novel_key, reward_key, clone_key = jax.random.split(key, 5)
    tasks, _ = tasks_of(train_key, num_tasks, **options)
    tests = [tasks_of(test_key, 64, **options), tasks_of(novel_key, 64, novel=True, **options)]
    found = []
    for learner, key in (
        (language.make(config), reward_key),
        (language.cloning(commands.NUM_ACTIONS, config), clone_key),
    ):
        state = learner.init(key, tasks)

        def step(state, key, learner=learner):
            batch = jax.random.permutation(key, num_tasks)[: min(16, num_tasks)]
            return learner.update(state, jax.tree.map(lambda x: x[batch], tasks))[0], None

        state, _ = jax.lax.scan(step, state, jax.random.split(key, num_updates))
        found.append([successes(learner.policy(state, test), test, goal).mean() for test, goal in tests])
    best = []
    for test, goal in tests:
        reward = jnp.broadcast_to(REWARD * goal[..., None], test.shown.visits.shape)
        best.append(successes(jax.vmap(soft_policy)(test.shown.transition, reward), test, goal).mean())
    return jnp.array([*found, best])


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
