"""How near iterative inversion comes to demonstrations without actions, with and without steering towards them.

  python -m rljax.experiments.studies.iterative_inversion --num_seeds=5

A particle is to go where demonstrations went that it never saw; told is the mean distance at the points of the intent. Without
steering its episodes stay where they were. Leibovich et al., 2022, arXiv:2211.01724.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from rljax import train
from rljax.agents.sequence import iterative_inversion as itin
from rljax.data import dataset as dataset_lib
from rljax.envs import linear
from rljax.errors import UserError
from rljax.experiments import cli
from rljax.types import Transition

FLAGS = flags.FLAGS
SMALL = itin.Config(
    learning_rate=2e-3, observe=(1, 2), hidden=(64, 64), num_envs=32, rollout_length=30, num_updates=30, capacity=320
)


def main(argv):
    cli.reject_arguments(argv)
    if FLAGS.late <= FLAGS.early:
        raise UserError(f"--late={FLAGS.late} must be more than --early={FLAGS.early}.")
    found = distances(jnp.array(cli.numbers("steering")), FLAGS.num_seeds, FLAGS.early, FLAGS.late)
    for count, errors in zip((FLAGS.early, FLAGS.late), found, strict=True):
        title = f"distance from new demonstrations after {count} iterations, by steering"
        cli.print_scores(title, dict(zip(FLAGS.steering, errors.T, strict=True)))


def demonstrations(env, seed, number):
    """A particle is drawn to one place on a circle for half of the episode, then to another; what was done is not told."""
    gain, _ = linear.riccati(env)

    def one(key):
        start_key, place_key = jax.random.split(key)
        angle = jax.random.uniform(place_key, (2,), maxval=2 * jnp.pi)
        places = jnp.stack([jnp.cos(angle), jnp.sin(angle), jnp.zeros(2), jnp.zeros(2)], axis=-1)

        def step(state, time):
            action = -3.0 * gain @ (state.position - places[time // 15])
            following, step = env.step(state, action, key)
            return following, (state.position, step.observation, step.truncated)

        return jax.lax.scan(step, env.reset(start_key)[0], jnp.arange(30))[1]

    seen, following, cut = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), number))
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    cut, nothing = flat(cut), np.zeros(30 * number, np.float32)
    return dataset_lib.from_transitions(
        Transition(flat(seen), np.zeros((30 * number, 2), np.float32), nothing, ~cut & cut, cut, flat(following))
    )


def distances(steering, num_seeds=5, early=8, late=48):
    """Mean distances from 32 new demonstrations, [seeds, steering], after `early` iterations and after `late`."""
    env = linear.double_integrator(2, start=0.05, force=4.0, episode_length=30)
    data = demonstrations(env, 0, 50)
    wanted = itin.demonstrated_intents(env.spec, SMALL, demonstrations(env, 1, 32))

    def distance(agent, state):
        def one(intent, key):
            def step(carry, _):
                state_of_env, observation, memory = carry
                action, memory, _ = agent.act(state, observation[None], memory, key, False)
                state_of_env, following = env.step(state_of_env, action[0], key)
                return (state_of_env, following.observation, memory), following.observation

            memory = itin.Memory(intent[None], jnp.zeros(1, jnp.int32), jnp.ones(1, bool))
            path = jax.lax.scan(step, (*env.reset(key), memory), length=30)[1]
            return jnp.linalg.norm(path[itin.points(jnp.int32(30), 5), :2] - intent.reshape(5, 2), axis=-1).mean()

        return jax.vmap(one)(wanted, jax.random.split(jax.random.key(7), 32)).mean()

    def run(key, steering):
        config = SMALL.replace(steering=steering)
        agent = itin.make(env.spec, config)
        learner = train.make(agent, itin.source(env, config, data))
        first, _ = learner.run(learner.init(key), early)
        last, _ = learner.run(first, late - early)
        return distance(agent, first.agent), distance(agent, last.agent)

    runs = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))
    return tuple(map(np.asarray, runs(jax.random.split(jax.random.key(0), num_seeds), steering)))


def entry():
    flags.DEFINE_integer("num_seeds", 5, "Of agents.", lower_bound=1)
    flags.DEFINE_list("steering", ["0", "0.5"], "Shares of episodes that are asked for demonstrated intents.")
    flags.DEFINE_integer("early", 8, "Iterations.", lower_bound=1)
    flags.DEFINE_integer("late", 48, "Iterations.", lower_bound=2)
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    entry()
