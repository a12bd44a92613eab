"""Off-policy evaluation: what trained agents are worth by a dataset alone, beside what they are worth in the environment.

  python -m rljax.experiments.ope --dataset=data.npz --run_dir=runs/bc --run_dir=runs/iql --steps=20000 --num_seeds=4
  python -m rljax.experiments.ope --dataset=brax/hopper/medium-replay --ladder=brax/hopper --output=ope.json

Every agent of every run (all seeds and points of a sweep) is a policy, and so is each rung of a ladder (experiments/ladders.py),
which explores unless --noexplore is given. Of each, the discounted return from the start states:

  true          rollouts in the environment
  fqe           fitted Q evaluation (agents/offline/fqe.py), `steps` updates, mean over seeds
  wis, wpdis    weighted importance sampling by whole episodes and per decision (rljax/estimators.py)

and over several policies how well each estimate ranks them: Spearman's rank correlation, and what is lost by its first choice.

Importance sampling needs the likelihoods of the data's actions. Where the data have none (experiments/collect.py records them),
those of a clone of who made them stand in, an estimate (agents/offline/bc.py, as many updates). It also needs those of the policy:
there are none for a deterministic policy of continuous actions, which --explore makes random, nor for agents without `log_prob`.

At time limits: rollouts and importance sampling count what is paid until then, the latter also where the recording was cut off; FQE
values go on after them, so it is higher by what would follow, gamma^limit of it.
"""

import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict, config_flags

import rljax
from rljax import estimators, parallel, train
from rljax.agents.offline import bc, fqe
from rljax.data import dataset as dataset_lib
from rljax.data import files
from rljax.data.dataset import Dataset
from rljax.envs import make as make_env
from rljax.errors import UserError
from rljax.evaluate import evaluate
from rljax.experiments import catalog, cli, datasets, ladders
from rljax.experiments.folder import Trained, device, file_name, load, write_json
from rljax.experiments.runner import EVALUATION
from rljax.types import Agent, Continuous, Env, EnvSpec, Tokens

FLAGS = flags.FLAGS
FQE, BEHAVIOUR = 4, 5  # bases of the keys; experiments/datasets.py has those before
BLOCK = 4096  # rows of data at a time, where all are looked at
NO_WEIGHT = "Of some policies every episode of the data has weight 0: they never do what was done."
ESTIMATES = ("fqe", "wis", "wpdis")


def main(argv):
    cli.reject_arguments(argv)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in FLAGS.config.to_dict().items()}
    result = evaluate_offline(
        FLAGS.dataset,
        FLAGS.run_dir,
        FLAGS.steps,
        FLAGS.num_seeds,
        FLAGS.seed,
        FLAGS.episodes,
        FLAGS.explore,
        values,
        FLAGS.ladder,
    )
    folder = FLAGS.run_dir[0] if FLAGS.run_dir else "."
    output = FLAGS.output or pathlib.Path(folder) / f"ope-{file_name(pathlib.Path(FLAGS.dataset).name)}.json"
    pathlib.Path(output).parent.mkdir(parents=True, exist_ok=True)
    write_json(pathlib.Path(output), result)
    print_table(result)
    print(output)


class Candidates(NamedTuple):
    """Policies of one program, which differ in their states and points.

    name: the run's folder, or the ladder's environment. points: of each, [P]; those of `swept` are arguments of `make`.
    """

    name: str
    kind: str
    env_name: str
    env: Env
    make: Callable[[dict[str, Any]], Agent]
    states: Any
    points: list[dict[str, Any]]
    seeds: list[int]
    swept: list[str]
    explore: bool


def of_run(name: str, run: Trained) -> Candidates:
    """The agents of a run."""
    program, plan = run.program, run.program.plan
    points, seeds = zip(*program.runs)
    swept = list(plan.sweep)
    return Candidates(
        name, plan.agent, plan.env, program.env, program.agent, run.states, points, seeds, swept, plan.eval_explore
    )


def of_ladder(env_name: str) -> Candidates:
    """The rungs of an environment's ladder. Raises UserError where there is none."""
    env = make_env(env_name)
    ladder = ladders.load(env_name, env.spec)
    points = [{"rung": i} for i in range(len(ladder.returns))]
    make = lambda point: ladder.agent
    return Candidates(env_name, "rung", env_name, env, make, ladder.states, points, [0] * len(points), [], True)


def evaluate_offline(
    dataset: str,
    run_dirs: list[str],
    steps: int,
    num_seeds: int = 1,
    seed: int = 0,
    num_episodes: int = 100,
    explore: bool | None = None,
    config: dict[str, Any] | None = None,
    ladder: str = "",
) -> dict[str, Any]:
    """Estimates and truth for every agent of some runs and each rung of a ladder; arguments are the flags.

    Args:
      config: fields of fqe.Config; a `reward_scale` of 0 (the default here) makes the data's returns of size 1.
    Raises:
      UserError: there is no such run or dataset, the runs are of different environments, an agent has a memory.
    """
    config = {"reward_scale": 0.0} | (config or {})
    configured = catalog.configure(fqe.__name__, config)
    if not dataset:
        raise UserError("--dataset must name the data, a file or ENV/TIER.")
    if not run_dirs and not ladder:
        raise UserError(
            "--run_dir=DIR must name the folder of a run, and may be given several times; or --ladder=ENV a ladder of policies."
        )
    for name, value, least in (
        ("steps", steps, 1),
        ("num_seeds", num_seeds, 1),
        ("episodes", num_episodes, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise UserError(f"--{name}={value} must be at least {least}.")
    for option in (option for part in datasets.parts(dataset) for option in files.parse(part, datasets.MADE)[1]):
        if option in files.WEIGHTS:
            raise UserError(f"?{option} chooses episodes by their return, and estimates from them would be biased.")
        if option == "every":
            raise UserError("?every takes episodes apart, and estimates need them whole.")
    found = [of_run(str(path), load(path)) for path in run_dirs] + ([of_ladder(ladder)] if ladder else [])
    found = [group if explore is None else group._replace(explore=explore) for group in found]
    names = sorted({group.env_name for group in found})
    if len(names) > 1:
        raise UserError(f"The policies are of different environments: {' and '.join(names)}.")
    env = found[0].env
    if isinstance(env.spec.action, Tokens):
        raise UserError("Off-policy evaluation is of steps; completions are measured by rljax.experiments.answers.")
    for group in found:  # refuses what it cannot evaluate
        fqe.make(env.spec, configured, group.make(group.points[0]), None)
    data = datasets.load(dataset, env.spec)
    configured = scaled(configured, data)
    behaviour = behaviour_log_prob(env.spec, data, steps, seed)

    policies = []
    for group in found:
        values = fitted_values(group, data, configured, steps, num_seeds, seed)
        weighted = importance_sampling(group, data, behaviour, configured.gamma)
        returns, finished = true_returns(group, configured.gamma, num_episodes)
        for i, (point, run_seed) in enumerate(zip(group.points, group.seeds)):
            policies.append(
                {
                    "run_dir": group.name,
                    "agent": group.kind,
                    "point": point,
                    "seed": run_seed,
                    "explore": group.explore,
                    "true": _number(returns[i].mean()),
                    "true_standard_error": _number(returns[i].std() / math.sqrt(num_episodes)),
                    "unfinished": int((~finished[i]).sum()),
                    "fqe": _number(values[i].mean()),
                    "fqe_per_seed": [_number(x) for x in values[i]],
                    **{name: _number(x[i]) for name, x in weighted.items()},
                    "no_wis": why_not(group) or (None if np.isfinite(weighted["wis"][i]) else NO_WEIGHT),
                }
            )
    return {
        "env": names[0],
        "dataset": dataset,
        "steps": steps,
        "num_seeds": num_seeds,
        "episodes": num_episodes,
        "config": catalog.fields(configured),
        "behaviour": "recorded" if "log_prob" in data.transition.extras else "cloned",
        "policies": policies,
        "ranking": {name: ranking(policies, name) for name in ESTIMATES} if len(policies) > 1 else None,
        "device": device(),
    }


def scaled(config: fqe.Config, data: Dataset) -> fqe.Config:
    """The config with a reward scale that makes the data's discounted returns of size 1 in the mean, where it is 0."""
    if config.reward_scale:
        return config
    reward, mask = dataset_lib.by_episode(data, data.transition.reward, longest(data))
    size = float(jnp.abs(estimators.discounted_returns(reward, mask, config.gamma)).mean())
    return config.replace(reward_scale=1.0 / size if size else 1.0)


def longest(data: Dataset) -> int:
    return int(data.length.max())


def behaviour_log_prob(
    spec: EnvSpec, data: Dataset, steps: int, seed: int, config: bc.Config = bc.Config(clipped=True)
) -> jax.Array:
    """Log-likelihoods [N] of the data's actions for who made them: recorded, or for a clone trained on the data."""
    if "log_prob" in data.transition.extras:
        return data.transition.extras["log_prob"]
    agent = bc.make(spec, config)

    @jax.jit
    def clone(data, key):
        learner = train.make(agent, bc.source(None, config, data))
        state, _ = learner.run(learner.init(key), math.ceil(steps / config.num_updates))
        return log_prob_of_data(agent, state.agent, data, True)

    return clone(data, jax.random.fold_in(jax.random.key(BEHAVIOUR), seed))


def log_prob_of_data(agent, state, data: Dataset, explore: bool) -> jax.Array:
    """Log-likelihoods [N] of the data's actions for an agent."""
    one = lambda step: agent.log_prob(state, step[0][None], step[1][None], explore)[0]
    return jax.lax.map(one, (data.transition.observation, data.transition.action), batch_size=BLOCK)


def fitted_values(
    group: Candidates, data: Dataset, config: fqe.Config, steps: int, num_seeds: int, seed: int
) -> np.ndarray:
    """FQE's value of the data's start states, their mean, of each policy [P, num_seeds]."""
    spec, explore = group.env.spec, group.explore
    index = np.repeat(np.arange(len(group.points)), num_seeds)
    fleet = parallel.fleet(len(index))
    iterations = math.ceil(steps / config.num_updates)

    def value(data, state, point, key):
        learn_key, value_key = jax.random.split(key)
        policy = group.make(point)
        agent = fqe.make(spec, config, policy, state, explore)
        learner = train.make(agent, fqe.source(group.env, config, data))
        learned, _ = learner.run(learner.init(learn_key), iterations)
        start = data.transition.observation[data.start]
        return fqe.value_of(spec, config, policy, state, explore)(learned.agent, start, value_key).mean()

    states, points = placed(group, fleet, index)
    keys = fleet.keys([seed + i for _ in group.points for i in range(num_seeds)], FQE)
    data = jax.device_put(data, fleet.replicated)
    values = fleet.to_host(fleet.over(value, num_shared=1)(data, states, points, keys))
    return values.reshape(-1, num_seeds)


def why_not(group: Candidates) -> str | None:
    """Why importance sampling cannot be used for policies, if it cannot."""
    if group.make(group.points[0]).log_prob is None:
        return f"{group.kind} does not know the likelihoods of its actions."
    if isinstance(group.env.spec.action, Continuous) and not group.explore:
        return "A deterministic policy of continuous actions has no density; --explore makes it random."
    return None


def importance_sampling(group: Candidates, data: Dataset, behaviour: jax.Array, gamma: float) -> dict[str, np.ndarray]:
    """Weighted importance sampling of each policy, [P] each; NaN where `why_not` says so."""
    size, length = len(group.points), longest(data)
    if why_not(group):
        return {name: np.full(size, np.nan) for name in ("wis", "wpdis", "effective_sample_size")}
    fleet = parallel.fleet(size)

    def estimate(data, behaviour, state, point):
        log_ratio = log_prob_of_data(group.make(point), state, data, group.explore) - behaviour
        reward, mask = dataset_lib.by_episode(data, data.transition.reward, length)
        log_ratio, _ = dataset_lib.by_episode(data, log_ratio, length)
        return {
            "wis": estimators.weighted_importance_sampling(reward, log_ratio, mask, gamma),
            "wpdis": estimators.weighted_per_decision(reward, log_ratio, mask, gamma),
            "effective_sample_size": estimators.effective_sample_size(log_ratio, mask),
        }

    states, points = placed(group, fleet, np.arange(size))
    shared = jax.device_put((data, behaviour), fleet.replicated)
    return fleet.to_host(fleet.over(estimate, num_shared=2)(*shared, states, points))


def true_returns(group: Candidates, gamma: float, num_episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Discounted returns of each policy in the environment, and whether the episodes finished, [P, num_episodes]."""
    fleet = parallel.fleet(len(group.points))

    def episodes(state, point, key):
        return evaluate(group.env, group.make(point), state, key, num_episodes, group.explore, gamma)

    states, points = placed(group, fleet, np.arange(len(group.points)))
    keys = fleet.keys(list(group.seeds), EVALUATION)
    found = fleet.to_host(fleet.over(episodes)(states, points, keys))
    return found.returns, found.finished


def placed(group: Candidates, fleet: parallel.Fleet, index: np.ndarray) -> tuple[Any, dict[str, jax.Array]]:
    """States and swept numbers of the policies at `index`, laid out for a fleet."""
    states = jax.device_put(jax.tree.map(lambda x: x[index], group.states), fleet.replicated)
    points = {name: np.array([group.points[i][name] for i in index], np.float32) for name in group.swept}
    return fleet.fill(states), fleet.place(points)


def ranking(policies: list[dict[str, Any]], name: str) -> dict[str, float | None]:
    """How an estimate ranks the policies; null where one of them has none."""
    pairs = [(policy[name], policy["true"]) for policy in policies]
    if any(x is None for pair in pairs for x in pair):
        return {"rank_correlation": None, "regret_at_1": None}
    estimate, truth = jnp.array(pairs).T
    return {
        "rank_correlation": _number(estimators.rank_correlation(estimate, truth)),
        "regret_at_1": _number(estimators.regret(estimate, truth)),
    }


def print_table(result: dict[str, Any]) -> None:
    """The estimates of each policy, and how they rank them."""
    from rich.console import Console
    from rich.table import Table

    console, gamma = Console(), result["config"]["gamma"]
    table = Table(
        title=f"{result['env']} by {result['dataset']}, discounted by {gamma:g}, likelihoods {result['behaviour']}"
    )
    for name in ("policy", "true", *ESTIMATES, "effective episodes"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for policy in result["policies"]:
        where = " ".join([pathlib.Path(policy["run_dir"]).name, *(f"{k}={v:g}" for k, v in policy["point"].items())])
        numbers = [policy[name] for name in ("true", *ESTIMATES, "effective_sample_size")]
        table.add_row(f"{where} seed {policy['seed']}", *map(cli.number, numbers))
    for measure in ("rank_correlation", "regret_at_1") if result["ranking"] else ():
        table.add_row(measure, "", *(cli.number(result["ranking"][name][measure]) for name in ESTIMATES), "")
    console.print(table)
    for reason in sorted({policy["no_wis"] for policy in result["policies"]} - {None}):
        print(f"No importance sampling: {reason}")


def _number(x) -> float | None:
    return float(x) if np.isfinite(x) else None


def entry(argv=None):
    """Parse flags, evaluate, and turn what a user can mend into one sentence and a non-zero exit."""
    argv = list(sys.argv if argv is None else argv)
    flags.DEFINE_multi_string("run_dir", [], "Folder of a run; give several to rank the agents of all.")
    flags.DEFINE_string("ladder", "", "Environment whose ladder's rungs are policies too.")
    flags.DEFINE_string("dataset", "", "Data to evaluate by: a file or ENV/TIER (see experiments/datasets.py).")
    flags.DEFINE_integer("steps", 20_000, "Updates of each fitted Q, and of the clone where there is one.")
    flags.DEFINE_integer("num_seeds", 1, "Fitted Qs for each agent.")
    flags.DEFINE_integer("seed", 0, "The first seed of these.")
    flags.DEFINE_integer("episodes", 100, "Episodes of each agent in the environment.")
    flags.DEFINE_bool("explore", None, "Evaluate the exploring policy or not; by default as the run's evaluations did.")
    flags.DEFINE_string(
        "output", None, "File to write; ope-DATASET.json in the first run's folder by default, or here."
    )
    cli.define_debug_flag()
    with cli.one_sentence():
        known = catalog.fields(fqe.Config()) | {"reward_scale": 0.0}
        cli.check_config_flags(argv, known)
        config_flags.DEFINE_config_dict("config", ConfigDict(known), "Settings of fitted Q evaluation.")
    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    app.run(cli.guarded(main), argv)


if __name__ == "__main__":
    entry()
