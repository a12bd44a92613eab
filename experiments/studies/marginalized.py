"""How much variance of Retrace's estimates is due to what their products of traces remember, and who can do without it.

  python -m rljax.experiments.studies.marginalized --num_mdps=20

Tang et al., 2022, arXiv:2203.16177, on random MDPs (Garnets) with random policies and behaviours. Exact: variances of marginalized
estimates over those of Retrace's, for one drawn time of a path and for whole paths, at Q = 0 and at the fixed point. Sampled: the
error of a mean over a few paths with weights that are known, counted on the same paths, or counted on ten times as many others.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from rljax.envs import tabular
from rljax.experiments import cli
from rljax.losses import multistep
from rljax.tabular import off_policy, solvers

FLAGS = flags.FLAGS
GAMMA = 0.9
HORIZON = 100
EXACT = ("one drawn time", "whole paths, weights by time", "whole paths, weights of all times")
WEIGHTS = ("known", "counted on the same paths", "counted on ten times as many others")


def main(argv):
    cli.reject_arguments(argv)
    with jax.enable_x64(True):
        problems = random_problems(FLAGS.num_mdps, FLAGS.sharpness)
        for decay in cli.numbers("decays"):
            for fixed in (False, True):
                where = f"traces {FLAGS.trace} x {decay}, at {'the fixed point' if fixed else 'Q = 0'}"
                ratios, higher = map(np.asarray, exact(problems, decay, fixed, FLAGS.trace))
                cli.print_scores(f"variance over Retrace's, {where}", dict(zip(EXACT, ratios.T)))
                cli.print_scores("and the share of pairs where it is higher", dict(zip(EXACT, higher.T)))
                found = np.asarray(sampled(problems, decay, fixed, FLAGS.trace, FLAGS.num_paths))
                cli.print_scores(
                    f"squared error of a mean over {FLAGS.num_paths} paths, over Retrace's", dict(zip(WEIGHTS, found.T))
                )


def random_problems(num_mdps, sharpness=1.0, states=10, actions=2):
    """(transition, reward, policy, behaviour, key), one after another in their arrays; policies are softmaxes of normal numbers
    times `sharpness`."""

    def one(key):
        mdp_key, policy_key, behaviour_key, key = jax.random.split(key, 4)
        mdp = tabular.garnet(mdp_key, states, actions, discount=GAMMA)
        law = lambda key: jax.nn.softmax(sharpness * jax.random.normal(key, (states, actions)))
        exact = mdp.transition / mdp.transition.sum(-1, keepdims=True)
        return exact.astype(float), mdp.reward.astype(float), law(policy_key), law(behaviour_key), key

    return jax.vmap(one)(jax.random.split(jax.random.key(0), num_mdps))


def errors_of(problem, fixed):
    transition, reward, policy, _, _ = problem
    truth = reward + GAMMA * transition @ solvers.value(transition, reward, GAMMA, policy)
    return off_policy.errors(reward, GAMMA, policy, truth if fixed else jnp.zeros_like(truth))


@functools.partial(jax.jit, static_argnums=(2, 3))
def exact(problems, decay, fixed, kind):
    """By `EXACT`, [MDPs, 3]: ratio of the mean variance over pairs to Retrace's, and the share of pairs where it is higher."""

    def of(problem):
        transition, reward, policy, behaviour, _ = problem
        trace, error = off_policy.traces(policy, behaviour, kind, decay), errors_of(problem, fixed)
        given = (transition, behaviour, GAMMA, error)
        draw = off_policy.draw_variance(*given, trace)
        path = off_policy.path_variance(*given, jnp.ones((HORIZON, *reward.shape)), trace)[1]
        by_time = off_policy.weights_by_time(transition, behaviour, trace, HORIZON)
        always = jnp.broadcast_to(off_policy.weights(transition, behaviour, GAMMA, trace), by_time.shape)
        merged = off_policy.draw_variance(*given, trace, True)
        whole = [off_policy.marginalized_path_variance(*given, w)[1] for w in (by_time, always)]
        ratio = lambda new, old: (new.mean() / old.mean(), (new > old * (1.0 + 1e-6)).mean(dtype=float))
        return [jnp.stack(x) for x in zip(ratio(merged, draw), *(ratio(w, path) for w in whole))]

    return jax.lax.map(of, problems)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def sampled(problems, decay, fixed, kind, num_paths, repetitions=100):
    """By `WEIGHTS`, [MDPs, 3]: mean squared error of Q's correction at one pair over Retrace's from the same paths."""

    def of(problem):
        transition, reward, policy, behaviour, key = problem
        trace, error = off_policy.traces(policy, behaviour, kind, decay), errors_of(problem, fixed)
        known = off_policy.weights(transition, behaviour, GAMMA, trace)[0, 0]
        expected = jnp.einsum(
            "tb,tb->", off_policy.visits(transition, behaviour, GAMMA, trace)[0, 0], (transition * error).sum(-1)
        )
        discount = jnp.full(HORIZON, GAMMA)
        pick = lambda cumulative, chance: jnp.minimum((chance > cumulative).sum(), len(cumulative) - 1)
        onward, then_acts = jnp.cumsum(transition, -1), jnp.cumsum(behaviour, -1)

        def path(key):
            def step(pair, chance):
                state, action = pair
                following = pick(onward[state, action], chance[0])
                then = pick(then_acts[following], chance[1])
                return (following, then), (state, action, error[state, action, following])

            state, action, errors = jax.lax.scan(step, (0, 0), jax.random.uniform(key, (HORIZON, 2)))[1]
            return state, action, errors, multistep.trace_products(trace[state, action])

        def counted(paths):
            state, action, _, products = paths
            count = jnp.broadcast_to(GAMMA ** jnp.arange(HORIZON), state.shape)
            total = jnp.zeros_like(reward).at[state, action].add(count * products)
            return total / jnp.maximum(jnp.zeros_like(reward).at[state, action].add(count), 1e-30)

        def once(key):
            paths_key, others_key = jax.random.split(key)
            paths = jax.vmap(path)(jax.random.split(paths_key, num_paths))
            others = jax.vmap(path)(jax.random.split(others_key, 10 * num_paths))
            state, action, errors, products = paths
            by = [products, *(weight[state, action] for weight in (known, counted(paths), counted(others)))]
            return jnp.stack([jax.vmap(multistep.correction, (0, None, 0))(errors, discount, w).mean() for w in by])

        found = jax.lax.map(once, jax.random.split(key, repetitions), batch_size=50)
        squared = jnp.square(found - expected).mean(0)
        return squared[1:] / squared[0]

    return jax.lax.map(of, problems)


def entry():
    flags.DEFINE_integer("num_mdps", 20, "Random MDPs.", lower_bound=2)
    flags.DEFINE_float("sharpness", 1.0, "Of both policies: 0 makes them uniform.", lower_bound=0.0)
    flags.DEFINE_enum("trace", "retrace", off_policy.TRACES, "Whose products are compared.")
    flags.DEFINE_list("decays", ["1"], "Factors of traces, lambda.")
    flags.DEFINE_integer("num_paths", 20, "A mean is over so many.", lower_bound=1)
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    entry()
