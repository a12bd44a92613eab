"""TD3 and DDPG: what one update may move, and probes whose values and best actions are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import train
from rljax.agents.online import td3
from rljax.envs import probes
from rljax.types import Continuous, Discrete, EnvSpec, Sample, Transition

SMALL = td3.Config(
    policy_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    gamma=0.9,
    target_rate=0.05,
    hidden=(32,),
    num_envs=8,
    rollout_length=1,
    batch_size=64,
    capacity=2000,
    warmup=200,
)
SPEC = EnvSpec((3,), Continuous((2,)))


def sample(size=12):
    """Random transitions; every second one terminated; weights that differ."""
    keys = jax.random.split(jax.random.key(0), 4)
    terminated = jnp.arange(size) % 2 == 0
    steps = Transition(
        observation=jax.random.normal(keys[0], (size, 3)),
        action=jax.random.uniform(keys[1], (size, 2), minval=-1.0),
        reward=jax.random.normal(keys[2], (size,)),
        terminated=terminated,
        truncated=jnp.zeros(size, bool),
        next_observation=jax.random.normal(keys[3], (size, 3)),
    )
    return Sample(steps, 0.9 * (1.0 - terminated), jnp.linspace(0.5, 1.5, size), jnp.arange(size))


@jax.jit
def one_update(config, batch):
    """The states before and after an update, and its metrics. One program for all float hyperparameters."""
    agent = td3.make(SPEC, config)
    before = agent.init(jax.random.key(0))
    return before, *agent.update(before, batch, jax.random.key(1))


def moved(a, b):
    return any(bool((x != y).any()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def assert_close(a, b, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


@functools.partial(jax.jit, static_argnums=2)
def learn(env, config, iterations=2000):
    """The agent's state after training on `env`."""
    learner = train.make(td3.make(env.spec, config), td3.source(env, config))
    return learner.run(learner.init(jax.random.key(0)), iterations)[0].agent


def evaluate(env, config, state, observation):
    """The best actions at observations [B], and what the lower critic thinks of them."""
    observation = jnp.array(observation)[:, None]
    action, _, _ = td3.make(env.spec, config).act(state, observation, (), jax.random.key(0), False)
    _, critic = td3.networks(env.spec, config)
    return action[:, 0], critic.apply(state.critic.params, observation, action).min(axis=0)[:, 0]


def test_discrete_actions_are_refused():
    with pytest.raises(ValueError, match="TD3 needs continuous actions; here are 4 discrete ones."):
        td3.make(EnvSpec((3,), Discrete(4)))


def test_a_sample_that_the_delay_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="policy_delay=5 must divide the 12 transitions"):
        one_update(SMALL.replace(policy_delay=5), sample())


def test_each_loss_moves_its_own_network_alone():
    before, after, _ = one_update(SMALL.replace(policy_learning_rate=0.0, target_rate=0.0), sample())
    assert not moved(before.policy.params, after.policy.params)
    assert not moved((before.target_policy, before.target_critic), (after.target_policy, after.target_critic))
    assert moved(before.critic.params, after.critic.params)
    before, after, _ = one_update(SMALL.replace(critic_learning_rate=0.0), sample())
    assert not moved(before.critic.params, after.critic.params)
    assert moved(before.policy.params, after.policy.params)


def test_targets_follow_the_new_networks():
    before, after, _ = one_update(SMALL.replace(target_rate=0.25), sample())
    mix = lambda old, new: jax.tree.map(lambda x, y: 0.75 * x + 0.25 * y, old, new)
    assert_close(after.target_policy, mix(before.target_policy, after.policy.params))
    assert_close(after.target_critic, mix(before.target_critic, after.critic.params))


def test_critics_step_several_times_before_the_policy_does_once():
    """A delay of 3 is three critic steps on thirds of the sample, the policy and the targets unchanged meanwhile."""
    config = SMALL.replace(policy_delay=3, target_noise=0.0)
    before, after, _ = one_update(config, sample())
    assert int(after.critic.opt_state[0].count) == 3 and int(after.policy.opt_state[0].count) == 1
    still = config.replace(policy_delay=1, policy_learning_rate=0.0, target_rate=0.0)
    agent, thirds = td3.make(SPEC, still), jax.tree.map(lambda x: x.reshape(3, 4, *x.shape[1:]), sample())
    step = lambda state, batch: agent.update(state, batch, jax.random.key(2))
    state, _ = jax.jit(lambda state: jax.lax.scan(step, state, thirds))(before)
    assert not moved(before.policy.params, state.policy.params)
    assert_close(after.critic.params, state.critic.params)
    assert moved(before.policy.params, after.policy.params)


def test_critic_and_policy_losses_from_the_networks_outputs():
    """No noise, no steps taken: the lower target critic, weights, discounts and reward scale in numpy; the policy climbs Q_1."""
    config = SMALL.replace(
        policy_delay=1, target_noise=0.0, reward_scale=2.0, critic_learning_rate=0.0, policy_learning_rate=0.0
    )
    before, _, metrics = one_update(config, sample())
    batch, (policy, critic) = sample(), td3.networks(SPEC, config)
    steps = batch.transition
    actions = lambda observation: jnp.tanh(policy.apply(before.policy.params, observation))
    q_values = lambda *inputs: np.float64(critic.apply(before.critic.params, *inputs))[..., 0]
    next_value = q_values(steps.next_observation, actions(steps.next_observation)).min(axis=0)
    target = 2.0 * np.float64(steps.reward) + np.float64(batch.discount) * next_value
    errors = target - q_values(steps.observation, steps.action)
    expected = 0.5 * (np.float64(batch.weight) * (errors**2).sum(axis=0)).mean()
    np.testing.assert_allclose(metrics["loss/critic"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["priority"], np.abs(errors).mean(axis=0), rtol=1e-4)
    first = q_values(steps.observation, actions(steps.observation))[0]
    np.testing.assert_allclose(metrics["loss/policy"], -first.mean(), rtol=1e-5)


def test_target_noise_is_clipped():
    """Noise of any size does nothing when clipped to 0, and something when not."""
    loss = lambda noise, clip: one_update(SMALL.replace(target_noise=noise, target_noise_clip=clip), sample())[2][
        "loss/critic"
    ]
    np.testing.assert_allclose(loss(100.0, 0.0), loss(0.0, 0.5), rtol=1e-6)
    assert abs(loss(100.0, 0.5) - loss(0.0, 0.5)) > 1e-4


def test_exploration_adds_noise_within_the_box():
    agent, (state, _, _) = td3.make(SPEC, SMALL.replace(exploration_noise=0.3)), one_update(SMALL, sample())
    observation = jnp.zeros((4000, 3))
    best, _, _ = agent.act(state, observation, (), jax.random.key(1), False)
    action, _, _ = agent.act(state, observation, (), jax.random.key(1), True)
    np.testing.assert_allclose((action - best).std(), 0.3, atol=0.01)  # best is tanh(0) here: biases start at 0
    assert jnp.abs(action).max() <= 1.0 < 4 * 0.3


VALUES = [
    (probes.ObservationReward(continuous=True), 3e-3, [-1.0, 1.0], [-1.0, 1.0]),
    (probes.TwoStepCredit(continuous=True), 3e-3, [0.0, 1.0], [0.9, 1.0]),
    (probes.TimeLimit(continuous=True), 1e-2, [0.0], [10.0]),
]


@pytest.mark.parametrize("env, rate, observation, value", VALUES, ids=lambda x: type(x).__name__)
def test_values_where_actions_do_not_matter(env, rate, observation, value):
    config = SMALL.replace(critic_learning_rate=rate)
    _, q = evaluate(env, config, learn(env, config), observation)
    np.testing.assert_allclose(q, value, atol=0.05 * max(np.abs(value)))


DDPG = SMALL.replace(num_critics=1, policy_delay=1, target_noise=0.0)


@pytest.mark.parametrize("config", [SMALL, DDPG], ids=["td3", "ddpg"])
def test_policy_follows_the_observation(config):
    env = probes.ObservationActionReward(continuous=True)
    action, q = evaluate(env, config, learn(env, config), [-1.0, 1.0])
    np.testing.assert_allclose(action, [-0.5, 0.5], atol=0.15)  # over seeds it stays within 0.06
    np.testing.assert_allclose(q, [0.0, 0.0], atol=0.05)
