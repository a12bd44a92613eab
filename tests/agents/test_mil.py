"""Rewards from returns: an update by hand, what is found with and without a memory, and data it cannot learn from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import sources
from rljax.agents.preference import mil
from rljax.check import check_agent
from rljax.data import dataset as dataset_lib
from rljax.envs import make
from rljax.errors import UserError
from rljax.experiments.studies import mil as study
from rljax.types import Continuous, EnvSpec, Transition

SPEC = EnvSpec((1,), Continuous((1,)), 5)
SMALL = mil.Config(learning_rate=1e-2, hidden=(16,), units=8, head=(16,), batch_size=64, num_updates=2)


def doors(seed=0, count=256):
    """Episodes of five steps in which a button is pressed or a door is pushed (1 or -1; 0 is neither): a push pays 1 once the
    button has been pressed, else -1. Some episodes terminate early."""
    rng = np.random.default_rng(seed)
    seen = rng.integers(-1, 2, (count, 5))
    pressed = np.maximum.accumulate(seen == 1, axis=1)
    reward = np.where(seen == -1, 2.0 * pressed - 1.0, 0.0)
    length = rng.integers(3, 6, count)
    there = np.arange(5) < length[:, None]
    terminated = (np.arange(5) == length[:, None] - 1) & (length[:, None] < 5)
    truncated = np.tile(np.arange(5) == 4, (count, 1))
    flat = lambda x: x[there]
    column = np.float32(flat(seen))[:, None]
    steps = Transition(column, 0 * column, np.float32(flat(reward)), flat(terminated), flat(truncated), column)
    return dataset_lib.from_transitions(steps)


def rewards(agent, state, data):
    of_steps = functools.partial(agent.reward, state)
    return dataset_lib.paid(data, of_steps, memory=agent.reward_memory).transition.reward


@pytest.mark.parametrize("kind, worst", [("recurrent", 0.05), ("skip", 0.05), ("embedding", 0.1)])
def test_single_rewards_are_found_from_returns(kind, worst, learn_offline):
    """In new episodes, to within a small mean squared error, though only sums were told."""
    env = make("rljax/TimerTreasure?episode_length=5")
    agent, state = learn_offline(mil, SMALL.replace(kind=kind), Fake(env), doors(), 500)
    new = doors(1)
    error = np.square(np.asarray(rewards(agent, state, new)) - new.transition.reward).mean()
    assert error < worst


def test_without_a_memory_they_are_not(learn_offline):
    """The best that can be said of a push is what it pays on average."""
    agent, state = learn_offline(mil, SMALL.replace(kind="instance"), Fake(make("rljax/TimerTreasure")), doors(), 500)
    assert agent.reward_memory == ()
    new = doors(1)
    error = np.square(np.asarray(rewards(agent, state, new)) - new.transition.reward).mean()
    assert error > 0.2


class Fake:
    """Has the spec of `doors`; nobody steps in it."""

    def __init__(self, env):
        self.spec = SPEC


@pytest.mark.parametrize("kind", ["instance", "embedding", "recurrent", "skip"])
def test_an_update_by_hand(kind):
    """Squared errors of sums over what there is of each episode; rewards enter by their sum alone."""
    data, agent = doors(), mil.make(SPEC, SMALL.replace(kind=kind))
    source = mil.source(Fake(None), SMALL.replace(num_updates=1, batch_size=6), data)
    _, batch, _ = source.next((), agent, (), jax.random.key(3))
    assert batch.mask.shape == (6, 5) and not batch.mask.all()
    state = agent.init(jax.random.key(0))
    after, metrics = jax.jit(agent.update)(state, batch, jax.random.key(1))
    probe = state._replace(statistics=after.statistics)
    returns = (np.asarray(batch.steps.reward) * np.asarray(batch.mask)).sum(1)
    score = np.asarray(agent.score(probe, batch.steps, batch.mask))
    np.testing.assert_allclose(metrics["loss/reward"], np.square(score - returns).mean(), rtol=1e-5)
    moved = batch.steps.replace(reward=jnp.roll(batch.steps.reward * batch.mask, 1, axis=1) * batch.mask)
    first = batch.steps.reward[:, :1] * 0 + jnp.asarray(returns)[:, None] * (jnp.arange(5) == 0)
    same, _ = jax.jit(agent.update)(state, batch._replace(steps=moved.replace(reward=first)), jax.random.key(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after, same)
    seen = np.asarray(batch.steps.observation)
    np.testing.assert_allclose(after.statistics.mean, seen.mean((0, 1)), rtol=1e-5, atol=1e-6)


def test_its_contract_and_what_is_refused():
    data = doors()
    check_agent(mil.make(SPEC, SMALL), Fake(None), mil.source(Fake(None), SMALL, data))
    with pytest.raises(UserError, match="no kind of reward 'csc'"):
        mil.make(SPEC, SMALL.replace(kind="csc"))
    with pytest.raises(UserError, match="need an environment with a time limit"):
        mil.make(EnvSpec((1,), Continuous((1,))), SMALL)
    steps = data.transition
    short = dataset_lib.from_transitions(steps.replace(terminated=jnp.zeros(data.size, bool), truncated=steps.done))
    with pytest.raises(UserError, match="No episode of the data is whole: terminated, or of all 9 steps"):
        sources.trajectories(short, length=9, batch_size=2, num_batches=1)


def test_outcomes_of_the_study_are_evenly_spread():
    order = study.evenly(np.array([5, 5, 5, 5, 7, 7, 9]))
    assert order.tolist() == [0, 4, 6, 1, 5, 2, 3]
    env = make("rljax/KeyTreasure")
    seen, held_out = study.episodes(env, 1, 30, 15)
    assert seen.length.tolist() == [[100] * 30] and held_out.length.tolist() == [[100] * 15]
    found = np.concatenate([x.return_to_go[0, ::100] for x in (seen, held_out)])
    assert (found > 0).sum() == 15
