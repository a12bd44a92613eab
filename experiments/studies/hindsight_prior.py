"""Is a reward nearer the truth if returns are shared out by what was preferred, and with fewer judgements?

  python -m rljax.experiments.studies.hindsight_prior --num_seeds=20

Claims of Verma & Metcalf, 2022, arXiv:2210.09151, by our reading of their prior (rljax/losses/credit.py), on a gridworld in which
few cells pay or charge. Pairs of segments of random actions are judged by what they were paid; told is how far the learned reward
is from the true one. Beside Bradley & Terry's law alone stands a prior that shares returns evenly, by one symbol for all states:
what the prior does by more than that is owed to the symbols.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import rljax
from rljax.agents.preference import reward_model
from rljax.data import labellers
from rljax.data.feedback import Judged
from rljax.envs import tabular
from rljax.experiments import cli
from rljax.symbols import Symbols
from rljax.tabular import reward_metrics
from rljax.tabular import segments as segments_lib
from rljax.types import Transition

FLAGS = flags.FLAGS
GAMMA = 0.9  # of the distances
LENGTH = 10  # steps of a segment
PAYS = (1.0, 1.0, -1.0, -1.0)  # in as many cells
SMALL = reward_model.Config(learning_rate=3e-3, hidden=(32, 32), num_models=1, segment=LENGTH)
DISTANCES = ("correlation", "EPIC", "STARC")
CASES = {  # settings, and whether all states have one symbol
    "Bradley & Terry": ({}, False),
    "shared evenly": ({}, True),
    "prior": ({"symbols": "states"}, False),
}


def main(argv):
    cli.reject_arguments(argv)
    weight = FLAGS.weight
    for count in cli.numbers("counts", int, 1):
        found = {name: learned(name, FLAGS.num_seeds, count, weight, FLAGS.updates) for name in CASES}
        for i, what in enumerate(DISTANCES):
            cli.print_scores(f"{what} from {count} pairs", {name: x[i] for name, x in found.items()})


def learned(case: str, num_seeds: int, count: int, weight: float, updates: int) -> np.ndarray:
    """DISTANCES [3, seeds] of the reward learned from `count` pairs to the true one; each seed has its own world, pairs and
    network, the same under each of CASES."""
    grid = tabular.gridworld(5, 5, start=None)
    num_states, num_actions = grid.reward.shape
    transition = jnp.where(grid.terminal[:, None, None], grid.start, grid.transition)  # from the goal on anywhere
    anywhere, uniform = jnp.full(num_states, 1.0 / num_states), jnp.full_like(grid.reward, 1.0 / num_actions)
    settings, one_symbol = CASES[case]
    alike = Symbols(1, lambda observation: jnp.zeros(observation.shape[:-1], jnp.int32)) if one_symbol else None
    agent = reward_model.make(grid.spec, SMALL.replace(**settings, prior_weight=weight), alike)

    def steps_of(state, action) -> Transition:
        no, seen = jnp.zeros(action.shape), jax.nn.one_hot(state, num_states)
        return Transition(seen, action, no, no > 0, no > 0, seen)

    def run(key):
        world_key, draw_key, judge_key, init_key, key = jax.random.split(key, 5)
        cells = jax.random.choice(world_key, num_states, (len(PAYS),), replace=False)
        true = jnp.zeros_like(grid.reward).at[cells].set(jnp.array(PAYS)[:, None])
        drawn = segments_lib.draw(draw_key, transition, uniform, anywhere, (count, 2), LENGTH)
        rank = segments_lib.judge(labellers.Teacher(), segments_lib.partial_return(drawn, true), judge_key)
        mask = jnp.ones(drawn.action.shape, bool)
        nobody = jnp.zeros(count, jnp.int32)
        batch = Judged(steps_of(drawn.state[..., :-1], drawn.action), mask, rank, jnp.ones(count), nobody)
        step = lambda state, key: (agent.update(state, batch, key)[0], None)
        state, _ = jax.lax.scan(step, agent.init(init_key), jax.random.split(key, updates))
        states, actions = jnp.meshgrid(jnp.arange(num_states), jnp.arange(num_actions), indexing="ij")
        reward = agent.reward(state, steps_of(states, actions))
        return jnp.stack(
            [
                reward_metrics.pearson(reward, true),
                reward_metrics.epic_distance(reward, true, GAMMA),
                reward_metrics.starc_distance(reward, true, transition, GAMMA),
            ]
        )

    return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), num_seeds))).T


def entry():
    flags.DEFINE_integer("num_seeds", 20, "Of worlds, pairs and networks.", lower_bound=1)
    flags.DEFINE_list("counts", "20,40,80", "Pairs that are judged.")
    flags.DEFINE_float("weight", 3.0, "Of the prior.", lower_bound=0.0)
    flags.DEFINE_integer("updates", 200, "Of each network, on all pairs.", lower_bound=1)
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    entry()
