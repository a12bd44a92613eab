"""What a reward learned of commands is worth where it was not learned: in new layouts, and for commands never heard.

  python -m rljax.experiments.studies.commands --num_seeds=5

The share of episodes that end where the command is done, of the soft-optimal policy of the learned reward, of a clone that reads
layout and command, and of who demonstrated. Fu, Korattikara, Levine & Guadarrama, 2019, arXiv:1902.07742.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from rljax.agents.inverse import language
from rljax.agents.inverse.finite import Demonstrations
from rljax.envs import commands
from rljax.experiments import cli
from rljax.tabular import solvers

FLAGS = flags.FLAGS
DISCOUNT, LENGTH, REWARD = 0.9, 15, 5.0


def main(argv):
    cli.reject_arguments(argv)
    config = language.Config(learning_rate=1e-2, hidden=(32,))
    options = (("size", FLAGS.size), ("num_objects", FLAGS.num_objects), ("bring", FLAGS.bring))
    of = lambda seed: measure(jax.random.key(seed), FLAGS.num_tasks, FLAGS.num_updates, config, options)
    found = np.stack([of(seed) for seed in range(FLAGS.num_seeds)])
    for i, title in enumerate(("commands as in training", "commands never heard")):
        names = ("learned reward", "clone", "demonstrator")
        cli.print_scores(f"success in new layouts, {title}", dict(zip(names, found[:, :, i].T, strict=True)))


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


def entry():
    flags.DEFINE_integer("num_seeds", 5, "Of tasks, demonstrations and learners.", lower_bound=1)
    flags.DEFINE_integer("num_tasks", 64, "To learn from.", lower_bound=1)
    flags.DEFINE_integer("num_updates", 300, "Of either learner, of 16 tasks.", lower_bound=1)
    flags.DEFINE_integer("size", 3, "Cells of a layout, either way.", lower_bound=1)
    flags.DEFINE_integer("num_objects", 2, "Things in a layout.", lower_bound=1)
    flags.DEFINE_bool("bring", False, "Half of the commands are to bring something.")
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    entry()
