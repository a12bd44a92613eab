"""Annealed critics: their schedule and loss by numpy, nothing where the expectile is the mean, and what they learn on the way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rljax.agents.distributional import d4pg
from rljax.agents.imitation import iq_learn
from rljax.agents.online import sac, td3
from rljax.networks import annealing
from rljax.types import Continuous, Discrete, EnvSpec, Sample, Transition

SPEC = EnvSpec((1,), Continuous((1,)))
SMALL = dict(hidden=(16,), gamma=0.9, critic_learning_rate=3e-3)


def batch(size=32):
    """Half the steps lead from [0] to [1] unpaid, half end there and pay their action in [-1, 1]; weights differ."""
    half = size // 2
    first = jnp.arange(size) < half
    action = jnp.tile(jnp.linspace(-1.0, 1.0, half), 2)
    steps = Transition(
        jnp.where(first, 0.0, 1.0)[:, None], action[:, None], jnp.where(first, 0.0, action), ~first, ~first & first,
        jnp.ones((size, 1)),
    )  # fmt: skip
    return Sample(steps, jnp.where(first, 0.9, 0.0), jnp.linspace(0.5, 1.5, size), jnp.arange(size))


def test_schedule():
    config = sac.Config(annealed=True, expectile=0.9, annealing_steps=200.0)
    agent = sac.make(SPEC, config.replace(hidden=(4,)))
    state = agent.init(jax.random.key(0))
    for count, level in ((0, 0.9), (50, 0.8), (100, 0.7), (199, 0.502), (200, 0.5), (9999, 0.5)):
        adam, rest = state.critic.opt_state
        critic = state.critic._replace(opt_state=(adam._replace(count=jnp.int32(count)), rest))
        np.testing.assert_allclose(annealing.expectile(config, critic), level, rtol=1e-5)
    assert annealing.expectile(config.replace(annealed=False), state.critic) is None


@pytest.mark.parametrize("module", [sac, td3])
def test_at_a_half_it_is_the_plain_agent(module):
    """Bit for bit, and with no more in its state."""
    plain = module.Config(**SMALL)
    learned, keys = [], jax.random.split(jax.random.key(1), 3)
    for config in (plain, plain.replace(annealed=True, expectile=0.5, annealing_steps=2.0)):
        agent = module.make(SPEC, config)
        step = lambda state, key, agent=agent: agent.update(state, batch(), key)
        learned.append(
            jax.jit(lambda state, keys, step=step: jax.lax.scan(step, state, keys))(agent.init(keys[0]), keys)
        )
    jax.tree.map(np.testing.assert_array_equal, *learned)


def test_loss_by_numpy():
    """TD3 without noise: each critic's errors from the target, tilted by 0.8 for what is too low and 0.2 for what is too high."""
    config = td3.Config(policy_delay=1, target_noise=0.0, annealed=True, expectile=0.8, **SMALL)
    agent, given = td3.make(SPEC, config), batch()
    state = agent.init(jax.random.key(0))
    _, metrics = jax.jit(agent.update)(state, given, jax.random.key(1))
    (policy, critic), steps = td3.networks(SPEC, config), given.transition
    q = lambda *inputs: np.float64(critic.apply(state.critic.params, *inputs))[..., 0]
    action = jnp.tanh(policy.apply(state.policy.params, steps.next_observation))
    target = np.float64(steps.reward) + np.float64(given.discount) * q(steps.next_observation, action).min(0)
    errors = target - q(steps.observation, steps.action)
    assert (errors > 0).any() and (errors < 0).any()
    losses = np.where(errors > 0, 0.8, 0.2) * errors**2
    np.testing.assert_allclose(metrics["loss/critic"], (np.float64(given.weight) * losses.sum(0)).mean(), rtol=1e-5)


def test_from_the_best_of_what_follows_to_its_mean():
    """SAC's policy is held; what [0] is worth comes to be the expectile of the values at [1] of the actions that it draws there."""
    fixed = dict(policy_learning_rate=0.0, initial_temperature=1e-6, learn_temperature=False, num_critics=1)
    config = sac.Config(**(SMALL | dict(hidden=(32, 32), target_rate=0.05)), **fixed, annealed=True)
    agent = sac.make(SPEC, config)
    start = agent.init(jax.random.key(0))
    last = start.policy.params["params"]["Dense_0"]
    start.policy.params["params"]["Dense_0"] = {
        "kernel": 0.0 * last["kernel"],
        "bias": jnp.array([0.0, 1.0]),  # it draws from all of [-1, 1], as often below 0 as above
    }

    @jax.jit
    @jax.vmap
    def learn(level, length):
        agent = sac.make(SPEC, config.replace(expectile=level, annealing_steps=length))
        step = lambda state, key: (agent.update(state, batch(), key)[0], ())
        return jax.lax.scan(step, start, jax.random.split(jax.random.key(1), 2_500))[0].critic.params

    levels, lengths = np.array([0.5, 0.9, 0.98, 0.98]), np.array([1e9, 1e9, 1e9, 1e3])
    drawn, _, _ = agent.act(start, jnp.ones((4_000, 1)), (), jax.random.key(2), True)
    anywhere = jnp.linspace(-1.0, 1.0, 9)[:, None]
    critic = sac.networks(SPEC, config)[1]
    q = jax.vmap(
        lambda params, x, action: critic.apply(params, jnp.full((len(action), 1), x), action)[0, :, 0], (0, None, None)
    )
    params = learn(levels, lengths)
    follows, found = 0.9 * np.asarray(q(params, 1.0, drawn)), np.asarray(q(params, 0.0, anywhere)).mean(1)
    np.testing.assert_allclose(follows, np.broadcast_to(0.9 * drawn[:, 0], follows.shape), atol=0.15)
    at_last = np.where(lengths > 1e6, levels, 0.5)
    np.testing.assert_allclose(
        found, [scipy.stats.expectile(x, level) for x, level in zip(follows, at_last)], atol=0.08
    )
    assert abs(found[0]) < 0.15 and found[2] > 0.6  # the mean is 0, the best 0.9
    assert found[0] < found[1] - 0.2 < found[2] - 0.3


def test_what_cannot_be_annealed_is_refused():
    with pytest.raises(ValueError, match="annealed=True needs continuous actions"):
        sac.make(EnvSpec((1,), Discrete(2)), sac.Config(annealed=True))
    with pytest.raises(ValueError, match="annealed=True needs critics that regress onto a target's mean"):
        d4pg.make(SPEC, d4pg.Config(annealed=True))
    with pytest.raises(ValueError, match="annealed=True needs critics that regress onto a target's mean"):
        iq_learn.make(SPEC, iq_learn.Config(annealed=True))
