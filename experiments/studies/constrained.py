"""What demonstrators in finite MDPs with budgets tell of their rewards: which of these transfer, and how many samples they take.

  python -m rljax.experiments.studies.constrained --num_seeds=32

Rewards that have one demonstrator are not alike in other dynamics or under other budgets, unless they are known up to a constant;
where the class of rewards leaves nothing open, its error falls with the root of the samples. Schlaginhaufen & Kamgarpour, 2023,
arXiv:2306.00629.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from absl import app, flags

from rljax.experiments import cli
from rljax.tabular import constrained, feasible, identifiability

FLAGS = flags.FLAGS
GAMMA = 0.8

solve = jax.jit(lambda mdp, reward: constrained.solve(mdp, reward, 1e-9, 5000))
recover = jax.jit(lambda *args: constrained.recover(*args, tolerance=1e-9, max_steps=5000))


def main(argv):
    cli.reject_arguments(argv)
    counts = tuple(cli.numbers("counts", int, 2))
    with jax.enable_x64(True):
        lost, apart = map(np.array, zip(*map(losses_by_transfer, range(FLAGS.num_seeds)), strict=True))
        names = ("a constant, other dynamics", "a shaping, other dynamics", "a cost, twice the budget")
        cli.print_scores("lost by who plans for the reward and", dict(zip(names, lost.T, strict=True)))
        print(f"At most {apart.max():.1e} between the visits of their demonstrators.")
        errors = errors_by_samples(counts, FLAGS.num_seeds)
        cli.print_scores("error of the weights, by samples", dict(zip(FLAGS.counts, errors, strict=True)))
        slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
        cli.print_scores("of the logarithm by the logarithm", {"slope": slope})


def random_mdp(seed, num_states=4, num_actions=3, num_costs=2, share=0.8, temperature=1.0):
    """Dense dynamics, a reward, and costs whose budgets lie between the least that can be had and what is wanted."""
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(num_states), (num_states, num_actions))
    reward, costs = (
        rng.normal(size=(num_states, num_actions)),
        rng.uniform(size=(num_states, num_actions, num_costs)),
    )
    start = np.full(num_states, 1.0 / num_states)
    wide = constrained.Constrained(
        *map(jnp.asarray, (transition, GAMMA, start, costs, np.full(num_costs, 1e3))), temperature=temperature
    )
    wanted = np.einsum("sa,sak->k", solve(wide, jnp.asarray(reward)).visits, costs)
    least = np.einsum("sa,sak->k", linear_program(wide, -costs.sum(-1))[0], costs)
    return wide.replace(budget=jnp.asarray(least + share * (wanted - least))), jnp.asarray(reward)


def flow(mdp):
    """The equations of visits: sum_a mu(s, a) - discount sum P mu = start."""
    num_states, num_actions, _ = mdp.transition.shape
    leave = np.repeat(np.eye(num_states), num_actions, axis=1)
    return leave - float(mdp.discount) * np.asarray(mdp.transition).reshape(-1, num_states).T


def linear_program(mdp, reward):
    """Best visits and prices without entropy."""
    found = scipy.optimize.linprog(
        -np.asarray(reward).ravel(),
        np.asarray(mdp.costs).reshape(-1, mdp.costs.shape[-1]).T,
        np.asarray(mdp.budget),
        flow(mdp),
        np.asarray(mdp.start),
    )
    return found.x.reshape(mdp.costs.shape[:2]), -found.ineqlin.marginals


def moved(mdp, seed):
    """Other dynamics, and budgets as tight as before."""
    other, _ = random_mdp(seed + 1000, mdp.transition.shape[0], mdp.transition.shape[1])
    uniform = jnp.full(mdp.costs.shape[:2], 1.0 / mdp.costs.shape[1])
    used = lambda mdp: jnp.einsum("sa,sak->k", constrained.visits_of(mdp, uniform), mdp.costs)
    other = mdp.replace(transition=other.transition)
    return other.replace(budget=mdp.budget * used(other) / used(mdp))


def losses_by_transfer(seed):
    """What is lost, by the objective, who plans in other dynamics for: the reward and a constant; and a shaping; and, where
    dynamics are the same but the budget is twice as large, a cost that was at its limit. All of them have the same
    demonstrator: and by how much its visits differ under each."""
    mdp, reward = random_mdp(seed, num_costs=1)
    shown = solve(mdp, reward)
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=4)
    shaped = reward + (identifiability.shaping(mdp.transition, GAMMA) @ phi).reshape(reward.shape)
    dearer = reward + 2.0 * mdp.costs[..., 0]
    other = moved(mdp, seed)
    loosened = mdp.replace(budget=2.0 * mdp.budget)

    def lost(mdp, believed):
        worth = lambda r: constrained.objective(mdp, reward, solve(mdp, r).policy)
        return float(worth(reward) - worth(believed))

    wrong = (reward + 1.0, shaped, dearer)
    apart = [float(jnp.abs(solve(mdp, believed).visits - shown.visits).max()) for believed in wrong]
    return [lost(other, wrong[0]), lost(other, wrong[1]), lost(loosened, wrong[2])], apart


def errors_by_samples(counts, num_seeds=8, seed=3):
    """|weights - weights'| where N draws of the demonstrator's visits are known [counts, seeds]; the class leaves nothing open."""
    mdp, _ = random_mdp(seed, num_costs=1)
    rng = np.random.default_rng(seed)
    features, weights = jnp.asarray(rng.normal(size=(4, 3, 3))), jnp.asarray(rng.normal(size=3))
    wide = mdp.replace(budget=jnp.array([1e3]))
    mdp = mdp.replace(budget=0.9 * jnp.einsum("sa,sak->k", solve(wide, features @ weights).visits, mdp.costs))
    visits = solve(mdp, features @ weights).visits
    keys = jax.random.split(jax.random.key(seed), num_seeds)
    chances = visits.ravel() * (1.0 - GAMMA)
    frequencies = jax.jit(feasible.frequencies, static_argnums=2)
    draw = lambda key, count: frequencies(key, chances, count).reshape(visits.shape)
    known = jnp.stack([jnp.stack([draw(key, count) for key in keys]) for count in counts]) / (1.0 - GAMMA)
    fit = lambda visits: constrained.recover(mdp, visits, features, 10.0, 1e-6)[0]
    found = jax.jit(jax.vmap(fit))(known.reshape(-1, *visits.shape)).reshape(*known.shape[:2], -1)
    return np.asarray(jnp.linalg.norm(found - weights, axis=-1))


def entry():
    flags.DEFINE_integer("num_seeds", 32, "Random problems, and draws of samples.", lower_bound=1)
    flags.DEFINE_list("counts", ["1000", "3000", "10000", "30000", "100000"], "Samples of visits; two or more.")
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    entry()
