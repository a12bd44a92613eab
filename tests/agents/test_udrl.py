"""Upside-down RL: it does as it is asked, asks as its best episodes say, and keeps count of its command."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import train
from rljax.agents.sequence import udrl
from rljax.data.episodes import Best, Outcomes
from rljax.envs import make
from rljax.errors import UserError
from rljax.evaluate import evaluate
from rljax.record import record
from rljax.types import Continuous, Discrete, EnvSpec, TimeStep, Transition

SMALL = udrl.Config(
    learning_rate=1e-2, return_scale=1.0, horizon_scale=0.3, hidden=(32,), batch_size=64, num_envs=8, rollout_length=3,
    num_updates=4, capacity=500, num_best=20,
)  # fmt: skip
BEST = Best(jnp.float32(40.0), jnp.float32(10.0), jnp.float32(2.0))


@record
class Savings:
    """Two states, three steps: action 1 pays 1 and moves to the other state, action 0 pays nothing. Any return from 0 to 3."""

    @property
    def spec(self):
        return EnvSpec((1,), Discrete(2), 3)

    def reset(self, key):
        return (jnp.int32(0), jnp.float32(0.0)), jnp.zeros(1)

    def step(self, state, action, key):
        time, place = state
        place = jnp.where(action == 1, 1.0 - place, place)
        following = TimeStep(place[None], jnp.float32(action), time == 2, jnp.bool_(False))
        return (time + 1, place), following


@pytest.fixture(scope="module")
def learned():
    """Runs of two seeds side by side on `Savings`."""
    env = Savings()
    learner = train.make(udrl.make(env.spec, SMALL), udrl.source(env, SMALL.replace(random_steps=600)))
    run = jax.jit(jax.vmap(lambda key: learner.run(learner.init(key), 40)))
    keys = jax.random.split(jax.random.key(0), 2)
    return env, learner, keys, run(keys)


def test_it_gets_what_it_is_asked_for(learned):
    """Low where asked for little and high where asked for much, in the same state: only the command tells."""
    env, _, _, (state, _) = learned

    def asking(state, asked):
        agent = udrl.make(env.spec, SMALL.replace(desired_return=asked, desired_horizon=3.0))
        return evaluate(env, agent, state, jax.random.key(1), 4).returns

    both = jax.vmap(jax.vmap(asking, (None, 0)), (0, None))
    asked = jnp.arange(4.0)
    np.testing.assert_array_equal(jax.jit(both)(state.agent, asked), np.broadcast_to(asked[:, None], (2, 4, 4)))


def test_unless_told_otherwise_it_asks_as_the_best_episodes_say(learned):
    env, _, _, (state, metrics) = learned
    np.testing.assert_allclose(state.agent.best.mean_return, 3.0)
    np.testing.assert_allclose(state.agent.best.mean_length, 3.0)
    assert set(metrics) >= {"command/return", "command/horizon", "episode/return"}
    agent = udrl.make(env.spec, SMALL)
    episodes = jax.jit(jax.vmap(lambda state: evaluate(env, agent, state, jax.random.key(1), 4)))(state.agent)
    np.testing.assert_array_equal(episodes.returns, np.full((2, 4), 3.0))


def test_seeds_side_by_side_are_those_alone(learned):
    _, learner, keys, (state, _) = learned
    alone = jax.jit(lambda key: learner.run(learner.init(key), 40))(keys[1])[0]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[1], y, atol=1e-4), state.agent, alone.agent)
    both, one = state.source[1], alone.source[1]
    np.testing.assert_array_equal(both.episode_return[1], one.episode_return)


def test_commands_are_drawn_when_an_episode_begins():
    """Uniformly from the mean return of the best to a standard deviation above, for their mean length; then they are kept."""
    spec = EnvSpec((1,), Discrete(2), 100)
    agent = udrl.make(spec, SMALL)
    state = jax.jit(agent.init)(jax.random.key(0))._replace(best=BEST)
    fresh = jax.tree.map(lambda x: jnp.broadcast_to(x, (4000,)), agent.memory)
    _, memory, _ = agent.act(state, jnp.zeros((4000, 1)), fresh, jax.random.key(1), True)
    drawn = np.sort(np.asarray(memory.desired_return))
    np.testing.assert_allclose(drawn, 10.0 + 2.0 * (np.arange(4000) + 0.5) / 4000, atol=0.06)
    assert set(memory.desired_horizon.tolist()) == {40.0} and bool(memory.begun.all())
    _, kept, _ = agent.act(state, jnp.zeros((4000, 1)), memory, jax.random.key(2), True)
    jax.tree.map(np.testing.assert_array_equal, kept, memory)
    _, asked, _ = agent.act(state, jnp.zeros((4000, 1)), fresh, jax.random.key(1), False)
    assert set(asked.desired_return.tolist()) == {10.0} and set(asked.desired_horizon.tolist()) == {40.0}


def test_a_command_is_counted_down():
    agent = udrl.make(EnvSpec((1,), Discrete(2), 100), SMALL)
    memory = udrl.Memory(jnp.array([5.0]), jnp.array([2.0]), jnp.array([True]))
    horizons = []
    for _ in range(3):
        memory = agent.receive(memory, jnp.array([1.5]))
        horizons.append(memory.desired_horizon.tolist()[0])
    assert memory.desired_return.tolist() == [0.5] and horizons == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("continuous", [False, True])
def test_loss_by_hand(continuous):
    """The mean negative log-likelihood of what was done, given what came of it."""
    spec = EnvSpec((2,), Continuous((2,)) if continuous else Discrete(3), 10)
    agent, rng = (
        udrl.make(spec, SMALL.replace(hidden=(8,), return_scale=0.1, horizon_scale=0.5)),
        np.random.default_rng(0),
    )
    action = rng.uniform(-1, 1, (5, 2)) if continuous else rng.integers(0, 3, 5)
    steps = Transition(
        observation=jnp.asarray(rng.normal(size=(5, 2)), jnp.float32),
        action=jnp.asarray(action, jnp.float32 if continuous else jnp.int32),
        reward=jnp.zeros(5),
        terminated=jnp.zeros(5, bool),
        truncated=jnp.zeros(5, bool),
        next_observation=jnp.zeros((5, 2)),
    )
    batch = Outcomes(steps, jnp.arange(5.0) - 2.0, jnp.arange(1, 6), BEST)
    state = jax.jit(agent.init)(jax.random.key(0))
    after, metrics = jax.jit(agent.update)(state, batch, jax.random.key(1))
    params = jax.tree.map(np.float64, state.behaviour.params["params"])
    linear = lambda x, layer: x @ layer["kernel"] + layer["bias"]
    command = np.stack([0.1 * (np.arange(5.0) - 2.0), 0.5 * np.arange(1, 6)], axis=-1)
    gate = 1.0 / (1.0 + np.exp(-linear(command, params["command"])))
    seen = gate * np.tanh(linear(np.float64(steps.observation), params["observation"]))
    head = params["Policy_0"]["FeedForward_0"]
    output = linear(seen, head["Dense_0"])
    if continuous:
        error = (action - np.tanh(output)) / np.exp(params["Policy_0"]["log_std"])
        log_prob = (-0.5 * error**2 - params["Policy_0"]["log_std"] - 0.5 * np.log(2 * np.pi)).sum(-1)
    else:
        log_prob = (output - np.log(np.exp(output).sum(-1, keepdims=True)))[np.arange(5), action]
    assert float(metrics["loss/policy"]) == pytest.approx(-log_prob.mean(), rel=1e-5)
    assert after.best == BEST


@record
class Level:
    """One step; the action is the reward."""

    @property
    def spec(self):
        return EnvSpec((1,), Continuous((1,)), 1)

    def reset(self, key):
        return (), jnp.zeros(1)

    def step(self, state, action, key):
        return (), TimeStep(jnp.zeros(1), action[0], jnp.bool_(True), jnp.bool_(False))


def test_continuous_actions_do_as_they_are_asked():
    """With room for all episodes, good or bad."""
    env = Level()
    config = SMALL.replace(random_steps=400, capacity=3000)
    learner = train.make(udrl.make(env.spec, config), udrl.source(env, config))
    state = jax.jit(lambda key: learner.run(learner.init(key), 60))(jax.random.key(0))[0].agent

    def asking(asked):
        agent = udrl.make(env.spec, config.replace(desired_return=asked, desired_horizon=1.0))
        return evaluate(env, agent, state, jax.random.key(1), 1).returns[0]

    asked = jnp.array([-0.6, 0.0, 0.6])
    np.testing.assert_allclose(jax.jit(jax.vmap(asking))(asked), asked, atol=0.1)


def test_what_it_cannot_do_is_said():
    with pytest.raises(UserError, match="vectors"):
        udrl.make(make("gymnax/Breakout-MinAtar").spec, SMALL)
