"""RLPD: what its batches are made of, and values where its data and its own steps must agree."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import sources, train
from rljax.agents.offline import rlpd
from rljax.agents.online import sac
from rljax.envs import probes
from rljax.errors import UserError
from rljax.types import Discrete, EnvSpec, Sample, Transition

SMALL = rlpd.Config(
    policy_learning_rate=3e-3, critic_learning_rate=3e-3, temperature_learning_rate=3e-3, gamma=0.9, target_rate=0.05,
    hidden=(32,), num_critics=3, num_envs=8, num_updates=2, batch_size=64, capacity=2000, warmup=80,
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


def test_a_target_is_of_two_critics_drawn_anew_and_the_policy_follows_them_all():
    """Discrete, so that nothing but the choice of critics is drawn: every pair of three occurs, and no other number."""
    spec, config = EnvSpec((3,), Discrete(4)), SMALL.replace(policy_learning_rate=0.0, critic_learning_rate=0.0)
    agent, (policy, critic) = rlpd.make(spec, config), sac.networks(spec, config)
    state = agent.init(jax.random.key(0))
    state = state._replace(target_critic=agent.init(jax.random.key(1)).critic.params)
    keys = jax.random.split(jax.random.key(2), 2)
    s, s_next = (np.float64(jax.random.normal(key, (8, 3))) for key in keys)
    no, one = np.zeros(8, bool), np.ones(8)
    batch = Sample(Transition(s, np.arange(8) % 4, one, no, no, s_next), 0.9 * one, one, np.arange(8))
    metrics = jax.jit(jax.vmap(agent.update, (None, None, 0)))(state, batch, jax.random.split(jax.random.key(3), 30))[1]

    probs = lambda at: np.float64(jax.nn.softmax(policy.apply(state.policy.params, at)))
    soft = lambda q, at: (probs(at) * (q - np.log(probs(at)))).sum(-1)  # the temperature is 1
    q, q_next = (
        np.float64(critic.apply(params, at)) for params, at in ((state.critic.params, s), (state.target_critic, s_next))
    )
    losses = []
    for pair in itertools.combinations(range(3), 2):
        target = 1.0 + 0.9 * soft(q_next[list(pair)].min(0), s_next)
        losses.append(0.5 * ((q[:, np.arange(8), np.arange(8) % 4] - target) ** 2).sum(0).mean())
    nearest = np.abs(np.asarray(metrics["loss/critic"])[:, None] - losses).argmin(1)
    assert set(nearest) == {0, 1, 2}
    np.testing.assert_allclose(metrics["loss/critic"], np.array(losses)[nearest], rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/policy"], -soft(q.mean(0), s).mean(), rtol=1e-5)


def test_there_must_be_enough_critics():
    with pytest.raises(UserError, match="num_target_critics=2 must be from 1 to num_critics=1"):
        rlpd.make(EnvSpec((3,), Discrete(4)), SMALL.replace(num_critics=1))


def test_what_cannot_be_mixed_is_said(random_data):
    env = probes.TwoStepCredit()
    data = random_data(env, 4, 8)
    one, two = (sources.at_rest(data, batch_size=4, num_batches=n, gamma=0.9) for n in (1, 2))
    with pytest.raises(UserError, match="of 1 and of 2 batches"):
        sources.mixed(one, two)
