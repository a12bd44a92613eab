"""SAC against exact answers: closed forms on bandits, and probes whose values are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import train
from rljax.agents.online import sac
from rljax.envs import probes
from rljax.types import Continuous, Discrete, EnvSpec, Sample, Transition

SMALL = sac.Config(
    policy_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    temperature_learning_rate=3e-3,
    gamma=0.9,
    target_rate=0.05,
    hidden=(32,),
    num_envs=8,
    batch_size=64,
    capacity=2000,
    warmup=200,
)
SPECS = {"continuous": EnvSpec((3,), Continuous((2,))), "discrete": EnvSpec((3,), Discrete(4))}


def sample(spec, size=8, seed=0):
    """Random transitions; every second one terminated; weights that differ."""
    keys = jax.random.split(jax.random.key(seed), 4)
    if isinstance(spec.action, Continuous):
        action = jax.random.uniform(keys[0], (size, *spec.action.shape), minval=-1.0)
    else:
        action = jax.random.randint(keys[0], (size,), 0, spec.action.num_actions)
    terminated = jnp.arange(size) % 2 == 0
    steps = Transition(
        observation=jax.random.normal(keys[1], (size, *spec.observation_shape)),
        action=action,
        reward=jax.random.normal(keys[2], (size,)),
        terminated=terminated,
        truncated=jnp.zeros(size, bool),
        next_observation=jax.random.normal(keys[3], (size, *spec.observation_shape)),
    )
    return Sample(steps, 0.9 * (1.0 - terminated), jnp.linspace(0.5, 1.5, size), jnp.arange(size))


@functools.partial(jax.jit, static_argnums=0)
def one_update(spec, config):
    """The states before and after an update, and its metrics. One program for all float hyperparameters."""
    agent = sac.make(spec, config)
    before = agent.init(jax.random.key(0))
    return before, *agent.update(before, sample(spec), jax.random.key(1))


def moved(a, b):
    return any(bool((x != y).any()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@functools.partial(jax.jit, static_argnums=2)
def learn(env, config, iterations=2000):
    """The agent's state after training on `env`."""
    learner = train.make(sac.make(env.spec, config), sac.source(env, config))
    return learner.run(learner.init(jax.random.key(0)), iterations)[0].agent


def q_values(env, state, observation):
    """The lower of the critics, [B, A]."""
    _, critic = sac.networks(env.spec, SMALL)
    return critic.apply(state.critic.params, observation).min(axis=0)


@pytest.mark.parametrize("kind", SPECS)
def test_each_loss_moves_its_own_network_alone(kind):
    before, after, _ = one_update(SPECS[kind], SMALL.replace(policy_learning_rate=0.0, target_rate=0.0))
    assert not moved(before.policy.params, after.policy.params)
    assert not moved(before.target_critic, after.target_critic)
    assert moved(before.critic.params, after.critic.params)
    before, after, _ = one_update(SPECS[kind], SMALL.replace(critic_learning_rate=0.0))
    assert not moved(before.critic.params, after.critic.params)
    assert moved(before.policy.params, after.policy.params)
    assert moved(before.temperature.params, after.temperature.params)


def test_target_critic_follows_the_new_critic():
    before, after, _ = one_update(SPECS["continuous"], SMALL.replace(target_rate=0.25))
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, before.target_critic, after.critic.params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-7), after.target_critic, expected)


def test_critic_loss_from_the_networks_outputs():
    """Discrete, so nothing is sampled: expectations, the lower critic, weights, discounts and reward scale in numpy."""
    spec, config = SPECS["discrete"], SMALL.replace(initial_temperature=0.5, reward_scale=2.0)
    before, _, metrics = one_update(spec, config)
    batch = sample(spec)
    steps = batch.transition
    policy, critic = sac.networks(spec, config)
    logits = np.float64(policy.apply(before.policy.params, steps.next_observation))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    next_q = np.float64(critic.apply(before.target_critic, steps.next_observation)).min(0)
    value = (probs * (next_q - 0.5 * np.log(probs))).sum(-1)
    target = 2.0 * np.float64(steps.reward) + np.float64(batch.discount) * value
    q = np.float64(critic.apply(before.critic.params, steps.observation))[:, np.arange(8), np.asarray(steps.action)]
    expected = 0.5 * (np.float64(batch.weight) * ((q - target) ** 2).sum(0)).mean()
    np.testing.assert_allclose(metrics["loss/critic"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["priority"], np.abs(q - target).mean(0), rtol=1e-4)


@pytest.mark.parametrize("kind, least, most", [("continuous", -20.0, 5.0), ("discrete", 0.0, 1.1)])
def test_temperature_falls_above_the_target_entropy_and_rises_below(kind, least, most):
    def change(target):
        config = SMALL.replace(entropy_per_dimension=target, entropy_share=target)
        before, after, metrics = one_update(SPECS[kind], config)
        assert "policy/temperature" in metrics
        return after.temperature.params - before.temperature.params

    assert change(least) < 0.0 < change(most)


def test_temperature_stays_when_it_is_not_learned():
    before, after, _ = one_update(SPECS["discrete"], SMALL.replace(learn_temperature=False))
    assert not moved(before.temperature, after.temperature)


def test_entropy_comes_to_rest_at_its_target():
    """Any reward: the learned temperature holds the policy at half the largest entropy."""
    spec = EnvSpec((1,), Discrete(3))
    config = SMALL.replace(entropy_share=0.5, temperature_learning_rate=1e-2)
    _, metrics = learn_bandit(spec, config, jnp.array([1.0, 0.0, 0.2]))
    np.testing.assert_allclose(metrics["policy/entropy"][-100:].mean(), 0.5 * np.log(3.0), atol=0.02)


def learn_bandit(spec, config, reward, iterations=2000):
    """Updates on every arm once, over and over: nothing is random. Returns the policy's probabilities and the metrics."""
    agent, arms = sac.make(spec, config), reward.shape[0]
    observation, yes = jnp.zeros((arms, 1)), jnp.ones(arms, bool)
    steps = Transition(observation, jnp.arange(arms), reward, yes, ~yes, observation)
    batch = Sample(steps, jnp.zeros(arms), jnp.ones(arms), jnp.arange(arms))
    step = lambda state, key: agent.update(state, batch, key)
    keys = jax.random.split(jax.random.key(1), iterations)
    state, metrics = jax.jit(lambda key: jax.lax.scan(step, agent.init(key), keys))(jax.random.key(0))
    logits = sac.networks(spec, config)[0].apply(state.policy.params, observation[:1])[0]
    return jax.nn.softmax(logits), metrics


def test_discrete_policy_converges_to_the_softmax_of_a_bandit():
    """The soft optimum is pi(a) proportional to exp(r(a) / alpha)."""
    reward, temperature = jnp.array([1.0, 0.0, 0.4]), 0.5
    config = SMALL.replace(initial_temperature=temperature, learn_temperature=False)
    probs, _ = learn_bandit(EnvSpec((1,), Discrete(3)), config, reward)
    np.testing.assert_allclose(probs, jax.nn.softmax(reward / temperature), atol=2e-3)


ONE_ACTION = [
    (probes.ObservationReward(), 3e-3, [-1.0, 1.0], [-1.0, 1.0]),
    (probes.TwoStepCredit(), 3e-3, [0.0, 1.0], [0.9, 1.0]),
    (probes.TimeLimit(), 2e-2, [0.0], [10.0]),  # at [0] only biases learn, so the way is long
]


@pytest.mark.parametrize("env, rate, observation, value", ONE_ACTION, ids=lambda x: type(x).__name__)
def test_values_where_there_is_one_action(env, rate, observation, value):
    """One action has no entropy, so values are those of the rewards alone."""
    state = learn(env, SMALL.replace(critic_learning_rate=rate))
    q = q_values(env, state, jnp.array(observation)[:, None])[:, 0]
    np.testing.assert_allclose(q, value, atol=0.05 * max(np.abs(value)))


def test_discrete_policy_follows_the_observation():
    """Rewards +1 and -1 at temperature 1: pi of the right action is sigmoid(2)."""
    env, config = probes.ObservationActionReward(), SMALL.replace(learn_temperature=False)
    state = learn(env, config)
    observation = jnp.array([[-1.0], [1.0]])
    np.testing.assert_allclose(q_values(env, state, observation), [[1.0, -1.0], [-1.0, 1.0]], atol=0.05)
    logits = sac.networks(env.spec, config)[0].apply(state.policy.params, observation)
    right = 1.0 / (1.0 + np.exp(-2.0))
    np.testing.assert_allclose(jax.nn.softmax(logits), [[right, 1.0 - right], [1.0 - right, right]], atol=0.02)
    action, _, _ = sac.make(env.spec, config).act(state, observation, (), jax.random.key(0), False)
    np.testing.assert_array_equal(action, [0, 1])


def test_continuous_policy_on_a_quadratic_bandit():
    """Reward -(a - o / 2)^2: the soft optimum is proportional to exp(reward / alpha), a normal of variance alpha / 2."""
    env = probes.ObservationActionReward(continuous=True)
    config = SMALL.replace(initial_temperature=0.02, learn_temperature=False)
    state, agent = learn(env, config), sac.make(env.spec, config)
    observation = jnp.tile(jnp.array([[-1.0], [1.0]]), (2000, 1))
    best, _, _ = agent.act(state, observation[:2], (), jax.random.key(1), False)
    np.testing.assert_allclose(best[:, 0], [-0.5, 0.5], atol=0.1)
    action, _, _ = agent.act(state, observation, (), jax.random.key(1), True)
    action = np.asarray(action).reshape(-1, 2)
    np.testing.assert_allclose(action.mean(axis=0), [-0.5, 0.5], atol=0.1)
    np.testing.assert_allclose(action.std(axis=0), 0.1, atol=0.025)  # 0.07 or 0.14 at half or twice the temperature
