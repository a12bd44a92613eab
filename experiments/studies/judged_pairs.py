"""How well do scores learned from people's judgements foretell judgements that were held out?

  python -m rljax.experiments.studies.judged_pairs --pairs=DATA/hopper_medium_expert_human_train.npz

Each tenth of the pairs in turn is held out, scores are learned from the others, and told is the share of held-out pairs, ties left
out, in whose order the sums of learned rewards are: of a reward model (by the likelihood that ties have), of IPL (Q - gamma V) and
of CPL (alpha log pi). The interval is over pairs, by bootstrap, of the mean over seeds. Beside them the sum of one entry of the
observation, the best one, chosen on all pairs: what a single number could do.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import rljax
from rljax import train
from rljax.agents.preference import cpl, ipl, reward_model
from rljax.data import feedback as feedback_lib
from rljax.data import files
from rljax.evaluate import scores
from rljax.experiments import cli
from rljax.losses import preference
from rljax.types import Continuous, EnvSpec

FLAGS = flags.FLAGS
FOLDS = 10
SMALL = {"hidden": (64, 64), "segment": 1_000}
CASES = {
    "reward model": (reward_model, {}),
    "reward model, ties by Davidson": (reward_model, {"likelihood": "davidson"}),
    "reward model, ties by Rao and Kupper": (reward_model, {"likelihood": "rao_kupper", "bias": 0.5}),
    "reward model, ties left out": (reward_model, {"likelihood": "decided"}),
    "ipl": (ipl, {"learning_rate": 1e-3}),
    "cpl": (cpl, {"learning_rate": 1e-3, "clone_updates": 200.0}),
    "cpl, bias 1": (cpl, {"learning_rate": 1e-3, "clone_updates": 200.0, "bias": 1.0}),
}


def main(argv):
    cli.reject_arguments(argv)
    data = files.load(FLAGS.pairs)
    label = feedback_lib.labels(data.feedback)
    decided = label != 0.5
    print(f"{len(label)} pairs of {data.feedback.longest} steps, {np.mean(~decided):.0%} ties")
    for name, (module, settings) in CASES.items():
        config = module.Config(**{**SMALL, **settings})
        right = held_out(module, config, data, FLAGS.num_seeds, FLAGS.updates).mean(0)[decided]
        low, high = interval(right)
        print(f"{name}: {right.mean():.3f} ({low:.3f} to {high:.3f})", flush=True)
    judged = feedback_lib.read(data, jnp.arange(len(label)), jax.random.key(0))
    sums = np.asarray(jnp.where(judged.mask[..., None], judged.transition.observation, 0.0).sum(2))
    share = (np.sign(sums[:, 1] - sums[:, 0]) == np.sign(label - 0.5)[:, None])[decided].mean(0)
    best = np.abs(share - 0.5).argmax()
    print(f"entry {best} of the observation, the best of {len(share)}: {max(share[best], 1 - share[best]):.3f}")


def held_out(module, config, data, num_seeds: int, updates: int, num_folds: int = FOLDS) -> np.ndarray:
    """Whether the order of each pair was foretold from the pairs of other folds, [seeds, pairs]: 1, 0, or 1/2 where scores are
    equal; NaN of pairs that are left over, and without meaning of ties."""
    spec = EnvSpec(data.transition.observation.shape[1:], Continuous(data.transition.action.shape[1:]))
    told = data.feedback
    count = told.size // num_folds * num_folds
    folds = np.random.default_rng(0).permutation(told.size)[:count].reshape(num_folds, -1)
    others = np.stack([np.concatenate(np.delete(folds, i, 0)) for i in range(num_folds)])

    def run(data, seen, unseen, key):
        agent = module.make(spec, config)
        source = module.source(None, config, data.replace(feedback=jax.tree.map(lambda x: x[seen], told)))
        learner = train.make(agent, source)
        state = learner.run(learner.init(key), updates // config.num_updates)[0].agent
        judged = feedback_lib.read(data, unseen, key)
        return jax.vmap(preference.agreement)(scores(agent, state, judged), judged.rank)[0]

    keys = jax.random.split(jax.random.key(0), num_seeds)
    over = jax.jit(
        lambda data: jax.lax.map(lambda key: jax.vmap(run, (None, 0, 0, None))(data, others, folds, key), keys)
    )
    right = np.full((num_seeds, told.size), np.nan)
    right[:, folds.ravel()] = np.asarray(over(data)).reshape(num_seeds, -1)
    return right


def interval(right: np.ndarray, repetitions: int = 2_000) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    right = right[np.isfinite(right)]
    means = right[rng.integers(0, len(right), (repetitions, len(right)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def entry():
    flags.DEFINE_string("pairs", None, "File of judged pairs (rljax/data/pairs.py).", required=True)
    flags.DEFINE_integer("num_seeds", 5, "Seeds of each method.", lower_bound=1)
    flags.DEFINE_integer("updates", 1_000, "Of each run.", lower_bound=8)
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    entry()
