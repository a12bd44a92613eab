"""What is learned from judgements by regret, and what it is worth when it is taken for a reward.

  python -m rljax.experiments.studies.optimal_advantage --num_seeds=50

Claims of Knox et al., 2023, arXiv:2310.02456, on random gridworlds. The optimal advantage A* as a reward keeps every optimal
policy, if the best of it is 0 in each state; where it is above, an agent had better never arrive. From judgements by regret a model
of regret comes near the best policy more often than one of partial returns; of what that finds, to be greedy is better than to be
paid by it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from rljax.data import labellers
from rljax.envs import tabular
from rljax.experiments import cli
from rljax.tabular import segments as lib
from rljax.tabular import solvers

FLAGS = flags.FLAGS
GAMMA = 0.95
LENGTH = 3  # steps of a segment
NEAR = 0.9  # of the way from random actions to the best policy
LEARNED = (
    "partial return, greedy by it",
    "partial return, as a reward",
    "partial return, as a reward, shifted so that the best is 0",
    "regret",
)


def main(argv):
    cli.reject_arguments(argv)
    counts = cli.numbers("counts", int, 1)
    with jax.enable_x64(True):
        worlds = random_worlds(FLAGS.num_seeds)
        shifts = cli.numbers("shifts")
        as_reward, arrived = shifted_advantages(worlds, jnp.array(shifts))
        cli.print_scores("scaled return of A* + c as a reward, by c", dict(zip(map(str, shifts), as_reward.T)))
        cli.print_scores("and the share of starts that arrive", dict(zip(map(str, shifts), arrived.T)))
        slow = sweeps_needed(worlds)
        cli.print_scores("sweeps until the greedy policy is optimal", {"reward": slow[:, 0], "A*": slow[:, 1]})
        for teacher in ("regret", "return"):
            for temperature in cli.numbers("temperatures"):
                for ends in (True, False):
                    print_learned(worlds, counts, teacher, temperature, ends)


def print_learned(worlds, counts, teacher, temperature, ends):
    found = np.stack(
        [learned(worlds, count, teacher, temperature, ends) for count in counts], 1
    )  # [seeds, counts, LEARNED]
    kind = "with" if ends else "without"
    print(f"\nJudged by {teacher}, temperature {temperature}, {kind} segments that end: worlds at {NEAR} or above")
    for i, name in enumerate(LEARNED):
        near = found[:, :, i] >= NEAR
        shares = (f"{count}: {share(x)}" for count, x in zip(counts, near.T))
        print(f"  {name:60s} " + "  ".join(shares), flush=True)
    for i, j in ((3, 0), (3, 1), (0, 1), (0, 2)):
        low, high = difference(found[..., i].ravel() >= NEAR, found[..., j].ravel() >= NEAR, len(counts))
        print(f"  {LEARNED[i]}, less {LEARNED[j]}, over all counts: {low:+.3f} to {high:+.3f}")


def random_worlds(num_seeds, size=4):
    """Gridworlds one after another in their arrays: a goal and mud anywhere, episodes that begin anywhere."""

    def world(seed):
        rng = np.random.default_rng(seed)
        goal = tuple(int(x) for x in rng.integers(0, size, 2))
        env = tabular.gridworld(size, size, goal=goal, start=None, goal_reward=1.0, step_reward=-0.1, discount=GAMMA)
        mud = 0.5 * (rng.random(size * size) < 0.3) * ~np.asarray(env.terminal)
        paid = np.asarray(env.reward) - np.asarray(env.transition) @ mud * ~np.asarray(env.terminal)[:, None]
        return env.replace(reward=paid)

    worlds = [world(seed) for seed in range(num_seeds)]
    return jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y, bool if y.dtype == bool else float) for y in x]), *worlds)


def scaled(world, policy):
    return lib.scaled_return(world.transition, world.reward, GAMMA, world.start, policy)


def best_by(world, reward):
    """The greedy policy of the exact solution of a reward."""
    return chosen(solvers.optimal_q(world.transition, reward, GAMMA, tolerance=1e-9))


def chosen(q):
    """Greedy, with ties to the last bit in mind: the first of those that are as good as the best."""
    return jax.nn.one_hot((q >= q.max(-1, keepdims=True) - 1e-6).argmax(-1), q.shape[-1], dtype=q.dtype)


def optimal_advantage(world):
    return lib.advantage(solvers.optimal_q(world.transition, world.reward, GAMMA, tolerance=1e-9))


def shifted_advantages(worlds, shifts):
    """[seeds, shifts]: scaled return of the best policy by A* + shift, terminal states at 0; and how many of the starts arrive."""

    def at(world, shift):
        goes_on = ~world.terminal[:, None]
        policy = best_by(world, (optimal_advantage(world) + shift) * goes_on)
        arrived = (
            solvers.occupancy_until(world.transition, jnp.tile(policy, (100, 1, 1)), world.start)[-1] @ world.terminal
        )
        return scaled(world, policy), arrived

    over = jax.vmap(jax.vmap(at, (None, 0)), (0, None))
    return map(np.asarray, jax.jit(over)(worlds, shifts))


def sweeps_needed(worlds, most=40):
    """[seeds, 2]: of value iteration from 0, until the greedy policy is worth as much as the best; by the reward and by A*."""

    def of(world, reward):
        def sweep(value, _):
            q = solvers.look_ahead(world.transition, reward, GAMMA, value)
            return q.max(-1), scaled(world, chosen(q)) > 1.0 - 1e-6

        good = jax.lax.scan(sweep, jnp.zeros(reward.shape[0]), length=most)[1]
        return jnp.where(good, 0, jnp.arange(1, most + 1)).max() + 1

    both = lambda world: jnp.stack([of(world, world.reward), of(world, optimal_advantage(world))])
    return np.asarray(jax.jit(jax.vmap(both))(worlds), float)


@functools.partial(jax.jit, static_argnums=(1, 2, 4))
def _learned(worlds, count, teacher, temperature, ends):
    def of(world_and_seed):
        world, seed = world_and_seed
        segment_key, judge_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), count))
        num_states, num_actions = world.reward.shape
        uniform = jnp.full_like(world.reward, 1.0 / num_actions)
        # without ends: of eight draws the first that is nowhere at the end of the world when it acts
        drawn = lib.draw(segment_key, world.transition, uniform, world.start, (count, 2, 1 if ends else 8), LENGTH)
        inside = ~world.terminal[drawn.state[..., :-1]].any(-1)
        first = inside.argmax(-1)[..., None, None]
        drawn = jax.tree.map(lambda x: jnp.take_along_axis(x, first, 2)[:, :, 0], drawn)
        q = solvers.optimal_q(world.transition, world.reward, GAMMA, tolerance=1e-9)
        if teacher == "regret":
            utility = lib.negated_regret(drawn, world.reward, q.max(-1), GAMMA)
        else:
            utility = lib.partial_return(drawn, world.reward, GAMMA)
        utility = jnp.round(utility, 9)  # equal to the last bit
        ranks = lib.judge(labellers.Teacher(temperature=temperature), utility, judge_key)
        counted = lib.visits(drawn, num_states, num_actions, GAMMA) * ~world.terminal[:, None]
        found = lib.fit_penalised(counted, ranks, lambda reward: reward)  # on the terms of regret's
        shifted = found - found.max(-1, keepdims=True)
        regret = lib.fit_regret(counted, ranks, world.transition, GAMMA)
        goes_on = ~world.terminal[:, None]
        policies = [
            chosen(found),
            best_by(world, found * goes_on),
            best_by(world, shifted * goes_on),
            best_by(world, regret),
        ]
        return jnp.stack([scaled(world, policy) for policy in policies])

    return jax.lax.map(of, (worlds, jnp.arange(worlds.reward.shape[0])), batch_size=10)


def learned(worlds, count, teacher="regret", temperature=0.0, ends=True):
    """Scaled returns [seeds, LEARNED] of policies from `count` judged pairs.

    Args:
      ends: segments may run into the end of an episode, where they gather nothing more; otherwise all have three steps that count.
    """
    return np.asarray(_learned(worlds, count, teacher, temperature, ends))


def share(near):
    """With Wilson's 95 % interval, 1927."""
    n, p, z = len(near), near.mean(), 1.96
    middle, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n),
    )
    return f"{p:.2f} ({max(middle - half, 0.0):.2f} to {middle + half:.2f})"


def difference(first, second, num_counts, repetitions=2_000):
    """The 95 % interval of how much more often the first is true, worlds drawn again with all their counts."""
    gained = (first.astype(float) - second).reshape(-1, num_counts).mean(1)
    chosen = np.random.default_rng(0).integers(0, len(gained), (repetitions, len(gained)))
    return np.quantile(gained[chosen].mean(1), [0.025, 0.975])


def entry():
    flags.DEFINE_integer("num_seeds", 50, "Random gridworlds.", lower_bound=2)
    flags.DEFINE_list("counts", ["30", "100", "300"], "Judged pairs.")
    flags.DEFINE_list("shifts", ["-1", "-0.1", "0", "0.01", "0.1", "1"], "Added to A*.")
    flags.DEFINE_list("temperatures", ["0", "0.3"], "Of judgements.")
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    entry()
