"""Watch one episode of one agent of a run.

  python -m rljax.experiments.render --run_dir=runs/ppo-gymnax-CartPole-v1 --index=3
  python -m rljax.experiments.render --run_dir=runs/ppo-brax-hopper --out=hopper.html

A GIF of classic control, MinAtar and mazes; of brax a page for the browser, whose viewer is fetched from the network when opened.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import app, flags

from rljax import parallel
from rljax.envs.wrappers import Wrapper
from rljax.errors import UserError
from rljax.experiments import cli
from rljax.experiments.folder import Folder, load
from rljax.types import Agent, Env, Key, initial_memory

FLAGS = flags.FLAGS
FRAMES_PER_SECOND = 25


def main(argv):
    cli.reject_arguments(argv)
    print(render(cli.run_folder(), FLAGS.index, FLAGS.out, FLAGS.max_steps, FLAGS.explore, FLAGS.seed))


def render(
    folder: Folder,
    index: int = 0,
    out: str | pathlib.Path | None = None,
    max_steps: int = 500,
    explore: bool | None = None,
    seed: int = 0,
) -> str:
    """Write the film of an episode; returns a sentence about it. Arguments are the flags.

    Raises:
      ValueError: no such run, checkpoint or index, an environment that cannot be drawn, or a file's name of another kind.
    """
    from rljax.experiments.drawing import DRAWINGS

    plan = folder.plan()
    name, in_brax = plan.env.partition("?")[0], plan.env.startswith("brax/")
    if name not in DRAWINGS and not in_brax:
        raise UserError(f"{name} cannot be drawn; these can: all of brax/, {', '.join(DRAWINGS)}.")
    suffix = ".html" if in_brax else ".gif"
    path = pathlib.Path(out or folder.path / f"episode-{index}{suffix}")
    if path.suffix != suffix:
        raise UserError(f"--out={path} must end in {suffix}: that is what {name} is drawn as.")
    if max_steps < 1 or seed < 0:
        raise UserError(f"--max_steps={max_steps} must be at least 1 and --seed={seed} not negative.")

    program, states, _ = load(folder.path)
    if not 0 <= index < len(program.runs):
        raise UserError(f"--index={index}: {folder.path} has {len(program.runs)} agents, from 0.")
    agent, state = program.agent(program.runs[index][0]), parallel.select(states, index)
    explore = plan.eval_explore if explore is None else explore
    seen, rewards = record(program.env, agent, state, jax.random.key(seed), max_steps, explore)
    path.parent.mkdir(parents=True, exist_ok=True)
    if in_brax:
        write_page(unwrap(program.env), seen, path)
    else:
        animate(DRAWINGS[name], unwrap(program.env), seen, rewards, path)
    return f"{path}: {len(rewards)} steps, return {cli.number(sum(rewards))}"


def record(
    env: Env, agent: Agent, agent_state: Any, key: Key, max_steps: int, explore: bool = False
) -> tuple[list[Any], list[float]]:
    """One episode: the states [T + 1] of the innermost environment, as host arrays, and the rewards [T]."""

    @jax.jit
    def step(env_state, observation, memory, key):
        act_key, step_key = jax.random.split(key)
        action, memory, _ = agent.act(agent_state, observation[None], memory, act_key, explore)
        env_state, following = env.step(env_state, action[0], step_key)
        return env_state, following, agent.receive(memory, following.reward[None])

    reset_key, key = jax.random.split(key)
    env_state, observation = jax.jit(env.reset)(reset_key)
    memory, seen, rewards, done = initial_memory(agent, 1), [innermost(env_state)], [], False
    while not done and len(rewards) < max_steps:
        env_state, following, memory = step(env_state, observation, memory, jax.random.fold_in(key, len(rewards)))
        observation, done = following.observation, following.terminated | following.truncated
        seen.append(innermost(env_state))
        rewards.append(float(following.reward))
    return seen, rewards


def unwrap(env: Env) -> Env:
    """The environment inside all wrappers."""
    while isinstance(env, Wrapper):
        env = env.env
    return env


def innermost(state: Any) -> Any:
    """The same of a state, on the host. Wrappers keep the state they wrap in `env`; of brax the physics are what is drawn."""
    while hasattr(state, "env"):
        state = state.env
    return jax.device_get(state.brax.pipeline_state if hasattr(state, "brax") else state)


def animate(drawing: Callable, env: Env, states: list[Any], rewards: list[float], path: pathlib.Path) -> None:
    """A GIF with one frame for each state."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import animation, pyplot

    figure, axes = pyplot.subplots(figsize=(4, 4), dpi=80, layout="tight")
    returns = np.cumsum([0.0, *rewards])

    def show(t):
        axes.clear()
        axes.set_title(f"step {t}, return {cli.number(returns[t])}", fontsize=10)
        drawing(axes, env, states[: t + 1])

    film = animation.FuncAnimation(figure, show, frames=len(states))
    film.save(path, writer=animation.PillowWriter(FRAMES_PER_SECOND))
    pyplot.close(figure)


def write_page(env: Any, states: list[Any], path: pathlib.Path) -> None:
    """brax's own viewer."""
    from brax.io import html

    system = env.sys.tree_replace({"opt.timestep": env.env.dt})  # the viewer's time between states
    path.write_text(html.render(system, states))


def entry(argv=None):
    """Parse flags, render, and turn what a user can mend into one sentence and a non-zero exit."""
    flags.DEFINE_integer(
        "index", 0, "Which agent: its place in the run's points and seeds, all seeds of the first point first."
    )
    flags.DEFINE_string("out", None, "File to write; RUN_DIR/episode-INDEX.gif or .html by default.")
    flags.DEFINE_integer("max_steps", 500, "Steps after which an episode is cut.")
    cli.define_acting_flags()
    app.run(cli.guarded(main), argv)


if __name__ == "__main__":
    entry()
