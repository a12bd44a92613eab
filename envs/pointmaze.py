"""A point mass in a walled maze, with a distant goal.

The mazes are those of D4RL's maze2d (Fu et al., "D4RL: Datasets for Deep Data-Driven Reinforcement Learning",
arXiv:2004.07219) and of Gymnasium-Robotics' PointMaze, whose time limits, mass, motor, damping, speed limit, step and goal
radius these are too. The dynamics are our own: a point (no ball) that slides along walls without friction. Coordinates are
those of Gymnasium-Robotics: one unit a cell, the origin in the middle of the maze, x along the columns, y up against the
rows. A cell is an int32 pair [row, column].
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rljax.errors import UserError
from rljax.record import record, static
from rljax.types import Continuous, EnvSpec, Key, TimeStep

# One character a cell: a wall (#), free (.), or free and the fixed goal of D4RL's maze2d (G).
LAYOUTS = {
    "umaze": """
        #####
        #G..#
        ###.#
        #...#
        #####""",
    "medium": """
        ########
        #..##..#
        #..#...#
        ##...###
        #..#...#
        #.#..#.#
        #...#.G#
        ########""",
    "large": """
        ############
        #....#.....#
        #.##.#.#.#.#
        #......#...#
        #.####.###.#
        #..#.#.....#
        ##.#.#.#.###
        #..#...#.G.#
        ############""",
}
EPISODE_LENGTHS = {"umaze": 300, "medium": 600, "large": 800}

MARGIN = 1e-3  # how close the point comes to a wall that stops it
LONGEST_MOVE = 0.99  # in one step along one axis: less than a cell, so that no wall is jumped


@record
class PointMazeState:
    position: Float[Array, "2"]
    velocity: Float[Array, "2"]
    goal: Float[Array, "2"]
    time: Int[Array, ""]


@record
class PointMaze:
    """Push a point to the goal. Observation [x, y, vx, vy, goal_x, goal_y]; the action in [-1, 1]^2 is the force.

    Reward: 1 within `goal_radius` of the goal, else 0; or, if `dense`, minus the distance to it.
    Ends: terminated at the goal (if `terminate_at_goal`), truncated after `episode_length` steps.
    Start: at rest in a random cell other than the goal's (but that one, if there is no other), off its centre by noise.

    walls: [H, W]; closed all around. `start` and `goal` [H, W] weigh the cells in which an episode may start and its goal
    may lie: they need not sum to one, and a single non-zero fixes the cell. All fields but the static ones may be vmapped.
    """

    walls: Bool[Array, "H W"]
    start: Float[Array, "H W"]
    goal: Float[Array, "H W"]
    start_noise: Float[Array, ""]  # uniform, to either side
    goal_noise: Float[Array, ""]
    goal_radius: Float[Array, ""]
    force: Float[Array, ""]
    damping: Float[Array, ""]
    mass: Float[Array, ""]
    max_speed: Float[Array, ""]  # along each axis
    dt: Float[Array, ""]
    dense: bool = static(False)
    terminate_at_goal: bool = static(True)
    episode_length: int = static(300)

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec((6,), Continuous((2,)), self.episode_length)

    def reset(self, key: Key) -> tuple[PointMazeState, Float[Array, "6"]]:
        goal_key, start_key, noise_key = jax.random.split(key, 3)
        goal_noise, start_noise = jax.random.uniform(noise_key, (2, 2), minval=-1.0)
        cells = jnp.asarray(np.argwhere(np.ones(self.walls.shape)), jnp.int32)
        goal_cell = jax.random.choice(goal_key, cells, p=normalise(self.goal))
        elsewhere = jnp.where((cells == goal_cell).all(-1).reshape(self.walls.shape), 1e-9, 1.0)
        start_cell = jax.random.choice(start_key, cells, p=normalise(self.start * elsewhere))
        goal = self.centre_of(goal_cell) + self.goal_noise * goal_noise
        start = self.centre_of(start_cell) + self.start_noise * start_noise
        state = PointMazeState(start, jnp.zeros(2), goal, jnp.int32(0))
        return state, observe(state)

    def step(self, state: PointMazeState, action: Float[Array, "2"], key: Key) -> tuple[PointMazeState, TimeStep]:
        del key
        force = self.force * jnp.clip(action, -1.0, 1.0) - self.damping * state.velocity
        velocity = jnp.clip(state.velocity + self.dt * force / self.mass, -self.max_speed, self.max_speed)
        position, velocity = self._move_along(0, state.position, velocity)
        position, velocity = self._move_along(1, position, velocity)
        state = PointMazeState(position, velocity, state.goal, state.time + 1)

        distance = jnp.linalg.norm(position - state.goal)
        reached = distance <= self.goal_radius
        terminated = reached if self.terminate_at_goal else jnp.zeros_like(reached)
        return state, TimeStep(
            observation=observe(state),
            reward=-distance if self.dense else reached.astype(jnp.float32),
            terminated=terminated,
            truncated=(state.time >= self.episode_length) & ~terminated,
        )

    def _move_along(self, axis: int, position, velocity):
        """Move along one axis; a wall stops the point at the border of its cell and takes its velocity along it."""
        along = np.arange(2) == axis
        ahead = position + jnp.where(along, jnp.clip(velocity * self.dt, -LONGEST_MOVE, LONGEST_MOVE), 0.0)
        hit = along & self.walls[tuple(self.cell_of(ahead))]
        border = jnp.floor(position + self.middle) - self.middle  # the lower left one, the upper right is one unit on
        stopped = jnp.clip(ahead, border + MARGIN, border + 1.0 - MARGIN)
        return jnp.where(hit, stopped, ahead), jnp.where(hit, 0.0, velocity)

    @property
    def middle(self) -> Float[np.ndarray, "2"]:
        """Half the maze's width and height: where the origin is, as seen from the lower left corner."""
        return np.array(self.walls.shape[::-1], np.float32) / 2

    def cell_of(self, position: Float[Array, "2"]) -> Int[Array, "2"]:
        """The cell [row, column] in which a position [x, y] lies."""
        column, level = jnp.floor(position + self.middle).astype(jnp.int32)
        return jnp.stack([self.walls.shape[0] - 1 - level, column])

    def centre_of(self, cell: Int[Array, "2"]) -> Float[Array, "2"]:
        """The position [x, y] of the middle of a cell [row, column]."""
        half_width, half_height = self.middle
        return jnp.stack([cell[1] + 0.5 - half_width, half_height - cell[0] - 0.5])


def observe(state: PointMazeState) -> Float[Array, "6"]:
    return jnp.concatenate([state.position, state.velocity, state.goal])


def normalise(weights: Float[Array, "H W"]) -> Float[Array, " H*W"]:
    return weights.ravel() / weights.sum()


# --- Planning ---------------------------------------------------------------------------------------------------------


def distance_table(walls: Bool[np.ndarray, "H W"]) -> Int[np.ndarray, "H W H W"]:
    """Steps from each cell [row, column] to each other by the shortest way: breadth-first search from all cells at once.

    H * W (more than any way is long) where there is no way; walls are reached from nowhere, themselves included.
    """
    free = ~np.asarray(walls)
    height, width = free.shape
    reached = np.diag(free.ravel()).reshape(height * width, height, width)
    distance = np.where(reached, 0, height * width)
    for steps in range(1, height * width):
        nearby = np.zeros_like(reached)
        nearby[:, 1:] |= reached[:, :-1]
        nearby[:, :-1] |= reached[:, 1:]
        nearby[:, :, 1:] |= reached[:, :, :-1]
        nearby[:, :, :-1] |= reached[:, :, 1:]
        new = nearby & free & ~reached
        distance[new] = steps
        reached = reached | new
    return distance.reshape(height, width, height, width).astype(np.int32)


def next_cell(table: Int[Array, "H W H W"], cell: Int[Array, "2"], goal: Int[Array, "2"]) -> Int[Array, "2"]:
    """The neighbour of `cell` (or itself) that is nearest to `goal`: a step of a shortest path, under jit and vmap.

    Args:
      table: from `distance_table`, of a maze that is closed all around.
    """
    candidates = cell + jnp.array([[0, 0], [-1, 0], [0, 1], [1, 0], [0, -1]])
    distances = jnp.asarray(table)[candidates[:, 0], candidates[:, 1], goal[0], goal[1]]
    return candidates[jnp.argmin(distances)]


# --- Making -----------------------------------------------------------------------------------------------------------


def make(
    layout: str,
    random_goal: bool = False,
    dense: bool = False,
    terminate_at_goal: bool = True,
    episode_length: int | None = None,
    start_noise: float = 0.25,
    goal_noise: float = 0.0,
    goal_radius: float = 0.45,
    force: float = 100.0,
    damping: float = 1.0,
    mass: float = 4.19,
    max_speed: float = 5.0,
    dt: float = 0.01,
) -> PointMaze:
    """A maze by name.

    Args:
      layout: "umaze", "medium" or "large".
      random_goal: draw the goal from all free cells in each episode; otherwise it lies where D4RL's maze2d has it.
      episode_length: None: 300, 600 or 800, by the layout.
      mass: 4.19 is that of a ball of radius 0.1 and density 1000.
      others: see PointMaze.
    Raises:
      ValueError: unknown layout.
    """
    if layout not in LAYOUTS:
        raise UserError(f"Unknown maze {layout!r}; there are {', '.join(LAYOUTS)}.")
    cells = np.array([list(line.strip()) for line in LAYOUTS[layout].strip().splitlines()])
    free = jnp.asarray(cells != "#", jnp.float32)
    return PointMaze(
        walls=jnp.asarray(cells == "#"),
        start=free,
        goal=free if random_goal else jnp.asarray(cells == "G", jnp.float32),
        start_noise=jnp.float32(start_noise),
        goal_noise=jnp.float32(goal_noise),
        goal_radius=jnp.float32(goal_radius),
        force=jnp.float32(force),
        damping=jnp.float32(damping),
        mass=jnp.float32(mass),
        max_speed=jnp.float32(max_speed),
        dt=jnp.float32(dt),
        dense=dense,
        terminate_at_goal=terminate_at_goal,
        episode_length=EPISODE_LENGTHS[layout] if episode_length is None else episode_length,
    )


ENVIRONMENTS = {f"PointMaze-{layout}": partial(make, layout) for layout in LAYOUTS}
