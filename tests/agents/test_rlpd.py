"""RLPD: what its batches are made of, and values where its data and its own steps must agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import sources, train
from rljax.agents.offline import rlpd
from rljax.agents.online import sac
from rljax.envs import probes
from rljax.errors import UserError

SMALL = rlpd.Config(
    policy_learning_rate=3e-3, critic_learning_rate=3e-3, temperature_learning_rate=3e-3, gamma=0.9, target_rate=0.05,
    hidden=(32,), num_envs=8, num_updates=2, batch_size=64, capacity=2000, warmup=80,
)  # fmt: skip


def test_half_of_a_batch_is_of_the_data_and_half_its_own(random_data):
    """The data's rewards are marked by 100."""
    env = probes.TwoStepCredit()
    data = random_data(env, 4, 8)
    data = data.replace(transition=data.transition.replace(reward=data.transition.reward + 100.0))
    agent, source = rlpd.make(env.spec, SMALL), rlpd.source(env, SMALL, data)
    state = source.init(agent, jax.random.key(0))
    _, batch, metrics = source.next(state, agent, agent.init(jax.random.key(1)), jax.random.key(2))
    assert source.num_batches == 2 and source.env_steps == 8 and source.warmup_steps == 80
    np.testing.assert_array_equal((batch.transition.reward > 50.0).sum(axis=1), [32, 32])
    assert "episode/return" in metrics


def test_values_come_from_both(random_data):
    """Its own steps pay 0 then 1 and the data as much: were one of them ignored or cut off, values would differ."""
    env = probes.TwoStepCredit()

    @jax.jit
    def run(data, key):
        learner = train.make(rlpd.make(env.spec, SMALL), rlpd.source(env, SMALL, data))
        return learner.run(learner.init(key), 1000)[0].agent

    state = run(random_data(env), jax.random.key(0))
    _, critic = sac.networks(env.spec, SMALL)
    q = critic.apply(state.critic.params, jnp.array([[0.0], [1.0]])).min(axis=0)[:, 0]
    np.testing.assert_allclose(q, [0.9, 1.0], atol=0.05)


def test_what_cannot_be_mixed_is_said(random_data):
    env = probes.TwoStepCredit()
    data = random_data(env, 4, 8)
    one, two = (sources.at_rest(data, batch_size=4, num_batches=n, gamma=0.9) for n in (1, 2))
    with pytest.raises(UserError, match="of 1 and of 2 batches"):
        sources.mixed(one, two)
