"""What rankings of K things tell of a linear reward, and what a policy should make of it.

  python -m rljax.experiments.studies.pessimism --num_seeds=200

Three claims of Zhu, Jordan & Jiao, 2023, arXiv:2301.11270: the error of the estimate falls with the root of the judgements; the
likelihood of whole rankings wastes less of them than that of their pairs; and where some actions were hardly asked about, being
greedy by the estimate loses for ever what being greedy by a lower confidence bound does not.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from rljax.experiments import cli
from rljax.losses import preference
from rljax.tabular import comparisons

FLAGS = flags.FLAGS
BOUND = 2.0  # of |theta|
FAILURE = 0.1
ESTIMATES = {"rankings": preference.plackett_luce, "pairs": preference.pairwise}
POLICIES = ("greedy", "pessimistic, proven", "pessimistic, asymptotic")


def main(argv):
    cli.reject_arguments(argv)
    counts = cli.numbers("counts", int, 2)
    with jax.enable_x64(True):
        for ranked in cli.numbers("ranked", int, 2):
            errors = estimation_errors(counts, ranked, FLAGS.num_seeds)
            for name, found in errors.items():
                cli.print_scores(f"error by judgements of {ranked}, by {name}", dict(zip(map(str, counts), found.T)))
            cli.print_scores(
                f"slope of log error, judgements of {ranked}", {n: slopes(counts, e) for n, e in errors.items()}
            )
            excess = mean_squared_ratio(errors["pairs"], errors["rankings"])
            print(
                f"squared error by pairs, over that by rankings of {ranked}: {excess[0]:.3f} ({excess[1]:.3f} to {excess[2]:.3f})"
            )
        for asked in ("partial", "full"):
            lost = losses_of_policies(counts, asked == "full", FLAGS.num_seeds)
            for i, name in enumerate(POLICIES):
                cli.print_scores(
                    f"lost by judgements where coverage is {asked}, {name}",
                    dict(zip(map(str, counts), lost[:, :, i].T)),
                )


def estimation_errors(counts, ranked, num_seeds=200, dimension=4):
    """|estimate - truth| [seeds, counts], by each of ESTIMATES from the same rankings; truth and features are new each time."""

    def of(count):
        def errors(key):
            theta_key, feature_key, key = jax.random.split(key, 3)
            theta = unit(jax.random.normal(theta_key, (dimension,)))
            features = jax.random.normal(feature_key, (count, ranked, dimension))
            ranks = comparisons.draw(theta, features, key)
            found = [comparisons.fit(loss, features, ranks, BOUND, 8) for loss in ESTIMATES.values()]
            return jnp.stack([jnp.linalg.norm(x - theta) for x in found])

        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), count), num_seeds)
        return np.asarray(jax.jit(lambda keys: jax.lax.map(errors, keys, batch_size=10))(keys))

    found = np.stack([of(count) for count in counts], 1)
    return {name: found[..., i] for i, name in enumerate(ESTIMATES)}


def losses_of_policies(counts, full, num_seeds=200, num_actions=6):
    """What the best action pays more than the one chosen [seeds, counts, POLICIES]; an action's reward is a number by itself.

    Actions 0 to 2 are asked about in pairs, n times, and action 0 is the best. Where coverage is partial each of the others was
    asked about once, beside action 0; otherwise all pairs are as likely.
    """
    theta = unit(jnp.array([1.0, 0.6, 0.2, 0.0, -0.2, -0.4]))
    actions = jnp.eye(num_actions)

    def of(count):
        def lost(key):
            pair_key, key = jax.random.split(key)
            among = num_actions if full else num_actions // 2
            first, step = jax.random.randint(
                pair_key, (2, count), jnp.zeros((2, 1), int), jnp.array([[among], [among - 1]])
            )
            pairs = jnp.stack([first, (first + 1 + step) % among], 1)
            rare = jnp.array([[0, other] for other in range(num_actions // 2, num_actions)])
            pairs = pairs if full else jnp.concatenate([pairs[len(rare) :], rare])
            features = actions[pairs]
            ranks = comparisons.draw(theta, features, key)
            found = comparisons.fit(preference.pairwise, features, ranks, BOUND, 15)
            ridge, dimension = 0.1 / count, num_actions
            regularised = lambda matrix: matrix + ridge * jnp.eye(dimension)
            information = comparisons.derivatives(preference.pairwise, found, features, ranks)[1]
            spread = jnp.sqrt(2.0) * BOUND
            reference = features.mean((0, 1))  # what was asked about most
            sure = comparisons.radius(count, dimension, 2, FAILURE, ridge, BOUND, spread)
            near = comparisons.asymptotic_radius(count, dimension, FAILURE, ridge, BOUND)
            values = [
                found,
                comparisons.lower_bound(found, regularised(comparisons.design(features)), sure, actions, reference),
                comparisons.lower_bound(found, regularised(information), near, actions, reference),
            ]
            return theta.max() - jnp.stack([theta[value.argmax()] for value in values])

        keys = jax.random.split(jax.random.fold_in(jax.random.key(1), count), num_seeds)
        return np.asarray(jax.jit(lambda keys: jax.lax.map(lost, keys, batch_size=10))(keys))

    return np.stack([of(count) for count in counts], 1)


def unit(x):
    return x / jnp.linalg.norm(x)


def slopes(counts, errors):
    """Of log errors over log counts, one for each seed."""
    x = np.log(counts) - np.log(counts).mean()
    return np.log(errors) @ x / (x @ x)


def mean_squared_ratio(errors, others, repetitions=2_000):
    """The mean over seeds and counts, weighed alike, of squared `errors` over that of `others`, and its 95 % interval."""
    scale = np.square(others).mean(0)
    first, second = np.square(errors) / scale, np.square(others) / scale
    chosen = np.random.default_rng(0).integers(0, len(errors), (repetitions, len(errors)))
    ratios = first[chosen].mean((1, 2)) / second[chosen].mean((1, 2))
    return first.mean() / second.mean(), *np.quantile(ratios, [0.025, 0.975])


def entry():
    flags.DEFINE_integer("num_seeds", 200, "Draws of problems and judgements.", lower_bound=2)
    flags.DEFINE_list("counts", "100,400,1600".split(","), "Judgements; two or more.")
    flags.DEFINE_list("ranked", ["2", "5"], "Things in a judgement.")
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    entry()
