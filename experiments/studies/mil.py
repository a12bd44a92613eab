"""Can rewards that depend on the past be learned from the returns of whole episodes, and what does it cost not to remember?

  python -m rljax.experiments.studies.mil --num_seeds=5

Random episodes in two tasks whose treasure pays by a hidden timer or a key, chosen so that all outcomes are there as often as may
be; told is the squared error of returns and of single rewards, which nobody was told, in episodes that were held out. Early et
al., 2022, "Non-Markovian Reward Modelling from Trajectory Labels via Interpretable Multiple Instance Learning".
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import rljax
from rljax import train
from rljax.agents.preference import mil
from rljax.data import dataset as dataset_lib
from rljax.data.collect import collect, uniform
from rljax.envs import treasure
from rljax.experiments import cli
from rljax.types import Env, Transition

FLAGS = flags.FLAGS
TASKS = {"timer": treasure.timer_treasure, "key": treasure.key_treasure}
SMALL = mil.Config(learning_rate=1e-2, anneal_learning_rate=True, hidden=(32, 32), units=8, head=(32,), batch_size=64)


def main(argv):
    cli.reject_arguments(argv)
    for task in FLAGS.tasks:
        env = TASKS[task]()
        data = episodes(env, FLAGS.num_seeds, FLAGS.train, FLAGS.held_out)
        found = {kind: errors(env, SMALL.replace(kind=kind), data, FLAGS.updates) for kind in FLAGS.kinds}
        for i, what in enumerate(("returns", "rewards")):
            scores = {kind: found[kind][i] for kind in FLAGS.kinds}
            cli.print_scores(f"{task}: squared error of {what}", scores)
            if "instance" in scores:
                shares = {kind: scores[kind] / scores["instance"] for kind in scores if kind != "instance"}
                cli.print_scores(f"{task}: that error as a share of `instance`'s", shares)


def episodes(env: Env, num_seeds: int, count: int, held_out: int) -> tuple[dataset_lib.Dataset, dataset_lib.Dataset]:
    """For each seed `count` episodes of random actions to learn from, and others to be tested on."""
    length, pool = env.spec.episode_length, 20 * (count + held_out)
    record = jax.jit(lambda key: collect(env, uniform(env), (), key, pool, length, True, True))
    both = []
    for seed in range(num_seeds):
        steps = jax.device_get(record(jax.random.key(seed)))
        by_episode = jax.tree.map(lambda x: x.reshape(pool, length, *x.shape[1:]), steps)
        found = evenly(outcomes(env, by_episode))[: count + held_out]
        found = np.random.default_rng(seed).permutation(found)
        steps = by_episode.replace(extras={})
        both.append([of_episodes(steps, found[:count]), of_episodes(steps, found[count:])])
    return tuple(jax.tree.map(lambda *x: jnp.stack(x), *data) for data in zip(*both))


def of_episodes(steps: Transition, which: np.ndarray) -> dataset_lib.Dataset:
    """Some of the episodes [E, T]."""
    return dataset_lib.from_transitions(jax.tree.map(lambda x: x[which].reshape(-1, *x.shape[2:]), steps))


def outcomes(env: treasure.Treasure, steps: Transition) -> np.ndarray:
    """What became of episodes [E, T], as numbers that are equal where it is the same: how often they were paid and how often
    charged; with a key whether it was fetched, and the treasure found."""
    paid, charged = (steps.reward > 0).sum(1), (steps.reward < 0).sum(1)
    if env.needs_key:
        return np.asarray(steps.extras["env_state"].has_key[:, -1]) + 0 + (paid > 0)
    return paid * (steps.reward.shape[1] + 1) + charged


def evenly(outcome: np.ndarray) -> np.ndarray:
    """All of [E] in such an order that any first part has each outcome as often as may be."""
    order = np.argsort(outcome, kind="stable")
    ordered = outcome[order]
    rank = np.empty(len(outcome), int)
    rank[order] = np.arange(len(outcome)) - np.searchsorted(ordered, ordered)
    return np.argsort(rank, kind="stable")


def errors(env: Env, config: mil.Config, data, updates: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors of returns and of rewards [seeds] in held-out episodes, after learning from the others; `data` is that of
    `episodes`."""
    config = config.replace(total_steps=float(updates))
    agent, length = mil.make(env.spec, config), env.spec.episode_length

    def run(key, seen, held_out):
        learner = train.make(agent, mil.source(env, config, seen))
        state = learner.run(learner.init(key), updates // config.num_updates)[0].agent
        found = dataset_lib.paid(held_out, functools.partial(agent.reward, state), memory=agent.reward_memory)
        error = (found.transition.reward - held_out.transition.reward).reshape(-1, length)
        return jnp.square(error.sum(axis=1)).mean(), jnp.square(error).mean()

    keys = jax.random.split(jax.random.key(1), data[0].start.shape[0])
    return tuple(map(np.asarray, jax.jit(jax.vmap(run))(keys, *data)))


def entry():
    flags.DEFINE_integer("num_seeds", 5, "Of episodes and networks.", lower_bound=1)
    flags.DEFINE_multi_enum("tasks", list(TASKS), list(TASKS), "What the treasure waits for.")
    flags.DEFINE_list("kinds", "instance,skip", "Of rewards (rljax/networks/sequence_rewards.py).")
    flags.DEFINE_integer("train", 2_000, "Episodes that are learned from.", lower_bound=64)
    flags.DEFINE_integer("held_out", 500, "Episodes that errors are told of.", lower_bound=1)
    flags.DEFINE_integer("updates", 2_000, "Of each network.", lower_bound=8)
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    entry()
