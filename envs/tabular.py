"""Finite Markov decision processes as environments: what an agent learns in them can be held to an exact solution."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rljax.errors import UserError
from rljax.record import record, static
from rljax.types import Discrete, EnvSpec, Key, TimeStep


@record
class TabularState:
    index: Int[Array, ""]
    time: Int[Array, ""]


@record
class TabularMDP:
    """A finite MDP. The action is an index; the observation is the state, one-hot float32 [S], or its index if not `one_hot`.

    transition: P[s, a, s'], rows sum to one.
    reward: R[s, a].
    discount: the MDP's own, under which it is to be solved; stepping does not use it.
    start: distribution of the first state.
    terminal: entering such a state terminates. Terminal states are not left and pay nothing, so that (P, R, discount) alone
      have the same solution.
    episode_length: steps after which an episode is truncated; None: never.
    """

    transition: Float[Array, "S A S"]
    reward: Float[Array, "S A"]
    discount: Float[Array, ""]
    start: Float[Array, " S"]
    terminal: Bool[Array, " S"]
    episode_length: int | None = static(100)
    one_hot: bool = static(True)

    @property
    def spec(self) -> EnvSpec:
        num_states, num_actions = self.reward.shape
        return EnvSpec((num_states,) if self.one_hot else (), Discrete(num_actions), self.episode_length)

    def reset(self, key: Key) -> tuple[TabularState, Array]:
        index = draw(key, self.start)
        return TabularState(index, jnp.int32(0)), self._observe(index)

    def step(self, state: TabularState, action: Int[Array, ""], key: Key) -> tuple[TabularState, TimeStep]:
        index = draw(key, self.transition[state.index, action])
        time = state.time + 1
        terminated = self.terminal[index]
        timed_out = jnp.bool_(False) if self.episode_length is None else time >= self.episode_length
        return TabularState(index, time), TimeStep(
            observation=self._observe(index),
            reward=self.reward[state.index, action],
            terminated=terminated,
            truncated=timed_out & ~terminated,
        )

    def _observe(self, index):
        return jax.nn.one_hot(index, self.start.shape[0]) if self.one_hot else index


def draw(key: Key, probability: Float[Array, " S"]) -> Int[Array, ""]:
    return jax.random.choice(key, probability.shape[0], p=probability).astype(jnp.int32)


def check(mdp: TabularMDP) -> TabularMDP:
    """The same MDP, after looking at its arrays. Call it where they are concrete, not under jit or vmap.

    Raises:
      ValueError: shapes that do not fit, a row of `transition` or a `start` that is no distribution, a terminal state that
        pays, is left or is started in.
    """
    transition, reward, start, terminal = map(np.asarray, (mdp.transition, mdp.reward, mdp.start, mdp.terminal))
    if transition.ndim != 3 or transition.shape[0] != transition.shape[2]:
        raise UserError(f"transition must be [S, A, S], not {transition.shape}.")
    num_states, num_actions, _ = transition.shape
    for name, array, shape in (
        ("reward", reward, (num_states, num_actions)),
        ("start", start, (num_states,)),
        ("terminal", terminal, (num_states,)),
    ):
        if array.shape != shape:
            raise UserError(f"{name} must be {shape} where transition is {transition.shape}, not {array.shape}.")
    for name, array in (("transition", transition), ("start", start)):
        if (array < 0).any() or not np.allclose(array.sum(-1), 1.0, rtol=0.0, atol=1e-5):
            raise UserError(f"Each row of {name} must be a distribution: not negative, and with the sum 1.")
    if transition[terminal][:, :, ~terminal].any() or reward[terminal].any():
        raise UserError("A terminal state must lead to terminal states alone and pay nothing.")
    if start[terminal].any():
        raise UserError("No episode may start in a terminal state.")
    return mdp


# --- Generators -------------------------------------------------------------------------------------------------------

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


def gridworld(
    height: int = 5,
    width: int = 5,
    goal: tuple[int, int] | None = None,
    start: tuple[int, int] | None = (0, 0),
    walls: tuple[tuple[int, int], ...] = (),
    slip: float = 0.0,
    goal_reward: float = 1.0,
    step_reward: float = 0.0,
    discount: float = 0.99,
    episode_length: int | None = 100,
    one_hot: bool = True,
) -> TabularMDP:
    """Walk on a grid (up, right, down, left) to a terminal goal. State s is the cell (s // width, s % width).

    A move against the edge or a wall stays in place; walls are states that are never entered.

    Args:
      goal: (row, column); None: the last cell.
      start: (row, column); None: any free cell but the goal, all equally likely.
      slip: probability that a uniformly random move is made instead of the chosen one.
      goal_reward: paid for entering the goal. R[s, a] holds its expectation: with slip, the probability of entering times it.
      step_reward: paid for every step.
    Raises:
      ValueError: start or goal lie outside or in a wall, or are the same cell.
    """
    goal = (height - 1, width - 1) if goal is None else goal
    free = np.ones((height, width), bool)
    for cell in walls:
        free[cell] = False
    for name, cell in (("goal", goal), ("start", start)):
        if cell is not None and not (0 <= cell[0] < height and 0 <= cell[1] < width and free[cell]):
            raise UserError(f"The {name} {cell} must be a free cell of the {height} x {width} grid.")
    if start == goal:
        raise UserError(f"The start {start} must not be the goal.")

    num_states = height * width
    successor = np.empty((num_states, len(MOVES)), int)
    for row, column in np.ndindex(height, width):
        for action, (down, right) in enumerate(MOVES):
            there = (row + down, column + right)
            inside = 0 <= there[0] < height and 0 <= there[1] < width
            moves = inside and free[there] and free[row, column] and (row, column) != goal
            row_to, column_to = there if moves else (row, column)
            successor[row * width + column, action] = row_to * width + column_to

    moved = jax.nn.one_hot(successor, num_states)
    transition = (1.0 - slip) * moved + slip * moved.mean(1, keepdims=True)
    goal_index = goal[0] * width + goal[1]
    terminal = np.arange(num_states) == goal_index
    pays = free.ravel() & ~terminal
    reward = (step_reward + goal_reward * transition[:, :, goal_index]) * pays[:, None]
    starts = pays if start is None else np.arange(num_states) == start[0] * width + start[1]
    return TabularMDP(
        transition=transition,
        reward=reward,
        discount=jnp.float32(discount),
        start=jnp.asarray(starts / starts.sum(), jnp.float32),
        terminal=jnp.asarray(terminal),
        episode_length=episode_length,
        one_hot=one_hot,
    )


def cliff(
    height: int = 4,
    width: int = 6,
    wind: float = 0.05,
    fall_reward: float = -13.0,
    step_reward: float = -1.0,
    discount: float = 1.0,
    episode_length: int | None = 100,
    one_hot: bool = True,
) -> TabularMDP:
    """Along a cliff with random winds: from the lower left to the lower right corner, between which the lowest row falls off.

    The cliff walk of Sutton & Barto, 2018, example 6.6, with a wind that blows one cell down after a move, so that a short way is
    risky. Who has come onto the cliff is paid `fall_reward` with the next step, whatever it is, and the episode ends: every chance
    is one of states, so that (P, R) tell the law of the return.

    Args:
      wind: how likely it blows after a move; never into the goal.
    Raises:
      ValueError: there is no cliff between the corners, or `wind` is no probability.
    """
    if height < 2 or width < 3 or not 0.0 <= wind <= 1.0:
        raise UserError(f"A cliff needs 2 x 3 cells and a wind from 0 to 1, not {height} x {width} cells and {wind}.")
    num_states = height * width
    start, goal = num_states - width, num_states - 1
    transition = np.zeros((num_states, len(MOVES), num_states))
    reward = np.full((num_states, len(MOVES)), step_reward)
    for row, column in np.ndindex(height, width):
        for action, (down, right) in enumerate(MOVES):
            here = row * width + column
            if here > start:  # the cliff, and the goal
                transition[here, action, goal] = 1.0
                reward[here, action] = fall_reward if here < goal else 0.0
                continue
            row_to, column_to = min(max(row + down, 0), height - 1), min(max(column + right, 0), width - 1)
            there = row_to * width + column_to
            below = min(row_to + 1, height - 1) * width + column_to
            blown = wind * (below != goal)
            transition[here, action, there] += 1.0 - blown
            transition[here, action, below] += blown
    return TabularMDP(
        transition=jnp.asarray(transition, jnp.float32),
        reward=jnp.asarray(reward, jnp.float32),
        discount=jnp.float32(discount),
        start=jax.nn.one_hot(start, num_states),
        terminal=jnp.arange(num_states) == goal,
        episode_length=episode_length,
        one_hot=one_hot,
    )


def garnet(
    key: Key,
    num_states: int = 20,
    num_actions: int = 4,
    branching: int = 3,
    discount: float = 0.95,
    episode_length: int | None = 100,
    one_hot: bool = True,
) -> TabularMDP:
    """A random MDP: every state and action has `branching` successors, no state is terminal, episodes start anywhere.

    The successors are drawn without replacement, their probabilities are the parts into which `branching` - 1 uniform cuts
    divide the unit interval, rewards are standard normal (Archibald, McKinnon & Thomas 1995, "On the generation of Markov
    decision processes"; so in Bhatnagar, Sutton, Ghavamzadeh & Lee 2009, "Natural actor-critic algorithms", whose noise on
    the rewards is left out). May be vmapped over the key.

    Raises:
      ValueError: `branching` is not in 1 ... num_states.
    """
    if not 1 <= branching <= num_states:
        raise UserError(f"branching must lie in 1 ... {num_states} (num_states), not {branching}.")
    successor_key, cut_key, reward_key = jax.random.split(key, 3)
    pairs = (num_states, num_actions)
    _, successor = jax.lax.top_k(jax.random.uniform(successor_key, (*pairs, num_states)), branching)
    cuts = jnp.sort(jax.random.uniform(cut_key, (*pairs, branching - 1)))
    parts = jnp.diff(cuts, prepend=0.0, append=1.0)
    return TabularMDP(
        transition=jnp.einsum("sab,sabt->sat", parts, jax.nn.one_hot(successor, num_states)),
        reward=jax.random.normal(reward_key, pairs),
        discount=jnp.float32(discount),
        start=jnp.full(num_states, 1.0 / num_states),
        terminal=jnp.zeros(num_states, bool),
        episode_length=episode_length,
        one_hot=one_hot,
    )


def garnet_of_seed(
    seed: int = 0,
    num_states: int = 20,
    num_actions: int = 4,
    branching: int = 3,
    discount: float = 0.95,
    episode_length: int | None = 100,
    one_hot: bool = True,
) -> TabularMDP:
    """The `garnet` of a seed."""
    return garnet(jax.random.key(seed), num_states, num_actions, branching, discount, episode_length, one_hot)


def checked(generator: Callable[..., TabularMDP]) -> Callable[..., TabularMDP]:
    """`generator` under its own signature (whose arguments are an environment's options), with its MDP checked."""
    return functools.wraps(generator)(lambda **options: check(generator(**options)))


ENVIRONMENTS = {"Gridworld": checked(gridworld), "Cliff": checked(cliff), "Garnet": checked(garnet_of_seed)}
