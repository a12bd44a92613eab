"""TabularMDP: it moves as its P says; the generators against values worked out by hand."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.envs import tabular
from rljax.envs.tabular import TabularMDP, TabularState, check, garnet, gridworld


def chain(**changes):
    """Three states: 0 -> 0 or 1 (action 0), 0 -> 1 (action 1), 1 -> 2, and 2 is terminal."""
    transition = jnp.array([[[0.3, 0.7, 0.0], [0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]] * 2, [[0.0, 0.0, 1.0]] * 2])
    fields = {
        "transition": transition,
        "reward": jnp.array([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]]),
        "discount": jnp.float32(0.9),
        "start": jnp.array([0.8, 0.2, 0.0]),
        "terminal": jnp.array([False, False, True]),
    }
    return TabularMDP(**{**fields, **changes})


def optimal_value(mdp):
    """Value iteration in float64, which knows nothing of terminal states."""
    transition, reward, discount = (np.asarray(x, np.float64) for x in (mdp.transition, mdp.reward, mdp.discount))
    value = np.zeros(len(transition))
    for _ in range(2000):
        value = (reward + discount * transition @ value).max(1)
    return value


def test_steps_by_hand():
    mdp = check(chain())
    assert mdp.spec.observation_shape == (3,) and mdp.spec.action.num_actions == 2 and mdp.spec.episode_length == 100
    state, timestep = mdp.step(TabularState(jnp.int32(0), jnp.int32(0)), 1, jax.random.key(0))
    np.testing.assert_array_equal(timestep.observation, [0.0, 1.0, 0.0])
    assert timestep.observation.dtype == jnp.float32
    assert timestep.reward == 2.0 and not timestep.terminated and not timestep.truncated
    state, timestep = mdp.step(state, 0, jax.random.key(1))
    np.testing.assert_array_equal(timestep.observation, [0.0, 0.0, 1.0])
    assert timestep.reward == 3.0 and timestep.terminated and not timestep.truncated


def test_time_limit():
    loop = TabularMDP(jnp.ones((1, 1, 1)), jnp.ones((1, 1)), 0.9, jnp.ones(1), jnp.zeros(1, bool), episode_length=3)
    for mdp, expected in ((loop, [False, False, True]), (loop.replace(episode_length=None), [False] * 3)):
        state, _ = mdp.reset(jax.random.key(0))
        ends = []
        for _ in range(3):
            state, timestep = mdp.step(state, 0, jax.random.key(0))
            ends.append(bool(timestep.truncated))
            assert not timestep.terminated
        assert ends == expected
    _, at_last = chain(episode_length=3).step(TabularState(jnp.int32(1), jnp.int32(2)), 0, jax.random.key(0))
    assert at_last.terminated and not at_last.truncated


def test_index_observation():
    mdp = chain(one_hot=False)
    assert mdp.spec.observation_shape == ()
    _, timestep = mdp.step(TabularState(jnp.int32(1), jnp.int32(0)), 0, jax.random.key(0))
    assert timestep.observation == 2 and timestep.observation.dtype == jnp.int32


def test_frequencies_match_transition():
    """10,000 steps from each of 10 pairs with 3 successors: Pearson's statistic has 20 degrees of freedom, mean 20 and
    standard deviation sqrt(40). It is held below 6 of these."""
    transition, draws = np.zeros((5, 2, 5)), 10_000
    for i, row in enumerate(transition.reshape(10, 5)):
        row[[i % 5, (i + 1) % 5, (i + 3) % 5]] = 0.6, 0.1, 0.3
    mdp = check(TabularMDP(jnp.asarray(transition), jnp.zeros((5, 2)), 0.9, jnp.full(5, 0.2), jnp.zeros(5, bool)))
    pairs = jnp.stack(jnp.meshgrid(jnp.arange(5), jnp.arange(2), indexing="ij"), -1).reshape(-1, 2)

    def visits(pair, key):
        step = jax.vmap(lambda key: mdp.step(TabularState(pair[0], jnp.int32(0)), pair[1], key)[1].observation)
        return step(jax.random.split(key, draws)).sum(0)

    counts = np.asarray(jax.jit(jax.vmap(visits))(pairs, jax.random.split(jax.random.key(1), 10))).reshape(5, 2, 5)
    expected = draws * np.asarray(mdp.transition)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    statistic = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert 1.0 < statistic < 20 + 6 * 40**0.5


def test_frequencies_match_start():
    state, _ = jax.vmap(chain().reset)(jax.random.split(jax.random.key(0), 10_000))
    frequency = np.bincount(state.index, minlength=3) / 10_000
    assert frequency[2] == 0 and abs(frequency[0] - 0.8) < 5 * (0.8 * 0.2 / 10_000) ** 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transition": chain().transition.at[0, 0, 0].set(0.2)}, "row of transition"),
        ({"transition": chain().transition.at[0, 0].set(jnp.array([-0.3, 1.3, 0.0]))}, "row of transition"),
        ({"transition": jnp.ones((3, 2, 2)) / 2}, r"\[S, A, S\]"),
        ({"transition": jnp.full((3, 2, 3), jnp.nan)}, "row of transition"),
        ({"start": jnp.array([0.5, 0.4, 0.0])}, "row of start"),
        ({"start": jnp.array([0.5, 0.0, 0.5])}, "start in a terminal"),
        ({"reward": jnp.zeros((3, 3))}, "reward must be"),
        ({"reward": jnp.ones((3, 2))}, "pay nothing"),
        ({"terminal": jnp.array([False, True, False]), "reward": jnp.zeros((3, 2))}, "lead to terminal"),
    ],
)
def test_check_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        check(chain(**changes))


def test_gridworld_values_without_slip():
    """The goal is worth 0.9^(distance - 1). A wall lengthens the way from (0, 0) to (0, 2) from 2 to 4:

    . # G
    . . .
    """
    mdp = check(gridworld(2, 3, goal=(0, 2), walls=((0, 1),), discount=0.9))
    np.testing.assert_allclose(optimal_value(mdp), [0.9**3, 0.0, 0.0, 0.9**2, 0.9, 1.0], rtol=1e-6)
    mdp = check(gridworld(3, 3, discount=0.9, step_reward=-1.0, goal_reward=0.0))
    distance = np.array([4, 3, 2, 3, 2, 1, 2, 1, 0])
    np.testing.assert_allclose(optimal_value(mdp), -(1 - 0.9**distance) / (1 - 0.9), rtol=1e-6)


def test_gridworld_values_with_slip():
    """Two cells: to the right is the goal, entered with q = 1 - slip + slip / 4; so V = q + 0.9 (1 - q) V. vmapped over slip."""
    slips = jnp.array([0.0, 0.2, 1.0])
    mdps = jax.jit(jax.vmap(lambda slip: gridworld(1, 2, slip=slip, discount=0.9)))(slips)
    for i, slip in enumerate([0.0, 0.2, 1.0]):
        mdp = check(jax.tree.map(lambda x: x[i], mdps))  # noqa: B023
        q = 1 - slip + slip / 4
        np.testing.assert_allclose(optimal_value(mdp), [q / (1 - 0.9 * (1 - q)), 0.0], rtol=1e-6)


def test_gridworld_moves():
    mdp = gridworld(3, 3, goal=(2, 2), start=None)
    np.testing.assert_array_equal(mdp.transition[4].argmax(-1), [1, 5, 7, 3])  # from the middle: up, right, down, left
    np.testing.assert_array_equal(mdp.transition[0].argmax(-1), [0, 1, 3, 0])  # from a corner
    np.testing.assert_allclose(mdp.start, [1 / 8] * 8 + [0.0])
    np.testing.assert_array_equal(mdp.terminal, [False] * 8 + [True])


@pytest.mark.parametrize(
    "options", [{"goal": (5, 0)}, {"goal": (0, -1)}, {"walls": ((4, 4),)}, {"walls": ((0, 0),)}, {"goal": (0, 0)}]
)
def test_gridworld_refuses(options):
    with pytest.raises(ValueError, match="start|goal"):
        gridworld(**options)


@pytest.mark.parametrize("branching", [1, 3, 20])
def test_garnet_rows(branching):
    mdp = check(garnet(jax.random.key(0), 20, 4, branching))
    np.testing.assert_array_equal((mdp.transition > 0).sum(-1), branching)
    np.testing.assert_allclose(mdp.transition.sum(-1), 1.0, rtol=1e-6)


def test_garnet_distribution():
    """Over 800 rows with two successors: the probabilities are uniform on (0, 1), the successors uniform over the 20
    states, the rewards standard normal; each within 5 standard errors."""
    mdps = [garnet(key, 20, 4, branching=2) for key in jax.random.split(jax.random.key(0), 10)]
    transition, reward = np.stack([mdp.transition for mdp in mdps]), np.stack([mdp.reward for mdp in mdps])
    probability = transition[transition > 0]
    assert abs(probability.var() - 1 / 12) < 5 * (1 / 180 / 800) ** 0.5  # the variance of (u - 1/2)^2 is 1/180
    chosen = (transition > 0).sum((0, 1, 2))  # each state, 800 times with chance 1/10
    assert np.abs(chosen - 80).max() < 5 * (800 * 0.1 * 0.9) ** 0.5
    assert abs(reward.mean()) < 5 / 800**0.5 and abs(reward.var() - 1.0) < 5 * (2 / 800) ** 0.5
    assert len(np.unique(reward)) > 790  # another one for each key


def test_garnet_of_many_keys():
    mdps = jax.eval_shape(jax.vmap(garnet), jax.random.split(jax.random.key(0), 3))
    assert mdps.transition.shape == (3, 20, 4, 20) and mdps.reward.shape == (3, 20, 4)


@pytest.mark.parametrize("branching", [0, 21])
def test_garnet_refuses(branching):
    with pytest.raises(ValueError, match="branching"):
        garnet(jax.random.key(0), 20, 4, branching)


def test_a_walk_along_the_cliff():
    """Value of the edge's walk by hand: four cells above the cliff, each left with the wind's chance for a fall."""
    mdp = tabular.ENVIRONMENTS["Cliff"](height=3, width=6, wind=0.1, fall_reward=-10.0)
    transition, reward = np.asarray(mdp.transition, np.float64), np.asarray(mdp.reward, np.float64)
    np.testing.assert_allclose(transition[7, 1], 0.9 * np.eye(18)[8] + 0.1 * np.eye(18)[14], atol=1e-6)
    assert (reward[13:17] == -10.0).all() and (transition[13:17, :, 17] == 1.0).all()
    np.testing.assert_allclose(transition[11, 2, 17], 1.0)  # nothing is blown past the goal
    policy = np.where(np.arange(18) == 12, 0, np.where(np.arange(18) % 6 == 5, 2, 1))
    value = np.zeros(18)
    for _ in range(200):
        value = np.where(mdp.terminal, 0.0, reward[np.arange(18), policy] + transition[np.arange(18), policy] @ value)
    edge = -1.0  # above the goal: one step down
    for _ in range(
        4
    ):  # from the cell left of there to that right of the start: blown off after the move, but not above the goal
        into_corner = edge == -1.0
        edge = -1.0 + (edge if into_corner else 0.9 * edge + 0.1 * -10.0)
    first = -1.0 + 0.9 * edge + 0.1 * -10.0  # from above the start
    start = (-1.0 + 0.9 * first) / 0.9  # up, or blown back down
    np.testing.assert_allclose(value[12], start, rtol=1e-6)
    with pytest.raises(ValueError, match="A cliff needs 2 x 3 cells and a wind from 0 to 1"):
        tabular.cliff(width=2)


def test_environments():
    make_gridworld = tabular.ENVIRONMENTS["Gridworld"]
    assert make_gridworld(height=2, width=3).spec.observation_shape == (6,)
    assert inspect.signature(make_gridworld).parameters["slip"].default == 0.0  # the registry reads the options there
    with pytest.raises(ValueError, match="row of transition"):
        make_gridworld(slip=2.0)
    one, other = (tabular.ENVIRONMENTS["Garnet"](seed=seed) for seed in (0, 1))
    assert one.spec.observation_shape == (20,) and (one.transition != other.transition).any()
