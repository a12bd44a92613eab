"""Datasets that are made by name: what is in them, and that they are the same every time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.data import files
from rljax.envs import make
from rljax.envs.linear import riccati
from rljax.errors import UserError
from rljax.experiments import datasets

UMAZE = "rljax/PointMaze-umaze"


def load(name, **options):
    env = make(name.rpartition("/")[0])
    return datasets.load(name + "?transitions=10000", env.spec), env


@pytest.fixture(scope="module")
def stitch():
    return load(f"{UMAZE}/stitch")


def test_the_same_name_gives_the_same_data(stitch):
    datasets._make.cache_clear()
    again, _ = load(f"{UMAZE}/stitch")
    jax.tree.map(np.testing.assert_array_equal, stitch[0], again)


def test_episodes_to_be_stitched_are_short_and_lead_everywhere(stitch):
    data, env = stitch
    assert int(data.length.max()) <= datasets.STITCH
    cells = np.asarray(jax.vmap(env.cell_of)(data.transition.observation[:, :2]))
    visited = {tuple(cell) for cell in cells}
    assert visited == {tuple(cell) for cell in np.argwhere(~np.asarray(env.walls))}


def test_who_reaches_the_goal_is_paid_and_ends(stitch):
    steps = stitch[0].transition
    np.testing.assert_array_equal(steps.reward == 1.0, steps.terminated)
    assert 0.05 < float(stitch[0].episode_return.mean()) < 0.4


def test_a_wanderer_knows_nothing_of_the_goal():
    """It acts the same wherever the goal is, and comes near the middle of the cells that it goes to."""
    from rljax.agents.behaviour import wanderer

    env = make("rljax/PointMaze-medium")
    agent = wanderer.make(env, wanderer.Config(noise=0.0))
    observation = env.reset(jax.random.key(0))[1]
    memory = jax.tree.map(lambda x: x[None], agent.memory)
    both = [observation.at[4:].set(goal)[None] for goal in (jnp.zeros(2), jnp.ones(2))]
    one, other = (agent.act((), seen, memory, jax.random.key(1)) for seen in both)
    np.testing.assert_array_equal(one[0], other[0])

    def step(carry, key):
        state, observation, memory = carry
        action, memory, _ = agent.act((), observation[None], memory, key)
        state, following = env.step(state, action[0], key)
        return (state, following.observation, memory), (memory.target[0], env.cell_of(following.observation[:2]))

    state, observation = env.reset(jax.random.key(2))
    keys = jax.random.split(jax.random.key(3), 3000)
    _, (target, cell) = jax.jit(lambda keys: jax.lax.scan(step, (state, observation, memory), keys))(keys)
    changes = np.flatnonzero((np.diff(target, axis=0) != 0).any(1))
    assert len(changes) >= 8  # it went to so many cells in 3,000 steps
    np.testing.assert_array_equal(cell[changes], target[changes])  # and left for the next from where it had gone


def test_any_environment_has_random_data():
    data, env = load("gymnax/CartPole-v1/random")
    assert data.size == 10_000 and 15 < float(data.episode_return.mean()) < 30  # what random actions get
    assert np.bincount(data.transition.action).min() > 4_700


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("gymnax/CartPole-v1/stitch", "Only PointMazes have the tier 'stitch'.*CartPole-v1/random"),
        ("gymnax/CartPol/random", "nearest: gymnax/CartPole-v1"),
        (f"{UMAZE}/stitch?transitions=3", "transitions=3 must be at least 50"),
        (f"{UMAZE}/stich", "no such tier of data; nearest: stitch"),
        ("data.npz?transitions=5", "Only datasets that are made take `transitions`"),
    ],
)
def test_what_there_is_not_is_said(name, sentence):
    with pytest.raises(UserError, match=sentence):
        datasets.load(name, make(UMAZE).spec)


def test_few_steps_are_of_whole_episodes_all_the_same():
    """CartPole's episodes last up to 500 steps: 5,000 are recorded in 5 environments, not in 50 of 100 steps each."""
    env = make("gymnax/CartPole-v1")
    data = datasets.load("gymnax/CartPole-v1/expert?transitions=5000", env.spec)
    assert (
        data.size == 5000 and int(data.length.max()) > 100 and int(data.transition.terminated.sum()) < len(data.start)
    )


def test_names_are_joined_by_a_plus(tmp_path):
    """All of the random data and one whole episode of the expert's."""
    env, names = make("gymnax/CartPole-v1"), ("random?transitions=2000", "expert?transitions=5000&episodes=1")
    names = [f"gymnax/CartPole-v1/{name}" for name in names]
    random, expert = (datasets.load(name, env.spec) for name in names)
    both = datasets.load(" + ".join(names), env.spec)
    assert len(both.start) == len(random.start) + 1 and both.size == 2000 + expert.size
    np.testing.assert_array_equal(both.transition.action[2000:], expert.transition.action)
    with pytest.raises(UserError, match="no such tier of data; nearest: expert"):
        datasets.load(f"{names[0]} + gymnax/CartPole-v1/exper", env.spec)


def test_demonstrations_may_be_of_observations_alone(tmp_path):
    spec, path = make("gymnax/CartPole-v1").spec, tmp_path / "watched.npz"
    np.savez(path, observations=np.zeros((6, 4)), next_observations=np.zeros((6, 4)), terminated=np.arange(6) == 5)
    watched = datasets.load(str(path), spec, files.WATCHED)
    assert watched.size == 6 and watched.transition.action is None and not watched.transition.reward.any()
    with pytest.raises(UserError, match="lacks actions and rewards"):
        datasets.load(str(path), spec)


def test_states_are_kept_where_they_are_asked_for():
    """They are those in which the observations were seen, and follow the choice of episodes and steps."""
    env = make("rljax/Gridworld")
    plain = datasets.load("rljax/Gridworld/random?transitions=400", env.spec)
    kept = datasets.load("rljax/Gridworld/random?transitions=400&states=1&episodes=3&every=2", env.spec)
    assert plain.env_state == () and plain.size == 400
    np.testing.assert_array_equal(kept.env_state.index, kept.transition.observation.argmax(-1))
    assert len(kept.env_state.time) == kept.size == len(kept.start) and len(set(np.asarray(kept.env_state.time))) > 5
    with pytest.raises(UserError, match="Only datasets that are made take `states`"):
        datasets.load("somewhere.npz?states=1", env.spec)


def test_a_linear_system_is_controlled_at_its_best_but_for_noise():
    name = "rljax/DoubleIntegrator"
    data, env = load(f"{name}/optimal")
    gain, _ = riccati(env)
    steps = data.transition
    error = np.asarray(steps.action + steps.observation @ gain.T)
    inside = np.abs(np.asarray(steps.action)) < 1.0
    assert error[inside].std() == pytest.approx(0.1, rel=0.05) and int(data.length.max()) == 100
    with pytest.raises(UserError, match="Only linear systems have the tier 'optimal', not rljax/Garnet"):
        datasets.load("rljax/Garnet/optimal", make("rljax/Garnet").spec)
