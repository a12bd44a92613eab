"""DIP-RL: what its batches are made of, what its reward learns, what steps are paid, and that it does what it was shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import train
from rljax.agents.online import sac
from rljax.agents.preference import dip_rl, reward_model
from rljax.data import dataset as dataset_lib
from rljax.envs import probes
from rljax.errors import UserError
from rljax.types import Transition

SMALL = dip_rl.Config(
    policy_learning_rate=3e-3, critic_learning_rate=3e-3, temperature_learning_rate=3e-3, gamma=0.9, target_rate=0.05,
    hidden=(32,), num_envs=8, num_updates=2, batch_size=64, capacity=2000, warmup=80, segment=3, reward_batch_size=32,
    reward_hidden=(16,), reward_learning_rate=3e-3, num_models=2,
)  # fmt: skip
MARK = 7.0  # what demonstrations were paid, which nobody is to look at


def shown(env, continuous=False):
    """One step each, of the action that the probe does not pay for; continuous ones are half as large, with some noise."""
    seen = np.where(np.arange(64) % 2 == 0, -1.0, 1.0).astype(np.float32)[:, None]
    yes, action = np.ones(64, bool), (seen[:, 0] < 0).astype(np.int32)
    if continuous:
        action = (-0.5 * seen + 0.05 * np.random.default_rng(0).normal(size=(64, 1))).astype(np.float32)
    return dataset_lib.from_transitions(Transition(seen, action, np.full(64, MARK, np.float32), yes, ~yes, seen))


def walk(count=4, length=12):
    """Demonstrations that count their steps, in hundreds, as nothing else does: each observation is one more than the last."""
    seen = 100.0 + np.arange(count * length, dtype=np.float32)[:, None]
    ends = np.tile(np.arange(length) == length - 1, count)
    return dataset_lib.from_transitions(
        Transition(
            seen, np.zeros(len(seen), np.int32), np.full(len(seen), MARK, np.float32), ends & ~ends, ends, seen + 1
        )
    )


def first_batch(env, config, data):
    agent, source = dip_rl.make(env.spec, config), dip_rl.source(env, config, data)

    @jax.jit
    def run(key):
        start_key, agent_key, key = jax.random.split(key, 3)
        state = agent.init(agent_key)
        return state, source.next(source.init(agent, start_key), agent, state, key)[1]

    return agent, *run(jax.random.key(0))


def test_a_batch_is_half_demonstrations_and_pairs_begin_with_one():
    """Own observations are 0. Segments are of one episode, three steps long, and carry no pay; demonstrations are the better."""
    _, _, batch = first_batch(probes.TimeLimit(), SMALL, walk())
    seen = np.asarray(batch.sample.transition.observation[..., 0])
    assert seen.shape == (2, 64)
    np.testing.assert_array_equal((seen >= 100.0).sum(1), [32, 32])
    for part in (seen[:, :16], seen[:, -16:]):  # mixed evenly
        np.testing.assert_array_equal((part >= 100.0).sum(1), [8, 8])
    judged = jax.tree.map(np.asarray, batch.judged)
    places = judged.transition.observation[..., 0]
    assert places.shape == (2, 32, 2, 3) and judged.mask.all() and (judged.weight == 1.0).all()
    np.testing.assert_array_equal(np.diff(places[:, :, 0]), 1.0)
    np.testing.assert_array_equal((places[:, :, 0] - 100.0)[..., [0, 2]] // 12 @ [1, -1], 0.0)  # of one episode
    np.testing.assert_array_equal(places[:, :, 1], 0.0)
    np.testing.assert_array_equal(judged.rank, np.broadcast_to([0, 1], (2, 32, 2)))
    np.testing.assert_array_equal(judged.transition.reward, 0.0)
    assert len(np.unique(places[:, :, 0, 0])) > 20


def test_segments_end_where_episodes_do():
    """Of one step each, where terminated steps end them; there is room for three."""
    env = probes.ObservationActionReward()
    _, _, batch = first_batch(env, SMALL, shown(env))
    np.testing.assert_array_equal(batch.judged.mask, np.broadcast_to(np.arange(3) < 1, (2, 32, 2, 3)))
    assert (np.asarray(batch.sample.discount) == 0.0).all()


def test_an_update_by_hand():
    """The loss is log(1 + e^(own - shown)) of sums of rewards, for each network; then SAC's own update on steps that are paid the
    mean of what has just been learned. What the environment paid is of no matter."""
    env = probes.TimeLimit()
    agent, state, batch = first_batch(env, SMALL, walk())
    batch = jax.tree.map(lambda x: x[0], batch)
    found, metrics = jax.jit(agent.update)(state, batch, jax.random.key(1))
    model = reward_model.networks(env.spec, reward_model.beside_policy(SMALL))
    rewards = lambda params, steps: np.asarray(model.reward(params, steps)[0])
    sums = rewards(state.reward.params, batch.judged.transition).sum(-1)  # [M, P, 2]
    expected = np.log1p(np.exp(sums[..., 1] - sums[..., 0])).mean(1).sum()
    np.testing.assert_allclose(metrics["loss/reward"], expected, rtol=1e-5)
    steps = batch.sample.transition
    pay = rewards(found.reward.params, steps).mean(0)
    assert np.abs(pay - rewards(state.reward.params, steps).mean(0)).max() > 1e-4  # of the day
    np.testing.assert_allclose(agent.reward(found, steps), pay, atol=1e-6)
    paid = batch.sample.replace(transition=steps.replace(reward=jnp.asarray(pay)))
    update = jax.jit(sac.make(env.spec, SMALL).update)
    plain = update(state.policy, paid, jax.random.split(jax.random.key(1))[1])[0]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found.policy, plain)
    bribed = batch.replace(sample=batch.sample.replace(transition=steps.replace(reward=steps.reward - 50.0)))
    same, _ = jax.jit(agent.update)(state, bribed, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, found, same)
    of_segments = rewards(found.reward.params, batch.judged.transition).mean((0, 1, 3))
    np.testing.assert_allclose([metrics["reward/demonstrations"], metrics["reward/own"]], of_segments, rtol=1e-5)


def trained(env, config, data, iterations, begin=lambda state: state):
    agent = dip_rl.make(env.spec, config)

    @jax.jit
    def run(data, key):
        learner = train.make(agent, dip_rl.source(env, config, data))
        first = learner.init(key)
        return learner.run(first.replace(agent=begin(first.agent)), iterations)[0].agent

    return agent, run(data, jax.random.key(0))


@pytest.mark.parametrize("continuous", [False, True])
def test_it_does_what_it_was_shown(continuous):
    """What depends on the observation, and what the environment charges for."""
    env = probes.ObservationActionReward(continuous=continuous)
    agent, state = trained(env, SMALL, shown(env, continuous), 300)
    seen = jnp.array([[-1.0], [1.0]])
    action, _, _ = agent.act(state, seen, (), jax.random.key(0), False)
    if continuous:
        np.testing.assert_allclose(action[:, 0], [0.5, -0.5], atol=0.2)
    else:
        assert action.tolist() == [1, 0]


def test_values_go_on_behind_a_time_limit():
    """The reward stays as it began, above 0. Behind a limit after ten steps lies as much again, so Q is r / (1 - gamma); cut off it
    would be about 0.7 of it."""
    env = probes.TimeLimit()
    zeros, no = np.zeros((40, 1), np.float32), np.zeros(40, bool)
    limit = np.arange(40) % 10 == 9
    data = dataset_lib.from_transitions(Transition(zeros, np.zeros(40, np.int32), zeros[:, 0], no, limit, zeros))
    config = SMALL.replace(
        reward_learning_rate=0.0, learn_temperature=False, gamma=0.8, target_rate=0.2, critic_learning_rate=1e-2
    )
    above = lambda model: model._replace(params=jax.tree.map(lambda x: x + 0.1, model.params))
    agent, state = trained(env, config, data, 300, lambda state: state._replace(reward=above(state.reward)))
    one = jax.tree.map(lambda x: x[:1], data.transition)
    reward = float(agent.reward(state, one)[0])
    _, critic = sac.networks(env.spec, config)
    q = np.asarray(critic.apply(state.policy.critic.params, zeros[:1]))
    assert reward > 0.1
    np.testing.assert_allclose(q[:, 0, 0] / reward, 5.0, rtol=0.05)


def test_what_cannot_be_is_refused():
    env = probes.ObservationActionReward()
    with pytest.raises(UserError, match="num_steps=3 must be 1"):
        dip_rl.make(env.spec, SMALL.replace(num_steps=3))
    with pytest.raises(UserError, match="A replay of 2 steps of each environment has no segments of 3"):
        first_batch(env, SMALL.replace(capacity=16, warmup=8), shown(env))
