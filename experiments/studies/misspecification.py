"""What inverse RL finds that takes demonstrators for what they are not: how wrong it is, by what it has wrong.

  python -m rljax.experiments.studies.misspecification --num_seeds=32

A wrong temperature does no harm; a wrong discount, however little wrong, may do any; of policies seen a little wrongly there is no
bound for all rewards. In random finite MDPs, by STARC's distance under the true model, where 0.707 is that of unrelated rewards.
Skalse & Abate, 2024, arXiv:2403.06854.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from rljax.envs import tabular
from rljax.experiments import cli
from rljax.tabular import misspecification as wrong

FLAGS = flags.FLAGS
GAMMA = 0.9
SOFT = ("boltzmann", "causal_entropy")


def main(argv):
    cli.reject_arguments(argv)
    numbers = lambda name: jnp.array(cli.numbers(name))
    with jax.enable_x64(True):
        for behaviour in SOFT:
            found = errors_by_temperature(behaviour, numbers("temperatures"), FLAGS.num_seeds)
            cli.print_scores(f"{behaviour}, by believed temperature (0.5)", dict(zip(FLAGS.temperatures, found.T)))
            smallest, worst = errors_by_discount(behaviour, numbers("discounts"), FLAGS.num_seeds)
            for name, found in (("smallest", smallest), ("worst", worst)):
                title = f"{behaviour}, {name} reward, by believed discount ({GAMMA})"
                cli.print_scores(title, dict(zip(FLAGS.discounts, found.T)))
        found = errors_by_behaviour(FLAGS.num_seeds)
        pairs = {(i, j): f"{a} for {b}" for i, a in enumerate(wrong.BEHAVIOURS) for j, b in enumerate(wrong.BEHAVIOURS)}
        cli.print_scores("who is taken for whom", {name: found[:, i, j] for (i, j), name in pairs.items()})
        found = errors_by_perturbation(numbers("sizes"), numbers("scales"), FLAGS.num_seeds)
        for i, scale in enumerate(FLAGS.scales):
            title = f"rewards times {scale}, by the error in the policy"
            cli.print_scores(title, dict(zip(FLAGS.sizes, found[:, i].T)))


def garnet(seed, behaviour="causal_entropy", temperature=0.5, num_states=8):
    """A random model of three actions and its reward [S, A]."""
    env = tabular.garnet(jax.random.key(seed), num_states, 3)
    transition = jnp.asarray(env.transition, jnp.float64)
    transition = transition / transition.sum(-1, keepdims=True)
    return wrong.Model(transition, GAMMA, temperature, behaviour), jnp.asarray(env.reward, jnp.float64)


def errors_by_temperature(behaviour, temperatures, num_seeds=32):
    """[seeds, temperatures]"""

    def of(seed):
        model, reward = garnet(seed, behaviour)
        at = lambda temperature: wrong.error(model, model.replace(temperature=temperature), reward, tolerance=1e-10)
        return jax.vmap(at)(temperatures)

    return by_seed(of, num_seeds)


def errors_by_discount(behaviour, discounts, num_seeds=32):
    """[seeds, discounts]: of the smallest reward that is inferred, and of the worst that may be."""

    def of(seed):
        model, reward = garnet(seed, behaviour)

        def at(discount):
            believed = model.replace(discount=discount)
            return wrong.error(model, believed, reward), wrong.worst_value(model, believed, reward)[1]

        return jax.vmap(at)(discounts)

    return by_seed(of, num_seeds)


def errors_by_behaviour(num_seeds=32, temperature=0.5):
    """[seeds, true, believed]: of one behaviour taken for another, in the order of BEHAVIOURS."""

    def of(seed):
        model, reward = garnet(seed, temperature=temperature)
        pairs = [
            [wrong.error(model.replace(behaviour=a), model.replace(behaviour=b), reward) for b in wrong.BEHAVIOURS]
            for a in wrong.BEHAVIOURS
        ]
        return jnp.array(pairs)

    return by_seed(of, num_seeds)


def errors_by_perturbation(sizes, scales, num_seeds=32):
    """[seeds, scales, sizes]: by how much the policy is seen wrongly, for rewards times `scales`."""

    def of(seed):
        model, reward = garnet(seed)
        change = jax.random.normal(jax.random.key(seed + 1), reward.shape, reward.dtype)
        at = lambda scale, size: wrong.perturbed_error(model, scale * reward, change, size, 1e-9)
        return jax.vmap(lambda scale: jax.vmap(lambda size: at(scale, size))(sizes))(scales)

    return by_seed(of, num_seeds)


def by_seed(of, num_seeds):
    """`of` each seed, as numpy arrays with a leading axis of seeds."""
    return jax.tree.map(np.asarray, jax.jit(lambda: jax.lax.map(of, jnp.arange(num_seeds)))())


def entry():
    flags.DEFINE_integer("num_seeds", 32, "Random MDPs.", lower_bound=1)
    flags.DEFINE_list("temperatures", ["0.01", "0.1", "1", "10"], "Believed ones.")
    flags.DEFINE_list("discounts", ["0.5", "0.8", "0.89", "0.899", "0.9"], "Believed ones.")
    flags.DEFINE_list("sizes", ["0.1", "0.01", "0.001", "0"], "By how much policies are seen wrongly.")
    flags.DEFINE_list("scales", ["1", "0.1", "0.0001"], "Of rewards.")
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    entry()
