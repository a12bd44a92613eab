"""LS-IQ: its loss by hand, its values' exact optimum and bounds, and that it does as it was shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import train
from rljax.agents.imitation import ls_iq
from rljax.agents.online import sac
from rljax.data import dataset as dataset_lib
from rljax.envs import probes
from rljax.errors import UserError
from rljax.types import Discrete, EnvSpec, Sample, Transition

SMALL = ls_iq.Config(
    policy_learning_rate=3e-3, critic_learning_rate=3e-3, gamma=0.9, target_rate=0.05, hidden=(32,), num_envs=8, num_updates=2,
    batch_size=64, capacity=2000, warmup=80, initial_temperature=0.1,
)  # fmt: skip
SPEC = EnvSpec((3,), Discrete(4))


@pytest.mark.parametrize("absorbing", [True, False])
@pytest.mark.parametrize("fixed, clip", [(True, True), (False, True), (False, False)])
def test_the_loss_by_hand(absorbing, fixed, clip):
    """Exact expectations over discrete actions; the target network leaves [-20, 20]; what was paid (100) is not read."""
    config = SMALL.replace(absorbing=absorbing, fixed_target=fixed, clip_targets=clip)
    agent, (policy, critic) = ls_iq.make(SPEC, config), sac.networks(SPEC, config)
    state = agent.init(jax.random.key(0))
    far = jax.tree.map(lambda x: 8.0 * x, agent.init(jax.random.key(1)).critic.params)
    state = state._replace(target_critic=far)
    s, s_next = (np.float32(jax.random.normal(jax.random.key(i), (16, 3))) for i in (1, 2))
    shown, ended = np.arange(16) < 7, np.arange(16) % 5 == 0
    steps = Transition(
        s,
        np.arange(16) % 4,
        np.full(16, 100.0, np.float32),
        ended,
        ~ended & ended,
        s_next,
        {"demonstrated": np.float32(shown)},
    )
    sample = Sample(steps, np.float32(0.9 * ~ended), np.ones(16, np.float32), np.arange(16))
    probs = np.float64(jax.nn.softmax(policy.apply(state.policy.params, s_next)))
    value = (probs * (np.float64(critic.apply(far, s_next))[0] - 0.1 * np.log(probs))).sum(-1)
    assert (np.abs(value) > 20.0).any()
    value = np.clip(value, -20.0, 20.0) if clip else value
    reward = np.where(shown, 2.0, -2.0)
    target = reward + 0.9 * np.where(ended, reward / 0.1 if absorbing else 0.0, value)
    target = np.where(shown & fixed, 20.0, target)
    errors = (np.float64(critic.apply(state.critic.params, s))[0][np.arange(16), np.arange(16) % 4] - target) ** 2
    _, metrics = jax.jit(agent.update)(state, sample, jax.random.key(3))
    assert float(metrics["loss/critic"]) == pytest.approx(errors[shown].mean() + errors[~shown].mean(), rel=1e-4)


@pytest.mark.parametrize("absorbing", [True, False])
def test_the_reward_found_is_bounded_and_tells_densities_apart(absorbing, settle):
    """One-step episodes: Q is (1 / c) (d_E - d_own) / (d_E + d_own), and paid for ever that over 1 - gamma."""
    often = np.array([[0.5, 0.3, 0.2, 0.0], [0.1, 0.3, 0.0, 0.6]])
    action = np.concatenate([np.repeat(np.arange(4), (100 * p).round().astype(int)) for p in often]).astype(np.int32)
    shown, yes = np.repeat([1.0, 0.0], 100).astype(np.float32), np.ones(200, bool)
    at = np.tile(np.eye(3, dtype=np.float32)[0], (200, 1))
    steps = Transition(at, action, np.zeros(200, np.float32), yes, ~yes, at, {"demonstrated": shown})
    sample = Sample(steps, np.zeros(200, np.float32), np.ones(200, np.float32), np.arange(200))
    config = SMALL.replace(absorbing=absorbing, fixed_target=False, hidden=(), critic_learning_rate=5e-2)
    state = settle(ls_iq.make(SPEC, config), sample, 1500)
    q = np.asarray(sac.networks(SPEC, config)[1].apply(state.critic.params, jnp.eye(3)[:1]))[0, 0]
    expected = 2.0 * (often[0] - often[1]) / often.sum(0) / (0.1 if absorbing else 1.0)
    np.testing.assert_allclose(q, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("fixed", [True, False])
def test_what_was_demonstrated_is_learned(fixed):
    """It depends on the observation."""
    env = probes.ObservationActionReward()
    seen = np.where(np.arange(64) % 2 == 0, -1.0, 1.0).astype(np.float32)[:, None]
    yes = np.ones(64, bool)
    data = dataset_lib.from_transitions(
        Transition(seen, (seen[:, 0] < 0).astype(np.int32), np.zeros(64, np.float32), yes, ~yes, seen)
    )
    config = SMALL.replace(fixed_target=fixed)

    @jax.jit
    def run(data, key):
        learner = train.make(ls_iq.make(env.spec, config), ls_iq.source(env, config, data))
        return learner.run(learner.init(key), 300)[0].agent

    action, _, _ = ls_iq.make(env.spec, config).act(
        run(data, jax.random.key(0)), jnp.array([[-1.0], [1.0]]), (), jax.random.key(0), False
    )
    assert action.tolist() == [1, 0]


@pytest.mark.parametrize(
    "changes, sentence", [({"num_steps": 3}, "num_steps=3 must be 1"), ({"gamma": 1.0}, "gamma=1.0 must be below 1")]
)
def test_settings_that_cannot_be_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        ls_iq.make(SPEC, SMALL.replace(**changes))
