"""PointMaze: its mazes and physics by hand, no way into or through a wall, ends, and a planner that solves each maze."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.envs import pointmaze
from rljax.envs.pointmaze import PointMazeState, distance_table, make, next_cell

# As digits, from gymnasium_robotics/envs/maze/maps.py: 1 is a wall.
MAPS = {
    "umaze": "11111 10001 11101 10001 11111",
    "medium": "11111111 10011001 10010001 11000111 10010001 10100101 10001001 11111111",
    "large": "111111111111 100001000001 101101010101 100000010001 101111011101 100101000001 110101010111 100100010001 111111111111",
}
GOALS = {"umaze": [1, 1], "medium": [6, 6], "large": [7, 9]}
LIMITS = {"umaze": 300, "medium": 600, "large": 800}


def at(position, velocity=(0.0, 0.0), goal=(-1.0, 1.0), time=0):
    """A state of the U-maze, whose goal is by default in its cell [1, 1], at (-1, 1)."""
    return PointMazeState(*(jnp.array(x, jnp.float32) for x in (position, velocity, goal)), jnp.int32(time))


@jax.jit
def roll(env, key, actions):
    """States [T + 1] and time steps [T] of an environment that is never reset."""
    state, _ = env.reset(key)

    def step(state, action):
        following, timestep = env.step(state, action, key)
        return following, (following, timestep)

    _, (states, timesteps) = jax.lax.scan(step, state, actions)
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), state, states), timesteps


fleet = jax.jit(jax.vmap(roll, (None, 0, 0)))  # physics are data: one program a maze


@pytest.mark.parametrize("layout", MAPS)
def test_layouts(layout):
    env = pointmaze.ENVIRONMENTS[f"PointMaze-{layout}"]()
    np.testing.assert_array_equal(env.walls, [[digit == "1" for digit in row] for row in MAPS[layout].split()])
    np.testing.assert_array_equal(jnp.argwhere(env.goal), [GOALS[layout]])
    assert env.spec.episode_length == LIMITS[layout]
    assert env.spec.observation_shape == (6,) and env.spec.action.shape == (2,)
    cells = jnp.argwhere(~env.walls)
    np.testing.assert_array_equal(jax.jit(jax.vmap(lambda cell: env.cell_of(env.centre_of(cell))))(cells), cells)


def test_unknown_layout():
    with pytest.raises(ValueError, match="umaze, medium, large"):
        make("tiny")


def test_coordinates():
    env = make("medium")  # 8 x 8: the middle of the maze is the corner between cells 3 and 4
    np.testing.assert_array_equal(env.centre_of(jnp.array([1, 2])), [-1.5, 2.5])
    np.testing.assert_array_equal(env.cell_of(jnp.array([-1.9, 2.9])), [1, 2])


def test_starts_and_goals():
    env = make("umaze", random_goal=True, goal_noise=0.1)
    state, observation = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 2000))
    cells_of = jax.jit(jax.vmap(env.cell_of))
    start, goal = cells_of(state.position), cells_of(state.goal)
    assert (start != goal).any(-1).all()
    for cells in (start, goal):  # each of the 7 free cells, equally often: 4 standard errors are 32 of 2000
        found, counts = np.unique(cells, axis=0, return_counts=True)
        np.testing.assert_array_equal(found, jnp.argwhere(~env.walls))
        np.testing.assert_allclose(counts, 2000 / 7, atol=4 * (2000 * 6 / 49) ** 0.5)
    for position, cells, noise in ((state.position, start, 0.25), (state.goal, goal, 0.1)):
        offset = jnp.abs(position - jax.vmap(env.centre_of)(cells))
        assert 0.98 * noise < offset.max() <= noise + 1e-6
    np.testing.assert_array_equal(observation, jnp.concatenate([state.position, 0 * state.position, state.goal], -1))


def test_only_free_cell_of_start_is_the_goal():
    only = jnp.zeros((5, 5)).at[3, 1].set(1.0)
    state, _ = make("umaze").replace(start=only, goal=only).reset(jax.random.key(0))
    np.testing.assert_allclose(state.position, [-1.0, -1.0], atol=0.25)


def test_motion_by_hand():
    """Two steps of v += 0.01 (100 a - v) / 4.19, x += 0.01 v; actions are clipped to the box."""
    env = make("umaze")
    state, timestep = env.step(at((0.0, -1.0)), jnp.array([1.0, -0.5]), jax.random.key(0))
    np.testing.assert_allclose(timestep.observation, [0.00238663, -1.00119332, 0.238663, -0.119332, -1, 1], rtol=1e-5)
    state, timestep = env.step(state, jnp.array([7.0, 0.0]), jax.random.key(0))
    np.testing.assert_allclose(state.velocity, [0.476757, -0.119047], rtol=1e-5)
    np.testing.assert_allclose(state.position, [0.00715421, -1.00238379], rtol=1e-5)
    fast, _ = env.step(at((0.0, -1.0), velocity=(4.9, 0.0)), jnp.array([1.0, 0.0]), jax.random.key(0))
    np.testing.assert_allclose(fast.velocity, [5.0, 0.0])


def test_slides_along_walls():
    """In the lower corridor of the U-maze (y from -1.5 to -0.5) the wall below stops y, and x goes on as if it were free."""
    env, key = make("umaze"), jax.random.key(0)
    along, _ = env.step(at((0.0, -1.49), velocity=(2.0, 0.0)), jnp.array([1.0, 0.0]), key)
    into, _ = env.step(at((0.0, -1.49), velocity=(2.0, -4.0)), jnp.array([1.0, -1.0]), key)
    np.testing.assert_allclose(into.position, [along.position[0], -1.5 + pointmaze.MARGIN], rtol=1e-6)
    np.testing.assert_allclose(into.velocity, [along.velocity[0], 0.0])
    above, _ = env.step(at((0.0, -0.51), velocity=(0.0, 4.0)), jnp.array([0.0, 1.0]), key)
    np.testing.assert_allclose(above.position, [0.0, -0.5 - pointmaze.MARGIN], rtol=1e-6)


@pytest.mark.parametrize("layout", MAPS)
@pytest.mark.parametrize("physics", [{}, {"dt": 1.0, "max_speed": 50.0}], ids=["default", "wild"])
def test_never_in_or_through_a_wall(layout, physics):
    """64 points x 300 random steps. A point changes its column where there is no wall, and then its row."""
    env = make(layout, terminate_at_goal=False, **physics)
    actions = jax.random.uniform(jax.random.key(1), (64, 300, 2), minval=-1.5, maxval=1.5)
    states, _ = fleet(env, jax.random.split(jax.random.key(0), 64), actions)
    cells = np.asarray(jax.jit(jax.vmap(jax.vmap(env.cell_of)))(states.position))
    walls = np.asarray(env.walls)
    assert not walls[cells[..., 0], cells[..., 1]].any()
    assert not walls[cells[:, :-1, 0], cells[:, 1:, 1]].any()
    assert np.abs(np.diff(cells, axis=1)).max() == 1
    hit = states.velocity[:, 1:] == 0.0
    assert hit.mean() > 0.001  # walls were met,
    assert len(np.unique(cells.reshape(-1, 2), axis=0)) == (~walls).sum()  # everywhere


def test_goal_ends_the_episode():
    env, key, still = make("umaze"), jax.random.key(0), jnp.zeros(2)
    _, near = env.step(at((-0.551, 1.0)), still, key)
    assert near.reward == 1.0 and near.terminated and not near.truncated
    _, far = env.step(at((-0.549, 1.0)), still, key)
    assert far.reward == 0.0 and not far.terminated and not far.truncated
    _, late = env.step(at((-0.551, 1.0), time=299), still, key)
    assert late.terminated and not late.truncated

    _, stays = make("umaze", terminate_at_goal=False).step(at((-0.551, 1.0), time=299), still, key)
    assert stays.reward == 1.0 and not stays.terminated and stays.truncated
    _, dense = make("umaze", dense=True).step(at((0.0, -1.0)), still, key)
    np.testing.assert_allclose(dense.reward, -(5**0.5), rtol=1e-6)


def test_time_limit_truncates():
    _, timesteps = roll(make("umaze", episode_length=20), jax.random.key(0), jnp.zeros((20, 2)))
    np.testing.assert_array_equal(timesteps.truncated, [False] * 19 + [True])
    assert not timesteps.terminated.any() and not timesteps.reward.any()


def test_vmap_over_physics():
    """A fleet of mazes that differ in damping, force, step, radius and goal moves as each of them does alone."""
    goals = jnp.zeros((3, 5, 5)).at[jnp.arange(3), jnp.array([1, 1, 3]), jnp.array([1, 3, 1])].set(1.0)
    varied = {
        "damping": jnp.array([0.0, 10.0, 100.0]),
        "force": jnp.array([100.0, 100.0, 80.0]),
        "dt": jnp.array([0.01, 0.02, 0.01]),
        "goal_radius": jnp.array([0.1, 0.4, 3.0]),
        "goal": goals,
    }
    env = make("umaze")
    axes = jax.tree.map(lambda _: None, env).replace(**dict.fromkeys(varied, 0))
    actions = jnp.tile(jnp.array([1.0, -0.3]), (50, 1))
    key = jax.random.key(3)
    states, timesteps = jax.vmap(roll, (axes, None, None))(env.replace(**varied), key, actions)
    for i in range(3):
        alone = env.replace(**{name: values[i] for name, values in varied.items()})
        expected = roll(alone, key, actions)
        found = jax.tree.map(lambda x: x[i], (states, timesteps))  # noqa: B023
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found, expected)
    np.testing.assert_array_equal(states.goal[:, 0], jax.vmap(env.centre_of)(jnp.array([[1, 1], [1, 3], [3, 1]])))
    assert states.velocity[0, 5, 0] > states.velocity[2, 5, 0]  # the damped one is slower


@pytest.mark.parametrize("layout", MAPS)
def test_distances(layout):
    """0 at the goal and else 1 + the least of the free neighbours': shortest ways are the only solution of this."""
    walls = np.asarray(make(layout).walls)
    table = distance_table(walls)
    free = np.argwhere(~walls)
    for row, column in free:
        neighbours = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        nearest = np.min([table[cell] for cell in neighbours if not walls[cell]], axis=0)
        expected = np.where(walls, walls.size, nearest + 1)
        expected[row, column] = 0
        np.testing.assert_array_equal(table[row, column], expected)
    assert (table[walls] == walls.size).all()


def test_distances_by_hand():
    table = distance_table(make("umaze").walls)
    assert table[1, 1, 3, 1] == 6 and table[1, 1, 1, 3] == 2 and table[2, 3, 3, 3] == 1
    path = [jnp.array([1, 1])]
    while (path[-1] != jnp.array([3, 1])).any():
        path.append(next_cell(table, path[-1], jnp.array([3, 1])))
    np.testing.assert_array_equal(path, [[1, 1], [1, 2], [1, 3], [2, 3], [3, 3], [3, 2], [3, 1]])


@pytest.mark.parametrize("layout", MAPS)
def test_planner_reaches_the_goal(layout):
    """Pushed towards the next cell of the shortest path, each of 64 points arrives in time, wherever start and goal are."""
    env = make(layout, random_goal=True)
    table = distance_table(env.walls)

    def arrives(key):
        def step(carry, _):
            state, ended = carry
            target = env.centre_of(next_cell(table, env.cell_of(state.position), env.cell_of(state.goal)))
            state, timestep = env.step(state, 10.0 * (target - state.position) - state.velocity, key)
            return (state, ended | (timestep.terminated & (timestep.reward == 1.0))), None

        (_, ended), _ = jax.lax.scan(step, (env.reset(key)[0], jnp.bool_(False)), length=env.episode_length)
        return ended

    assert jax.jit(jax.vmap(arrives))(jax.random.split(jax.random.key(0), 64)).all()
