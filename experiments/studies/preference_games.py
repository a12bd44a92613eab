"""Do agents that play themselves come to rest where preferences go round in circles, and at the equilibrium?

  python -m rljax.experiments.studies.preference_games --num_seeds=5 --out=runs/preference-games

A small transformer learns the game of `tokens/rock_paper_scissors-N` from its own completions, by each method of `self_play`. All
completions and prompts are enumerated, so what is told of a policy is exact, in the mean over prompts:

  gap             the duality gap of the game that is regularised by tau, 0 at its equilibrium alone (`rljax.tabular.games`)
  exploitability  by how much the best completion is preferred to the policy's, above 1/2

at the end, and the most of the last quarter. A bare `dpo` has beta = 4 tau: its link is 1/2 + x / 4 near 0, so its rest, where it
has one, is near the equilibrium of tau. `iterated dpo` has the policy of one update before as its reference.
"""

import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Array, Float

import rljax
from rljax import envs, train
from rljax.agents.alignment import self_play
from rljax.envs.tokens import THROWS, RockPaperScissors
from rljax.errors import UserError
from rljax.evaluate import bootstrap
from rljax.experiments import cli
from rljax.names import nearest
from rljax.tabular import games
from rljax.tokens import END, NUM_SPECIAL, PAD

FLAGS = flags.FLAGS
POINTS = 40  # at which a policy is looked at
CONFIG = self_play.Config(width=16, num_layers=1, num_heads=2, num_prompts=16, learning_rate=3e-3, rate=2.0)
LEARNERS: dict[str, dict[str, Any]] = {name: dict(method=name) for name in self_play.METHODS}
LEARNERS["dpo"]["tau"] = LEARNERS["vpo"]["tau"] = LEARNERS["xpo"]["tau"] = 4.0  # times the game's
LEARNERS["iterated dpo"] = LEARNERS["dpo"] | dict(reference_rate=1.0)


def main(argv):
    cli.reject_arguments(argv)
    if FLAGS.updates % POINTS:
        raise UserError(f"--updates={FLAGS.updates} must be a multiple of {POINTS}.")
    for name in FLAGS.learners:
        if name not in LEARNERS:
            raise UserError(f"There is no learner {name!r}; {nearest(name, LEARNERS)}")
    env, tau = envs.make(f"tokens/rock_paper_scissors-{FLAGS.rounds}"), jnp.float32(FLAGS.tau)
    print(f"exploitability of the equilibrium: {at_equilibrium(env, tau):.4f}")
    found = {}
    for name in FLAGS.learners:
        found[name] = courses(env, name, tau, FLAGS.updates, FLAGS.num_seeds)
        for what, x in found[name].items():
            told = {"at the end": x[:, -1], "most of the last quarter": x[:, -POINTS // 4 :].max(axis=1)}
            cli.print_scores(f"{name}: {what}", told)
        if FLAGS.out:
            write(found, FLAGS.updates, pathlib.Path(FLAGS.out))


def courses(env: RockPaperScissors, name: str, tau, updates: int, num_seeds: int) -> dict[str, Float[Array, "N C"]]:
    """The gap and the exploitability of each seed's policy, before the first update and at POINTS later on."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(num_seeds))
    laws = jax.jit(jax.vmap(lambda key: policies(key, env, name, tau, updates)))(keys)
    return jax.device_get(jax.jit(jax.vmap(lambda laws: distances(env, tau, laws)))(laws))


def policies(key, env: RockPaperScissors, name: str, tau, updates: int) -> Float[Array, "C S Y"]:
    """How likely each of all completions is for each prompt, in the course of learning."""
    changes = dict(LEARNERS[name])
    config = CONFIG.replace(tau=changes.pop("tau", 1.0) * tau, **changes)
    agent = self_play.make(env.spec, config)
    learner = train.make(agent, self_play.source(env, config))
    asked = len(THROWS), len(every(env.rounds))
    prompt = jnp.repeat(jnp.arange(asked[0]), asked[1])[:, None] + NUM_SPECIAL
    tokens = jnp.tile(every(env.rounds), (asked[0], 1))
    law = lambda state: jnp.exp(agent.log_prob(state.agent, prompt, tokens).reshape(asked))
    start = learner.init(key)

    def advance(state, _):
        state = learner.run(state, updates // POINTS)[0]
        return state, law(state)

    return jnp.concatenate([law(start)[None], jax.lax.scan(advance, start, length=POINTS)[1]])


def distances(env: RockPaperScissors, tau, laws: Float[Array, "C S Y"]) -> dict[str, Float[Array, " C"]]:
    laws = jnp.maximum(laws, 1e-30)  # 0 log 0

    def of(payoff, reference, policy):
        game = games.Game(payoff, reference, tau)
        return {"gap": games.duality_gap(game, policy), "exploitability": (payoff @ policy).max() - 0.5}

    found = jax.vmap(jax.vmap(of), (None, None, 0))(payoffs(env), laws[0], laws)
    return jax.tree.map(lambda x: x.mean(axis=1), found)


def at_equilibrium(env: RockPaperScissors, tau) -> Float[Array, ""]:
    """The exploitability of the regularised equilibrium, of a reference to which all tokens are alike; all prompts' is one."""
    tokens = (every(env.rounds) != PAD).sum(axis=1)
    reference = jnp.asarray((1.0 + len(THROWS)) ** -tokens)
    payoff = payoffs(env)[0]
    policy = jax.jit(games.equilibrium)(games.Game(payoff, reference, tau))
    return (payoff @ policy).max() - 0.5


def payoffs(env: RockPaperScissors) -> Float[Array, "S Y Y"]:
    """P(the row's completion is better than the column's), for each prompt."""
    prefer = jax.vmap(jax.vmap(env.prefer, (None, None, 0)), (None, 0, None))
    return jax.vmap(prefer, (0, None, None))(jnp.arange(len(THROWS)), every(env.rounds), every(env.rounds))


def every(rounds: int) -> np.ndarray:
    """All completions [Y, T], those that end early too."""
    throws = range(NUM_SPECIAL, NUM_SPECIAL + len(THROWS))
    early = lambda size: (END, *[PAD] * (rounds - size - 1)) if size < rounds else ()
    return np.array(
        [(*written, *early(size)) for size in range(rounds + 1) for written in itertools.product(throws, repeat=size)],
        np.int32,
    )


def write(found: dict[str, dict[str, Float[Array, "N C"]]], updates: int, folder: pathlib.Path) -> None:
    """`courses.csv`, a row for each learner, seed and point, and the picture `courses.png`."""
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    rows = ["learner,seed,updates,gap,exploitability"]
    for name, course in found.items():
        for seed, point in np.ndindex(course["gap"].shape):
            numbers = course["gap"][seed, point], course["exploitability"][seed, point]
            rows.append(f"{name},{seed},{point * updates // POINTS},{numbers[0]:.5f},{numbers[1]:.5f}")
    (folder / "courses.csv").write_text("\n".join(rows) + "\n")

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharex=True)
    at = np.linspace(0, updates, POINTS + 1)
    for panel, what in zip(axes, ("gap", "exploitability")):
        for name, course in found.items():
            middle, low, high = bootstrap(course[what], repetitions=500)
            (line,) = panel.plot(at, middle, label=name)
            panel.fill_between(at, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        panel.set(xlabel="updates", ylabel=what, yscale="log")
    axes[0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(folder / "courses.png", dpi=100)
    plt.close(figure)


def entry():
    flags.DEFINE_integer("num_seeds", 5, "Of each learner.", lower_bound=2)
    flags.DEFINE_integer("updates", 800, f"A multiple of {POINTS}.", lower_bound=POINTS)
    flags.DEFINE_enum("rounds", "2", ["1", "2", "3"], "Throws of a completion.")
    flags.DEFINE_float("tau", 0.05, "Of the regularised game.", lower_bound=1e-3)
    flags.DEFINE_list("learners", list(LEARNERS), f"Of {', '.join(LEARNERS)}.")
    flags.DEFINE_string("out", "", "Folder for the courses, as numbers and as a picture.")
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    rljax.runtime.use_cpu_devices(1)
    entry()
