"""Iterative inversion: what intents are, who is asked for which, the loss by hand, and that it comes to follow demonstrations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.sequence import iterative_inversion as itin
from rljax.data import dataset as dataset_lib
from rljax.envs import linear, make
from rljax.errors import UserError
from rljax.experiments.studies.iterative_inversion import SMALL, demonstrations, distances
from rljax.types import Continuous, Discrete, EnvSpec, Transition

SPEC = EnvSpec((4,), Continuous((2,)), 30)


def test_points_are_spread_over_the_episode_up_to_its_end():
    found = itin.points(jnp.array([10, 5, 3, 1]), 5)
    np.testing.assert_array_equal(found, [[1, 3, 5, 7, 9], [0, 1, 2, 3, 4], [0, 1, 1, 2, 2], [0, 0, 0, 0, 0]])


def test_intents_are_what_episodes_looked_like():
    """Two episodes of 4 and 2 steps whose second entry counts the steps; intents of two points."""
    number = np.array([1, 2, 3, 4, 11, 12], np.float32)
    seen = np.stack([0 * number, number], axis=-1)
    cut, nothing = np.array([0, 0, 0, 1, 0, 1], bool), np.zeros(6, np.float32)
    data = dataset_lib.from_transitions(Transition(seen, np.zeros(6, int), nothing, ~cut & cut, cut, 10 * seen))
    spec = EnvSpec((2,), Discrete(2), 4)
    for observe, expected in (((2,), [[20, 40], [110, 120]]), ((), [[0, 20, 0, 40], [0, 110, 0, 120]])):
        config = SMALL.replace(num_points=2, observe=observe)
        np.testing.assert_array_equal(itin.demonstrated_intents(spec, config, data), expected)


def test_steps_come_with_the_intents_of_their_own_episodes():
    env = linear.double_integrator(2, episode_length=30)
    data = demonstrations(env, 0, 3)
    data = dataset_lib.weighted(data, np.array([1.0, 0.0, 3.0]))
    config = SMALL.replace(num_updates=8, hidden=(8,))
    source, agent = itin.source(env, config, data), itin.make(env.spec, config)
    state, batch, _ = jax.jit(lambda key: source.next(source.init(agent, key), agent, agent.init(key), key))(
        jax.random.key(0)
    )
    kept = state[1]
    rows = np.flatnonzero(kept.kept)
    paths = np.asarray(kept.data.next_observation)[rows][:, [5, 11, 17, 23, 29], :2].reshape(len(rows), -1)
    steps = jax.tree.map(lambda x: np.asarray(x[7]), (batch.transition.next_observation, batch.time, batch.intent))
    for following, time, intent in list(zip(*steps))[:20]:
        of = np.flatnonzero((paths == intent).all(1))
        assert len(of) == 1
        np.testing.assert_array_equal(kept.data.next_observation[rows[of[0]], time], following)
    assert all((paths == intent).all(1).any() for intent in np.asarray(batch.own[7]))
    known = np.asarray(itin.demonstrated_intents(env.spec, SMALL, data))
    drawn = np.asarray(batch.demonstrated).reshape(-1, 10)
    share = [(drawn == intent).all(1).mean() for intent in known]
    np.testing.assert_allclose(share, [0.25, 0.0, 0.75], atol=0.05)


def test_who_is_asked_for_what():
    """A share for demonstrated intents as they are, the rest for own ones with noise; then the same to the episode's end."""
    config = SMALL.replace(steering=0.3, intent_noise=0.2, num_intents=2)
    agent = itin.make(SPEC, config)
    state = jax.jit(agent.init)(jax.random.key(0))
    state = state._replace(demonstrated=jnp.full((2, 10), 5.0), own=jnp.full((2, 10), -5.0))
    fresh = jax.tree.map(lambda x: jnp.broadcast_to(x, (4000, *x.shape)), agent.memory)
    act = jax.jit(agent.act, static_argnums=4)
    _, memory, _ = act(state, jnp.zeros((4000, 4)), fresh, jax.random.key(1), True)
    steered = np.asarray(memory.intent[:, 0]) > 0
    assert steered.mean() == pytest.approx(0.3, abs=0.03)
    assert (np.asarray(memory.intent)[steered] == 5.0).all()
    assert np.asarray(memory.intent)[~steered].std() == pytest.approx(0.2, rel=0.03)
    _, kept, _ = act(state, jnp.zeros((4000, 4)), memory, jax.random.key(2), True)
    np.testing.assert_array_equal(kept.intent, memory.intent)
    assert set(memory.time.tolist()) == {1} and set(kept.time.tolist()) == {2}
    _, asked, _ = act(state, jnp.zeros((4000, 4)), fresh, jax.random.key(1), False)
    assert (np.asarray(asked.intent) == 5.0).all()


def test_loss_by_hand():
    """The mean negative log-likelihood of what was done, given the observation, the intent and the share of time that passed."""
    config, rng = SMALL.replace(hidden=(8,), num_points=2), np.random.default_rng(0)
    agent = itin.make(SPEC, config)
    seen, intent, action = (rng.uniform(-1, 1, (6, n)).astype(np.float32) for n in (4, 4, 2))
    time, nothing = np.arange(6) * 5, np.zeros(6, np.float32)
    steps = Transition(seen, action, nothing, nothing > 1, nothing > 1, seen)
    state = jax.jit(agent.init)(jax.random.key(0))
    batch = itin.Inverted(steps, time, intent, jnp.full((64, 4), 2.0), jnp.full((64, 4), 3.0))
    after, metrics = jax.jit(agent.update)(state, batch, jax.random.key(1))
    params = jax.tree.map(np.float64, state.policy.params["params"])
    first, last = params["FeedForward_0"]["Torso_1"]["Dense_0"], params["FeedForward_0"]["Dense_0"]
    hidden = np.concatenate([seen, intent, time[:, None] / 30], 1) @ first["kernel"] + first["bias"]
    mean = np.tanh(np.maximum(hidden, 0.0) @ last["kernel"] + last["bias"])
    log_std = params["log_std"]
    log_prob = (-0.5 * ((action - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)
    assert float(metrics["loss/policy"]) == pytest.approx(-log_prob.mean(), rel=1e-5)
    assert (after.demonstrated == 2.0).all() and (after.own == 3.0).all()


def test_it_comes_to_follow_demonstrations_it_never_saw_the_actions_of():
    """Of new ones, by the mean distance at the points; two seeds. Without steering its episodes stay where they were."""
    early, late = (x.mean(0) for x in distances(jnp.array([0.0, 0.5]), 2, 4, 20))
    assert late[1] < 0.5 * early[1] and late[1] < 0.75 * late[0]


def test_what_it_cannot_do_is_said():
    with pytest.raises(UserError, match="must be entries of an observation of 4, counted from 1"):
        itin.make(SPEC, SMALL.replace(observe=(1, 5)))
    for spec in (make("gymnax/Breakout-MinAtar").spec, EnvSpec((4,), Discrete(2)), EnvSpec((4,), Discrete(2), 3)):
        with pytest.raises(UserError, match="Intents of 5 points need vectors as observations, and a time limit"):
            itin.make(spec, SMALL.replace(observe=()))
