"""Do policies that shun risk trade mean for tail, and is the law that they learned the one they meet?

  python -m rljax.experiments.studies.cliff --num_seeds=5 --picture=runs/cliff.png

QR-DQN walks along a cliff with random winds (`rljax/Cliff`), preferring the mean, the mean of the worst quarter (CVaR), Wang's
measure or the mean less variance; it learns from episodes that begin anywhere. Told are the mean and the mean of the worst
quarter of what it then gets in 2,000 episodes, and how far its law of the return from the start is from theirs (1-Wasserstein);
IQM over seeds and 95 % intervals. Along the edge is the best mean, a row further in the best
tail. Dabney et al., 2018, arXiv:1806.06923, section 3.2.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import rljax
from rljax import envs, train
from rljax.agents.distributional import qr_dqn
from rljax.agents.online import dqn
from rljax.evaluate import evaluate, interquartile_mean
from rljax.experiments import cli
from rljax.losses import distributional

FLAGS = flags.FLAGS
TAIL = 0.25
POLICIES = {
    "mean": ("mean", 1.0),
    "worst quarter": ("cvar", TAIL),
    "wang -0.75": ("wang", -0.75),
    "mean - 0.2 variance": ("mean_variance", 0.2),
}
CONFIG = qr_dqn.Config(
    learning_rate=1e-3,
    gamma=1.0,
    huber_delta=0.0,
    num_atoms=40,
    epsilon_end=0.1,
    exploration_steps=2e4,
    target_rate=0.05,
    target_period=1,
    hidden=(64,),
    capacity=20_000,
)


def main(argv):
    cli.reject_arguments(argv)
    env, found = envs.make("rljax/Cliff"), {}
    for name, (preference, number) in POLICIES.items():
        config = CONFIG.replace(preference=preference, preference_number=number)
        found[name] = told = measured(env, config, FLAGS.num_seeds, FLAGS.steps)
        columns = {"mean": told["returns"].mean(1), "worst quarter": worst(told["returns"], TAIL)}
        columns |= {"distance of laws": told["distance"]}
        print(f"{name}: " + "; ".join(f"{column} {interval(x)}" for column, x in columns.items()), flush=True)
    if FLAGS.picture:
        draw(found, FLAGS.picture)


def measured(env, config: qr_dqn.Config, num_seeds: int, steps: int, episodes: int = 2_000) -> dict[str, np.ndarray]:
    """By seed: `returns` [seeds, episodes] of the greedy policy, its learned quantiles of them at the start [seeds, N], and how
    far the two laws are apart."""
    agent = qr_dqn.make(env.spec, config)
    walkable = ~env.terminal & (env.reward[:, 0] == env.reward[0, 0])
    anywhere = env.replace(start=walkable / walkable.sum())
    learner = train.make(agent, qr_dqn.source(anywhere, config))

    def run(key):
        state = learner.run(learner.init(key), steps // config.num_envs)[0].agent
        returns = evaluate(env, agent, state, jax.random.fold_in(key, 1), episodes).returns
        _, start = env.reset(key)
        law = dqn.law(config, dqn.q_network(env.spec, config).apply(state.q.params, start[None]))
        action, _, _ = agent.act(state, start[None], (), key, False)
        quantiles = jnp.sort(law.atoms[0, action[0]])
        even = lambda x: jnp.full(x.shape, 1.0 / x.size)
        return {
            "returns": returns,
            "quantiles": quantiles,
            "distance": distributional.wasserstein(quantiles, even(quantiles), returns, even(returns)),
        }

    keys = jax.random.split(jax.random.key(0), num_seeds)
    return jax.tree.map(np.asarray, jax.jit(lambda keys: jax.lax.map(run, keys))(keys))


def worst(returns: np.ndarray, share: float) -> np.ndarray:
    """The mean of the worst `share` of returns [seeds, episodes], by seed."""
    return np.sort(returns, axis=1)[:, : int(share * returns.shape[1])].mean(axis=1)


def interval(values: np.ndarray) -> str:
    found = interquartile_mean(values)
    return f"{found['iqm']:.2f} ({found['ci95'][0]:.2f} to {found['ci95'][1]:.2f})"


def draw(found: dict[str, dict], path: str) -> None:
    """Of the first seed: quantile functions, learned and met."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(found), 3.0), layout="constrained")
    for panel, (name, told) in zip(figure.subplots(1, len(found), sharey=True), found.items()):
        for what, values in (("met", np.sort(told["returns"][0])), ("learned", told["quantiles"][0])):
            panel.step((np.arange(values.size) + 0.5) / values.size, values, where="mid", label=what)
        panel.set(title=name, xlabel="level")
        panel.grid(alpha=0.3)
    panel.legend()
    figure.supylabel("return")
    figure.savefig(path, dpi=80)


def entry():
    flags.DEFINE_integer("num_seeds", 5, "Seeds of each policy.", lower_bound=2)
    flags.DEFINE_integer("steps", 100_000, "Environment steps of each run.", lower_bound=16)
    flags.DEFINE_string("picture", "", "File for the quantile functions.")
    cli.define_debug_flag()
    app.run(cli.guarded(main))


if __name__ == "__main__":
    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    entry()
