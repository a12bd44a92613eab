"""Pictures of environments: each function draws the last of the states so far (host arrays, wrappers taken off) into axes."""

from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Rectangle

from rljax.envs.gymnax import GymnaxEnv
from rljax.envs.pointmaze import LAYOUTS, PointMaze


def frame(axes: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    """Equal scales, no ticks."""
    axes.set(xlim=x, ylim=y, aspect="equal", xticks=[], yticks=[])


def rod(axes: Axes, start, angle, length, color="tab:orange") -> np.ndarray:
    """A rod from `start`, at an angle from straight up, clockwise; returns its other end."""
    end = np.asarray(start) + length * np.array([np.sin(angle), np.cos(angle)])
    axes.plot(*np.transpose([start, end]), color=color, linewidth=6, solid_capstyle="round")
    return end


def cartpole(axes: Axes, env: GymnaxEnv, states: list[Any]) -> None:
    state, limit = states[-1], float(env.params["x_threshold"])
    frame(axes, (-limit, limit), (-0.5, 1.5))
    axes.axhline(0.0, color="black", linewidth=1)
    axes.add_patch(Rectangle((state.x - 0.3, -0.15), 0.6, 0.3, color="tab:blue"))
    rod(axes, (state.x, 0.0), state.theta, 2 * float(env.params["length"]))  # gymnax has half the pole's length


def pendulum(axes: Axes, env: GymnaxEnv, states: list[Any]) -> None:
    length = float(env.params["l"])
    frame(axes, (-1.3 * length, 1.3 * length), (-1.3 * length, 1.3 * length))
    rod(axes, (0.0, 0.0), -states[-1].theta, length)
    axes.plot(0, 0, "ko")


def acrobot(axes: Axes, env: GymnaxEnv, states: list[Any]) -> None:
    """The dashed line is the height to reach."""
    state, first, second = states[-1], float(env.params["link_length_1"]), float(env.params["link_length_2"])
    reach = 1.1 * (first + second)
    frame(axes, (-reach, reach), (-reach, reach))
    axes.axhline(1.0, color="gray", linewidth=1, linestyle="--")
    elbow = rod(axes, (0.0, 0.0), np.pi - state.joint_angle1, first, "tab:blue")
    rod(axes, elbow, np.pi - state.joint_angle1 - state.joint_angle2, second)


def mountain_car(axes: Axes, env: GymnaxEnv, states: list[Any]) -> None:
    height = lambda x: 0.45 * np.sin(3.0 * x) + 0.55
    low, high, goal = (float(env.params[name]) for name in ("min_position", "max_position", "goal_position"))
    frame(axes, (low, high), (-0.1, 1.3))
    hill = np.linspace(low, high, 100)
    axes.plot(hill, height(hill), color="black", linewidth=1)
    axes.plot([goal, goal], [height(goal), height(goal) + 0.2], color="tab:green", linewidth=3)
    axes.plot(states[-1].position, height(states[-1].position) + 0.03, "o", color="tab:blue", markersize=12)


def minatar(axes: Axes, env: GymnaxEnv, states: list[Any]) -> None:
    """A colour for each channel; of several in a cell, the last."""
    observation = np.asarray(env.env.observe(jax.random.key(0), states[-1], None, env.env.default_params))
    channels = observation.shape[-1]
    shown = (observation * np.arange(1, channels + 1)).max(axis=-1)
    axes.set(xticks=[], yticks=[])
    axes.imshow(shown, cmap="nipy_spectral", vmin=0, vmax=channels)


def pointmaze(axes: Axes, env: PointMaze, states: list[Any]) -> None:
    """Walls, the goal, the path so far and the point."""
    right, top = env.middle
    path = np.array([state.position for state in states])
    axes.imshow(env.walls, extent=(-right, right, -top, top), cmap="Greys", vmax=1.5)
    frame(axes, (-right, right), (-top, top))
    axes.add_patch(Circle(states[-1].goal, float(env.goal_radius), color="tab:green", alpha=0.5))
    axes.plot(*path.T, color="tab:blue", linewidth=1.5)
    axes.plot(*path[-1], "o", color="tab:orange")


DRAWINGS = {
    "gymnax/CartPole-v1": cartpole,
    "gymnax/Pendulum-v1": pendulum,
    "gymnax/Acrobot-v1": acrobot,
    "gymnax/MountainCar-v0": mountain_car,
    "gymnax/MountainCarContinuous-v0": mountain_car,
    **{f"gymnax/{game}-MinAtar": minatar for game in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")},
    **{f"rljax/PointMaze-{layout}": pointmaze for layout in LAYOUTS},
}
