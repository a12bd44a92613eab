"""Measure speed here and now: environment steps and updates per second, compile seconds, peak memory.

  python -m rljax.experiments.benchmark                       the agents on their small environments
  python -m rljax.experiments.benchmark --cases=ppo:brax/hopper,dqn:gymnax/CartPole-v1,'dqn?prioritised=True:gymnax/CartPole-v1'
  python -m rljax.experiments.benchmark --handwritten         PPO against the same by hand, turn by turn
  python -m rljax.experiments.benchmark --seeds=16            16 seeds of each case in one program against 16 times one seed
  python -m rljax.experiments.benchmark --peers=.venv-peers/bin/python    against rejax and Stable-Baselines3 (make benchmark-peers)
  python -m rljax.experiments.benchmark --offline_peers=.venv-peers/bin/python      offline agents against d3rlpy, turn by turn
  python -m rljax.experiments.benchmark --imitation_peer=.venv-imitation/bin/python    GAIL against the imitation library
  python -m rljax.experiments.benchmark --law_peers=.venv-peers/bin/python      QR-DQN and TQC against sb3-contrib, turn by turn
  python -m rljax.experiments.benchmark --token_peer=.venv-peers/bin/python     GRPO against TRL, turn by turn

Agents that learn from data read 20,000 random steps of their environment. Machines are noisy: compare ratios of one run, not
numbers of two. Times are medians and leave compiling out.
"""

import ast
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time
import urllib.parse

import jax
from absl import app, flags

import rljax
from rljax import parallel, train
from rljax.errors import UserError
from rljax.experiments import catalog, cli
from rljax.experiments.plan import Plan, Program

FLAGS = flags.FLAGS

CASES = ("ppo:gymnax/CartPole-v1", "dqn:gymnax/CartPole-v1", "sac:gymnax/Pendulum-v1", "td3:gymnax/Pendulum-v1")
CHUNK_SECONDS = 2.0  # of a timed chunk, about
PEERS = ("rejax", "stable-baselines3")
OFFLINE = ("iql", "cql", "td3_bc", "dt")
LAWS = ("qr_dqn_small", "qr_dqn", "tqc")
TOKENS = ("few", "small", "large")


def define_flags():
    flags.DEFINE_list(
        "cases", list(CASES), "AGENT:ENVIRONMENT pairs, an agent's settings as in dqn?num_atoms=8&head=quantile."
    )
    flags.DEFINE_integer("num_seeds", 2, "Seeds side by side.", lower_bound=1)
    flags.DEFINE_enum("layout", "auto", list(parallel.LAYOUTS), "How seeds share devices.")
    flags.DEFINE_integer("repetitions", 7, "Timed chunks of each program.")
    flags.DEFINE_bool("handwritten", False, "Compare PPO on CartPole with one file without this library.")
    flags.DEFINE_integer("seeds", 0, "Compare so many seeds in one program with as many times one seed.", lower_bound=0)
    flags.DEFINE_string("peers", None, "Python of an environment with rejax and Stable-Baselines3.")
    flags.DEFINE_integer("peer_steps", 500_000, "Environment steps of the comparison with peers.")
    flags.DEFINE_string("offline_peers", None, "Python of an environment with d3rlpy.")
    flags.DEFINE_string("imitation_peer", None, "Python of an environment with the imitation library.")
    flags.DEFINE_string("law_peers", None, "Python of an environment with sb3-contrib.")
    flags.DEFINE_string("token_peer", None, "Python of an environment with TRL.")
    flags.DEFINE_string("out", None, "Also write the numbers to this JSON file.")
    flags.DEFINE_bool("debug", False, "Show the traceback of errors.")


def main(argv):
    cli.reject_arguments(argv)
    cases = [parsed(text) for text in FLAGS.cases]
    if FLAGS.handwritten:
        results = handwritten(FLAGS.repetitions)
    elif FLAGS.seeds:
        results = [entry for text in cases for entry in seeds(*text, FLAGS.seeds, FLAGS.repetitions)]
    elif FLAGS.peers:
        results = peers(FLAGS.peers, FLAGS.peer_steps)
    elif FLAGS.offline_peers:
        results = in_turns("offline_peers.py", FLAGS.offline_peers, "d3rlpy", OFFLINE, FLAGS.repetitions)
    elif FLAGS.law_peers:
        results = in_turns("law_peers.py", FLAGS.law_peers, "sb3-contrib", LAWS, FLAGS.repetitions)
    elif FLAGS.token_peer:
        what = "completions_per_second"
        results = in_turns("token_peers.py", FLAGS.token_peer, "trl", TOKENS, FLAGS.repetitions, what)
    elif FLAGS.imitation_peer:
        results = imitation_peer(FLAGS.imitation_peer, FLAGS.repetitions)
    else:
        results = [case(*text, FLAGS.num_seeds, FLAGS.layout, FLAGS.repetitions) for text in cases]
    show(results)
    if FLAGS.out:
        pathlib.Path(FLAGS.out).write_text(json.dumps(results, indent=2) + "\n")


def parsed(text: str) -> tuple[str, str, dict]:
    """Agent, environment and settings of a case. Raises UserError where it is not of this form."""
    named, colon, env = text.partition(":")
    agent, _, query = named.partition("?")
    options = urllib.parse.parse_qsl(query, keep_blank_values=True)
    if not colon or not all(value for _, value in options):
        raise UserError(
            f"--cases={text} is no AGENT:ENVIRONMENT, as {CASES[0]} or dqn?prioritised=True:gymnax/CartPole-v1."
        )
    return agent, env, {name: _value(value) for name, value in options}


def _value(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def case(agent: str, env: str, settings: dict, num_seeds: int, layout: str, repetitions: int) -> dict:
    """Speed of one agent in one environment, with the settings tuned for it and then these, all seeds counted together."""
    config = catalog.fields(catalog.configure(agent, catalog.tuned(agent, env) | settings))
    config = {**config, **({"total_steps": 1e9} if "total_steps" in config else {})}
    dataset = f"{env}/random?transitions=20000" if catalog.needs_data(agent) else ""
    program = Program(Plan(agent, env, 10**9, num_seeds, config=config, layout=layout, dataset=dataset))
    run, state = compiled(program, 1)
    state, seconds = timed(run, state)
    iterations = max(1, round(CHUNK_SECONDS / max(seconds, 1e-4)))
    start = time.perf_counter()
    run, _ = compiled(program, iterations)
    compile_seconds = time.perf_counter() - start
    state, _ = timed(run, state)
    times = []
    for _ in range(repetitions):
        state, seconds = timed(run, state)
        times.append(seconds)
    per_iteration = statistics.median(times) / iterations
    return {
        "what": " ".join([agent, env, *(f"{name}={value}" for name, value in settings.items())]),
        "num_seeds": num_seeds,
        "env_steps_per_second": round(num_seeds * program.source.env_steps / per_iteration),
        "updates_per_second": round(num_seeds * program.source.num_batches / per_iteration, 1),
        "compile_seconds": round(compile_seconds, 1),
        "peak_memory_mb": peak_memory(),
    }


def compiled(program: Program, iterations: int):
    """A chunk of all runs of a program, compiled, and a state to start it from."""
    keys, points = program.inputs()
    data, over = program.given, program.fleet.over
    state = over(lambda data, key, point: program.learner(point, data).init(key), num_shared=1)(data, keys, points)
    run = lambda data, state, point: program.learner(point, data).run(state, iterations)
    chunk = over(run, donate=(1,), num_shared=1)
    chunk = chunk.lower(data, state, points).compile()
    return lambda state: chunk(data, state, points), state


def timed(run, state):
    """The state after a chunk, and the seconds it took."""
    start = time.perf_counter()
    state, metrics = run(state)
    jax.block_until_ready(metrics)
    return state, time.perf_counter() - start


def handwritten(repetitions: int, num_envs: int = 64, length: int = 128, iterations: int = 40) -> list[dict]:
    """PPO on CartPole by this library and by hand, one seed on one device, in turns."""
    from rljax.experiments.benchmarks import handwritten_ppo

    ppo, env_name = catalog.agent("ppo"), "gymnax/CartPole-v1"
    env, config = rljax.envs.make(env_name), ppo.Config(num_envs=num_envs, rollout_length=length)
    learner = train.make(ppo.make(env.spec, config), ppo.source(env, config))
    init, iterate = handwritten_ppo.make("CartPole-v1", num_envs, length)

    def by_hand(state):
        return jax.lax.scan(lambda state, _: iterate(state), state, length=iterations)

    programs = {
        "rljax": (learner.init, lambda state: learner.run(state, iterations)),
        "by hand": (init, by_hand),
    }
    steps, results, running = num_envs * length * iterations, {}, {}
    for name, (start_state, chunk) in programs.items():
        state = jax.jit(start_state)(jax.random.key(0))
        start = time.perf_counter()
        run = jax.jit(chunk, donate_argnums=0).lower(state).compile()
        results[name] = {
            "what": f"PPO CartPole, {name}",
            "num_seeds": 1,
            "compile_seconds": round(time.perf_counter() - start, 1),
        }
        running[name] = (run, timed(run, state)[0])
    rates = {name: [] for name in programs}
    for _ in range(repetitions):
        for name, (run, state) in running.items():
            state, seconds = timed(run, state)
            running[name] = (run, state)
            rates[name].append(steps / seconds)
    for name in programs:
        results[name]["env_steps_per_second"] = round(statistics.median(rates[name]))
    ratios = [a / b for a, b in zip(rates["rljax"], rates["by hand"])]
    results["rljax"]["ratio"] = {
        "to": "by hand",
        "median": statistics.median(ratios),
        "min": min(ratios),
        "max": max(ratios),
    }
    return list(results.values())


def seeds(agent: str, env: str, settings: dict, count: int, repetitions: int) -> list[dict]:
    """Updates a second of one seed, and of many in one program laid out in each way, all counted together."""
    one = case(agent, env, settings, 1, "map", repetitions)
    many = [case(agent, env, settings, count, layout, repetitions) for layout in ("devices", "vmap", "map")]
    for entry, layout in zip(many, ("devices", "vmap", "map")):
        entry["what"] += f", {layout}"
        ratio = entry["updates_per_second"] / one["updates_per_second"]
        entry["ratio"] = {"to": "one seed after another", "median": ratio, "min": ratio, "max": ratio}
    return [one, *many]


def peers(python: str, steps: int) -> list[dict]:
    """PPO on CartPole for the same budget: this library (compiling included, and apart), rejax and Stable-Baselines3.

    Raises ValueError where that Python has them not.
    """
    results = []
    for name in ("rljax", *PEERS):
        found = by_script("peers.py", python, name, str(steps))
        results.append({"what": f"PPO CartPole, {name}", "num_seeds": 1, **found})
    for entry in results[1:]:
        ratio = entry["total_seconds"] / results[0]["total_seconds"]
        entry["ratio"] = {"to": "seconds of rljax, all included", "median": ratio, "min": ratio, "max": ratio}
    return results


def in_turns(
    script: str,
    python: str,
    peer: str,
    cases: tuple[str, ...],
    repetitions: int,
    what: str = "updates_per_second",
) -> list[dict]:
    """So many of `what` a second in each case on one thread, this library and a peer in turns. Raises as `peers`."""
    results = []
    for case_name in cases:
        rates = {"rljax": [], peer: []}
        for _ in range(repetitions):
            for name, found in rates.items():
                found.append(by_script(script, python, name, case_name)[what])
        ratios = [a / b for a, b in zip(*rates.values())]
        ratio = {"to": peer, "median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        for name, found in rates.items():
            results.append({"what": f"{case_name}, {name}", what: round(statistics.median(found), 1)})
        results[-2]["ratio"] = ratio
    return results


def imitation_peer(python: str, repetitions: int) -> list[dict]:
    """GAIL on CartPole by this library, one seed and 16 in one program, and by imitation's, in turns. Raises as `peers`."""
    cases = {"rljax": ("rljax", "1"), "rljax, 16 seeds": ("rljax", "16"), "imitation": ("imitation", "1")}
    turns = [
        {name: by_script("imitation_peers.py", python, *arguments) for name, arguments in cases.items()}
        for _ in range(repetitions)
    ]
    results = []
    for name, (_, num_seeds) in cases.items():
        speeds = [turn[name]["env_steps_per_second"] for turn in turns]
        ratios = [speed / turn["imitation"]["env_steps_per_second"] for speed, turn in zip(speeds, turns)]
        ratio = {"to": "imitation", "median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        found = {"what": f"GAIL CartPole, {name}", "num_seeds": int(num_seeds), **turns[-1][name]}
        results.append(found | {"env_steps_per_second": round(statistics.median(speeds)), "ratio": ratio})
    return results


def by_script(script: str, python: str, library: str, *arguments: str) -> dict:
    """What a script of benchmarks/ prints of a library: of this one by this Python, of others by theirs."""
    path = pathlib.Path(__file__).parent / "benchmarks" / script
    command = [sys.executable if library == "rljax" else python, str(path), library, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{library} did not run in {python}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_memory() -> int:
    """Peak memory in MB: of the device where it tells, else of this process so far."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return round(stats["peak_bytes_in_use"] / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def show(results: list[dict]) -> None:
    """The numbers as a table."""
    from rich.console import Console
    from rich.table import Table

    columns = list(dict.fromkeys(name for entry in results for name in entry))
    table = Table()
    for name in columns:
        table.add_column(name.replace("_", " "), justify="left" if name in ("what", "ratio") else "right")
    for entry in results:
        table.add_row(*(_shown(entry.get(name)) for name in columns))
    Console(width=160).print(table)


def _shown(value) -> str:
    if isinstance(value, dict):
        spread = f" ({value['min']:.2f} to {value['max']:.2f})" if value["min"] != value["max"] else ""
        return f"{value['median']:.2f}{spread} of {value['to']}"
    return "" if value is None else f"{value:,}" if isinstance(value, int | float) else str(value)


def entry():
    define_flags()
    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    app.run(cli.guarded(main))


if __name__ == "__main__":
    entry()
