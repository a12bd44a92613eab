"""How features move under TD learning: whether an error falls all the time, and where many random rewards take them.

  python -m rljax.experiments.studies.representation --num_chains=20

Tang & Munos, 2023, arXiv:2305.18491: two linear layers in continuous time, the last one solved at each instant, from random
orthonormal features. By kind of chain: how often the quadratic form of the error that falls for reversible ones rises, and how
often the plain squared error does. By number of random rewards, on symmetric chains: the largest angle to the uppermost
eigenvectors.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from rljax.experiments import cli
from rljax.tabular import representation as lib

FLAGS = flags.FLAGS
STATES, FEATURES = 15, 3
KINDS = {
    "reversible": lib.reversible_chain,
    "irreversible": lib.irreversible_chain,
    "irreversible, nearly one successor": lambda key, size: lib.irreversible_chain(key, size, 6.0),
    "a cycle that slips one time in ten": lambda key, size: lib.cycle(size, 0.1),
}


def main(argv):
    cli.reject_arguments(argv)
    keys = jax.random.split(jax.random.key(0), FLAGS.num_chains)
    with jax.enable_x64(True):
        for tasks in cli.numbers("rewards", int, 1)[::2]:
            found = {kind: np.asarray(rises(keys, kind, tasks, FLAGS.gamma)) for kind in KINDS}
            for i, error in enumerate(("the quadratic form", "the squared error")):
                title = f"{tasks} rewards: the largest rise of {error}, of its beginning"
                cli.print_scores(title, {kind: x[:, i] for kind, x in found.items()})
                often = ", ".join(f"{kind}: {(x[:, i] > 1e-9).mean():.3g}" for kind, x in found.items())
                print(f"share of the chains for which it rises: {often}\n", flush=True)
        angles = {
            "at the beginning": 0,
            **{f"{tasks} rewards": tasks for tasks in cli.numbers("rewards", int, 1)},
            "all": None,
        }
        found = {name: np.asarray(angle(keys, tasks, FLAGS.gamma)) for name, tasks in angles.items()}
        cli.print_scores("largest angle to the uppermost eigenvectors, in degrees", found)


def beginning(key, make, tasks):
    """Chain, rewards, how often states are updated and features; None: each state's indicator is a reward."""
    chain_key, reward_key, feature_key = jax.random.split(key, 3)
    chain = make(chain_key, STATES)
    rewards = jnp.eye(STATES) if tasks is None else jax.random.normal(reward_key, (STATES, tasks))
    return chain, rewards, lib.stationary(chain), lib.orthonormal_features(feature_key, STATES, FEATURES)


@functools.partial(jax.jit, static_argnums=(1, 2))
def rises(keys, kind, tasks, gamma):
    """[chains, 2]: the most by which each error is above its least so far, of its beginning, from time to time of a path."""

    def of(key):
        chain, rewards, weight, features = beginning(key, KINDS[kind], tasks)
        path = lib.follow(chain, rewards, gamma, weight, features, 200, 0.1)

        def rise(error):
            errors = jax.vmap(lambda x: error(chain, rewards, gamma, weight, x))(path)
            return (errors - jax.lax.cummin(errors)).max() / errors[0]

        return jnp.stack([rise(lib.error), rise(lib.squared_error)])

    return jax.vmap(of)(keys)


@functools.partial(jax.jit, static_argnums=1)
def angle(keys, tasks, gamma):
    """[chains], at time 1,000; at the beginning where there are no rewards."""

    def of(key):
        chain, rewards, weight, features = beginning(key, lib.symmetric_chain, tasks or None)
        if tasks != 0:
            features = lib.follow(chain, rewards, gamma, weight, features, 2, 1_000.0, 5_000)[-1]
        return lib.largest_angle(features, lib.uppermost_eigenvectors(chain, FEATURES))

    return jax.vmap(of)(keys)


def entry():
    flags.DEFINE_integer("num_chains", 20, "Random chains, of 15 states.", lower_bound=2)
    flags.DEFINE_list(
        "rewards", ["1", "10", "100", "1000"], "Random rewards at once; every second number for the errors."
    )
    flags.DEFINE_float("gamma", 0.9, "Discount.", lower_bound=0.0, upper_bound=0.999)
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    entry()
