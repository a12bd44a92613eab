"""Does an ensemble of learned rewards keep a policy from climbing what only the reward believes in?

  python -m rljax.experiments.studies.overoptimisation --num_seeds=8

All completions of six tokens out of four are enumerated, so nothing is sampled but the judgements. The true reward is a sum of
numbers of neighbouring tokens, drawn anew for each seed; the reference writes all completions alike. Some transformers learn from
the same few pairs of its completions, a quarter of them judged the wrong way round, for several passes (`completion_reward`).
Then the policy is the exact one for each learned reward: in proportion to e^(reward / beta), by beta, or the best of n. Told, by
its divergence from the reference, is the true reward, in its own deviations under the reference, where the policy climbs single
networks (the mean over them), the mean of all, the worst case (WCO) or the mean less the variance (UWO).

Coste et al., 2023, arXiv:2310.02743.
"""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Array, Float, Int

import rljax
from rljax.agents.alignment import completion_reward, writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.evaluate import interquartile_mean
from rljax.experiments import cli
from rljax.losses import outcome
from rljax.networks import language_model
from rljax.tokens import NUM_SPECIAL
from rljax.types import EnvSpec, Tokens

FLAGS = flags.FLAGS
SYMBOLS, LENGTH = 4, 6
SPEC = EnvSpec((1,), Tokens(NUM_SPECIAL + SYMBOLS, LENGTH), episode_length=1)
EVERY = np.array(list(itertools.product(range(SYMBOLS), repeat=LENGTH)), np.int32) + NUM_SPECIAL  # [Y, T]
PROMPT = NUM_SPECIAL
ENSEMBLES = ("mean", "worst_case", "uncertainty_weighted")
CONFIG = completion_reward.Config(
    width=32, num_layers=1, num_heads=2, group_size=2, num_models=5, num_prompts=50, learning_rate=3e-3
)


class Climbed(NamedTuple):
    """For a reward that was climbed, at each step of a schedule [K]: how far from the reference in nats, and the true reward."""

    kl: Float[Array, " K"]
    gold: Float[Array, " K"]


def main(argv):
    cli.reject_arguments(argv)
    levels, weight = cli.numbers("kl", float, 2), jnp.float32(FLAGS.uncertainty_weight)
    check(FLAGS.pairs, levels)
    run = jax.jit(
        lambda key, every: measured(key, every, FLAGS.pairs, FLAGS.passes, FLAGS.flip, weight, jnp.array(levels))
    )
    found = jax.tree.map(lambda *x: np.stack(x), *[jax.device_get(run(key, EVERY)) for key in keys(FLAGS.num_seeds)])
    cli.print_scores("correlation with the true reward", found.pop("correlation"))
    for how, gold in found.items():
        print(f"true reward at {', '.join(f'{level:g}' for level in levels)} nats, {how}")
        for name, x in gold.items():
            print(f"  {name}: {intervals(x)}; lost since the highest {intervals(x.max(axis=1) - x[:, -1])}")
        for name in ENSEMBLES:
            print(f"  {name}, more than by single ones: {intervals(gold[name] - gold['single'])}")


def intervals(x) -> str:
    """Of each column of scores [seeds, ...], the IQM and its interval."""
    found = [interquartile_mean(column) for column in x.reshape(len(x), -1).T]
    return ", ".join(f"{f['iqm']:.2f} ({f['ci95'][0]:.2f} to {f['ci95'][1]:.2f})" for f in found)


def keys(num_seeds: int):
    return [jax.random.fold_in(jax.random.key(0), seed) for seed in range(num_seeds)]


def measured(key, every: Int[Array, "Y T"], pairs: int, passes: int, flip, weight, levels) -> dict:
    """The true reward at levels of the divergence [L], by how it is climbed and by reward; and its correlation with each reward."""
    gold_key, data_key, fit_key = jax.random.split(key, 3)
    gold = true_reward(gold_key, every)
    learned = fitted(gold, every, data_key, fit_key, pairs, passes, flip)  # [M, Y]
    rewards = {"single": learned} | {name: outcome.ENSEMBLES[name](learned, weight)[None] for name in ENSEMBLES}
    inverse = jnp.concatenate([jnp.zeros(1), jnp.geomspace(1e-2, 1e3, 400)])
    number = jnp.geomspace(1.0, 20.0 * len(every), 200)
    at = lambda climbed: jnp.interp(levels, climbed.kl, climbed.gold)
    ways = {
        "tilted": lambda reward: at(tilted(reward, gold, inverse)),
        "best of n": lambda reward: at(best_of(reward, gold, number)),
        "correlation": lambda reward: jnp.corrcoef(reward, gold)[0, 1],
    }
    mean = lambda way, rewards: jax.vmap(way)(rewards).mean(axis=0)  # over the single networks
    return {how: {name: mean(way, x) for name, x in rewards.items()} for how, way in ways.items()}


def true_reward(key, every) -> Float[Array, " Y"]:
    """Numbers of each pair of neighbouring places and tokens, summed; mean 0 and deviation 1 over all completions."""
    table = jax.random.normal(key, (LENGTH - 1, SYMBOLS, SYMBOLS))
    tokens = every - NUM_SPECIAL
    total = table[np.arange(LENGTH - 1), tokens[:, :-1], tokens[:, 1:]].sum(axis=1)
    return (total - total.mean()) / total.std()


def check(pairs: int, kls: list[float]) -> None:
    """Raises UserError for settings that the study cannot have."""
    if pairs % CONFIG.num_prompts:
        raise UserError(f"--pairs={pairs} must be a multiple of {CONFIG.num_prompts}, the judgements of a batch.")
    if not all(0.0 <= kl <= math.log(len(EVERY)) for kl in kls):
        raise UserError(f"--kl must be nats from 0 to {math.log(len(EVERY)):.2f}, the logarithm of all completions.")


def fitted(gold, every, data_key, fit_key, pairs: int, passes: int, flip) -> Float[Array, "M Y"]:
    """What each network makes of all completions, its mean taken off, after `passes` over `pairs` judgements in new orders."""
    agent = completion_reward.make(SPEC, CONFIG)
    draw_key, flip_key = jax.random.split(data_key)
    chosen = jax.random.randint(draw_key, (pairs, 2), 0, len(every))
    paid = gold[chosen]
    judged = jnp.where(jax.random.bernoulli(flip_key, flip, (pairs, 1)), -paid, paid)
    data = Completions(jnp.full((pairs, 1), PROMPT), every[chosen], jnp.zeros((pairs, 2, LENGTH)), judged)
    init_key, order_key = jax.random.split(fit_key)

    def one_pass(state, key):
        order_key, update_key = jax.random.split(key)
        order = jax.random.permutation(order_key, pairs).reshape(-1, CONFIG.num_prompts)
        step = lambda state, rows: agent.update(state, jax.tree.map(lambda x: x[rows], data), update_key)  # no noise
        return jax.lax.scan(step, state, order)[0], None

    state, _ = jax.lax.scan(one_pass, agent.init(init_key), jax.random.split(order_key, passes))
    network, prompt = writer.network_of(SPEC, CONFIG, outputs=1), jnp.full((len(every), 1), PROMPT)
    score = lambda params: language_model.completion_score(network, params, prompt, every)
    found = jax.lax.map(score, state.reward.params)
    return found - found.mean(axis=1, keepdims=True)


def tilted(reward: Float[Array, " Y"], gold: Float[Array, " Y"], inverse: Float[Array, " K"]) -> Climbed:
    """The policies in proportion to e^(inverse reward), of a reward over its own deviation; 0 is the reference."""

    def climbed(inverse):
        log_prob = jax.nn.log_softmax(inverse * reward / reward.std())
        prob = jnp.exp(log_prob)
        return Climbed(prob @ (log_prob + jnp.log(reward.size)), prob @ gold)

    return jax.vmap(climbed)(inverse)


def best_of(reward: Float[Array, " Y"], gold: Float[Array, " Y"], number: Float[Array, " K"]) -> Climbed:
    """The policies that draw so many completions and keep the best; 1 is the reference."""
    order, size = jnp.argsort(reward), reward.size

    def climbed(number):
        prob = jnp.diff(
            (jnp.arange(size + 1) / size) ** number
        )  # all are among the worst i, but not among the worst i - 1
        log_prob = jnp.log(jnp.where(prob > 0.0, prob, 1.0))
        return Climbed(prob @ (log_prob + jnp.log(size)), prob @ gold[order])

    return jax.vmap(climbed)(number)


def entry():
    flags.DEFINE_integer("num_seeds", 8, "True rewards, each with judgements and networks of its own.", lower_bound=2)
    flags.DEFINE_integer("pairs", 300, "Judgements, a multiple of 50.", lower_bound=50)
    flags.DEFINE_integer("passes", 30, "Over the judgements.", lower_bound=1)
    flags.DEFINE_float("flip", 0.25, "Share of judgements that are turned round.", lower_bound=0.0, upper_bound=0.5)
    flags.DEFINE_float("uncertainty_weight", 0.5, "Of the variance.", lower_bound=0.0)
    flags.DEFINE_list("kl", ["1", "2", "4", "8"], "Nats at which the true reward is told; two or more.")
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    entry()
