"""How many samples it takes to know all rewards that explain a demonstrator.

  python -m rljax.experiments.studies.feasible --num_seeds=5

The distance of the estimated feasible set from the true one falls with the root of the samples; its bound, and so what samples of
a triple must be, grows with the square of the horizon and with the states. Metelli et al., 2023, arXiv:2304.12966.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from rljax.experiments import cli
from rljax.tabular import feasible

FLAGS = flags.FLAGS


def main(argv):
    cli.reject_arguments(argv)
    counts = tuple(cli.numbers("counts", int, 2))
    distances, bounds = measure(FLAGS.num_seeds, counts)
    cli.print_scores("distance, by samples of a triple", dict(zip(FLAGS.counts, distances.T, strict=True)))
    cli.print_scores("its bound, by samples of a triple", dict(zip(FLAGS.counts, bounds.T, strict=True)))
    cli.print_scores("of the logarithm by the logarithm", {"slope": slopes(counts, distances)})
    base, times = FLAGS.num_states, FLAGS.horizon
    sizes = [(times, base), (2 * times, base), (4 * times, base), (times, 2 * base), (times, 4 * base)]
    grown = {f"horizon {h}, {s} states": bounds_of(h, s, 2, num_seeds=FLAGS.num_seeds) for h, s in sizes}
    cli.print_scores("error of estimates at 1000 samples", grown)


def random_problem(seed, horizon=2, num_states=2, num_actions=2, deterministic=True):
    """Dense dynamics that change with time; who demonstrates takes one action, or in half of the states any."""
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(num_states), (horizon, num_states, num_actions))
    policy = np.eye(num_actions)[rng.integers(num_actions, size=(horizon, num_states))]
    if not deterministic:
        policy = np.where(rng.random((horizon, num_states, 1)) < 0.5, 1.0 / num_actions, policy)
    return feasible.Problem(transition, policy)


draw = jax.jit(feasible.uniform_samples, static_argnums=2)


def measure(
    num_seeds=5, counts=(30, 100, 300, 1000, 3000, 10000), horizon=3, num_states=3, num_actions=2, num_starts=6
):
    """Distances of estimated sets from the true one [seeds, counts], and their bounds."""
    found = np.empty((num_seeds, len(counts), 2))
    for seed in range(num_seeds):
        problem = random_problem(100 + seed, horizon, num_states, num_actions)
        exact = feasible.Problem(*map(jnp.asarray, problem))
        for i, count in enumerate(counts):
            key = jax.random.fold_in(jax.random.key(seed), i)
            estimate = feasible.Problem(*map(np.asarray, draw(key, exact, count)))
            found[seed, i] = feasible.distance(problem, estimate, num_starts), feasible.distance_bound(exact, estimate)
    return found[..., 0], found[..., 1]


def slopes(counts, errors):
    """Of log errors over log counts, one for each seed."""
    x = np.log(counts) - np.log(counts).mean()
    return np.log(errors) @ x / (x @ x)


def bounds_of(horizon, num_states, num_actions, count=1000, num_seeds=8):
    """e of `distance_bound`, [seeds]: uniform dynamics, where estimates are worst."""
    policy = jax.nn.one_hot(jnp.zeros((horizon, num_states), int), num_actions)
    problem = feasible.stationary(jnp.full((num_states, num_actions, num_states), 1.0 / num_states), policy)

    def error(key):
        bound = feasible.distance_bound(problem, feasible.uniform_samples(key, problem, count))
        return bound / (2.0 - bound)

    return jax.jit(lambda keys: jax.lax.map(error, keys))(jax.random.split(jax.random.key(0), num_seeds))


def entry():
    flags.DEFINE_integer("num_seeds", 5, "Random problems, and draws of samples.", lower_bound=1)
    flags.DEFINE_list("counts", "30,100,300,1000,3000,10000".split(","), "Samples of a triple; two or more.")
    flags.DEFINE_integer("horizon", 4, "The least one of the bound.", lower_bound=2)
    flags.DEFINE_integer("num_states", 8, "The fewest of the bound.", lower_bound=2)
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    entry()
