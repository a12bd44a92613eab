"""How steep may a clone be: what a bound on it costs in following a demonstrator, and what it withstands of a sensor that errs.

  python -m rljax.experiments.studies.lipschitz --num_seeds=20

Clones of a few noisy episodes of the optimal controller of a double integrator, whose own steepness is 2: too low a bound cannot
follow it, too high a one learns the noise and is harmed by the sensor. Al Makdah et al., 2021, arXiv:2103.16629.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from rljax import train
from rljax.agents.behaviour import linear as optimal
from rljax.agents.offline import lipschitz_bc
from rljax.data import dataset as dataset_lib
from rljax.data.collect import collect
from rljax.envs import linear
from rljax.experiments import cli

FLAGS = flags.FLAGS
SMALL = lipschitz_bc.Config(learning_rate=3e-3, hidden=(16, 16), batch_size=32, num_updates=2)


def main(argv):
    cli.reject_arguments(argv)
    config = SMALL.replace(by_construction=FLAGS.by_construction)
    bounds = jnp.array(cli.numbers("bounds"))
    apart, harm = errors_by_bound(bounds, FLAGS.num_seeds, config, FLAGS.noise, FLAGS.num_episodes, FLAGS.iterations)
    for title, found in (("distance from the demonstrator's path", apart), ("harm of a sensor in error by 0.1", harm)):
        cli.print_scores(f"{title}, by bound", dict(zip(FLAGS.bounds, found.T, strict=True)))


def errors_by_bound(
    bounds,
    num_seeds=5,
    config=SMALL.replace(by_construction=True),
    noise=0.3,
    num_episodes=2,
    iterations=400,
):
    """Mean distances of paths in closed loop, [seeds, bounds]: of the clone's from the demonstrator's, and of the clone's with a
    sensor that always errs by 0.1 in the worst direction from its own without. Each seed has demonstrations of its own."""
    env = linear.double_integrator()
    demonstrator = optimal.make(env, optimal.Config(noise=noise))
    around = 2 * jnp.pi * jnp.arange(16) / 16
    errors = 0.1 * jnp.stack([jnp.cos(around), jnp.sin(around)], axis=-1)
    starts = jax.vmap(env.reset)(jax.random.split(jax.random.key(3), 32))[1]

    def path(agent, state, start, deceived):
        def step(here, _):
            action, _, _ = agent.act(state, jnp.concatenate([here[None], here + errors]), (), jax.random.key(0), False)
            action = action[1:].max(0) if deceived else action[0]
            return env.dynamics @ here + env.control @ action, here

        return jax.lax.scan(step, start, length=100)[1]

    def run(data, key, bound):
        bounded = config.replace(bound=bound)
        agent = lipschitz_bc.make(env.spec, bounded)
        learner = train.make(agent, lipschitz_bc.source(env, bounded, data))
        state = learner.run(learner.init(key), iterations)[0].agent
        paths = lambda agent, state, deceived: jax.vmap(lambda start: path(agent, state, start, deceived))(starts)
        own, deceived, right = paths(agent, state, False), paths(agent, state, True), paths(demonstrator, (), False)
        apart = lambda a, b: jnp.linalg.norm(a - b, axis=-1).mean()
        return apart(own, right), apart(deceived, own)

    record = jax.jit(lambda key: collect(env, demonstrator, (), key, num_episodes, 25, True))
    data = [dataset_lib.from_transitions(record(jax.random.key(seed))) for seed in range(num_seeds)]
    data = jax.tree.map(lambda *x: jnp.stack(x), *data)
    runs = jax.jit(jax.vmap(jax.vmap(run, (None, None, 0)), (0, 0, None)))
    return tuple(map(np.asarray, runs(data, jax.random.split(jax.random.key(4), num_seeds), bounds)))


def entry():
    flags.DEFINE_integer("num_seeds", 20, "Of demonstrations and clones.", lower_bound=1)
    flags.DEFINE_list("bounds", "0.25,0.5,1,1.5,2,3,4,8,16".split(","), "On the steepness of clones.")
    flags.DEFINE_float("noise", 0.3, "Of the demonstrator's actions.")
    flags.DEFINE_integer("num_episodes", 2, "Demonstrated, of 25 steps each.", lower_bound=1)
    flags.DEFINE_integer("iterations", 400, f"Of {SMALL.num_updates} updates each.", lower_bound=1)
    flags.DEFINE_bool("by_construction", True, "Bounds that no parameters break, or a price of breaking them.")
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    entry()
