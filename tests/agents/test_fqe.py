"""Fitted Q evaluation against exact values of the policy: by a linear system, by probes, and one update by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import train
from rljax.agents.offline import fqe
from rljax.envs import probes, tabular
from rljax.types import Agent, Continuous, Discrete, EnvSpec, Sample, Transition

SMALL = fqe.Config(
    learning_rate=1e-2, gamma=0.9, target_rate=0.05, hidden=(), batch_size=64, num_updates=4, num_samples=1
)


def table_policy(logits, knows_likelihood=True):
    """Acts by a softmax of the observed state's row; its greedy action without exploration. Its state is the table [S, A]."""

    def act(state, observation, memory, key, explore=True):
        rows = observation @ state
        return jax.random.categorical(key, rows) if explore else rows.argmax(-1), memory, {}

    def log_prob(state, observation, action, explore=True):
        rows = observation @ state
        chances = jax.nn.log_softmax(rows) if explore else jnp.log(jax.nn.one_hot(rows.argmax(-1), rows.shape[-1]))
        return jnp.take_along_axis(chances, action[:, None], axis=-1)[:, 0]

    return Agent(lambda key: logits, act, None, log_prob=log_prob if knows_likelihood else None)


def normal_policy(std):
    """Mean 0.3 times the observation; its state is the mean's factor."""

    def act(state, observation, memory, key, explore=True):
        noise = std * jax.random.normal(key, observation.shape) if explore else 0.0
        return state * observation + noise, memory, {}

    return Agent(lambda key: 0.3, act, None)


def learn(env, config, dataset, policy, policy_state, iterations, explore=True, seed=0):
    """(observation) -> the values that FQE found."""
    agent = fqe.make(env.spec, config, policy, policy_state, explore)

    @jax.jit
    def run(dataset, key):
        learner = train.make(agent, fqe.source(env, config, dataset))
        return learner.run(learner.init(key), iterations)[0].agent

    state = run(dataset, jax.random.key(seed))
    values = fqe.value_of(env.spec, config, policy, policy_state, explore)
    return state, lambda observation: np.asarray(values(state, jnp.asarray(observation), jax.random.key(seed + 1)))


def exact_q(mdp, chances):
    """Q of the policy with these chances [S, A], by the linear system for its values."""
    transition, reward, gamma = np.float64(mdp.transition), np.float64(mdp.reward), float(mdp.discount)
    step = np.einsum("sa,sat->st", chances, transition)
    value = np.linalg.solve(np.eye(len(step)) - gamma * step, (chances * reward).sum(1))
    return reward + gamma * transition @ value, value


@pytest.mark.parametrize("explore", [True, False])
def test_equals_the_exact_value_on_a_finite_mdp(explore, random_data):
    """Transitions are deterministic and all are seen; episodes are cut after 6 steps, and the value is that of going on."""
    env = tabular.gridworld(3, 3, start=None, step_reward=-0.1, discount=0.9, episode_length=6)
    logits = 2.0 * jax.random.normal(jax.random.key(3), (9, 4))
    chances = np.float64(jax.nn.softmax(logits) if explore else jax.nn.one_hot(logits.argmax(-1), 4))
    q, value = exact_q(env, chances)
    assert value.std() > 0.1
    dataset = random_data(env, 32, 128)
    state, values = learn(env, SMALL, dataset, table_policy(logits), logits, 1600, explore)
    np.testing.assert_allclose(values(np.eye(9))[:8], value[:8], atol=0.01)
    found = fqe.network(env.spec, SMALL).apply(state.critic.params, jnp.eye(9))[0]
    np.testing.assert_allclose(found[:8], q[:8], atol=0.01)


def test_sampled_actions_agree_with_the_exact_mean(random_data):
    env = tabular.gridworld(2, 2, start=None, discount=0.9, episode_length=6)
    logits = 2.0 * jax.random.normal(jax.random.key(4), (4, 4))
    _, value = exact_q(env, np.float64(jax.nn.softmax(logits)))
    config = SMALL.replace(num_samples=16, target_rate=0.02, learning_rate=3e-3)
    _, values = learn(env, config, random_data(env), table_policy(logits, False), logits, 1000)
    found = np.mean([values(np.eye(4)[[i] * 200]) for i in range(3)], axis=1)
    np.testing.assert_allclose(found, value[:3], atol=0.03)


@pytest.mark.parametrize("continuous, reward_scale", [(False, 1.0), (True, 0.05)])
def test_a_time_limit_ends_nothing(continuous, reward_scale, random_data):
    env = probes.TimeLimit(continuous=continuous)
    if continuous:
        policy, state = normal_policy(0.1), jnp.float32(0.3)
    else:
        state = jnp.zeros((1, 1))
        policy = table_policy(state)
    config = SMALL.replace(reward_scale=reward_scale)
    _, values = learn(env, config, random_data(env), policy, state, 900)
    assert values([[0.0]])[0] == pytest.approx(10.0, rel=0.02)


@pytest.mark.parametrize("explore", [True, False])
def test_continuous_actions_of_the_policy_are_averaged_over(explore, random_data):
    """Q(o, a) = -(a - o / 2)^2 is learnt from random actions; with mean 0.3 o and deviation 0.4 the value is -(0.2^2 + 0.4^2)."""
    env = probes.ObservationActionReward(continuous=True)
    config = SMALL.replace(hidden=(32,), learning_rate=1e-2, num_samples=4)
    _, values = learn(env, config, random_data(env), normal_policy(0.4), jnp.float32(0.3), 600, explore)
    found = values(np.repeat([[-1.0], [1.0]], 500, axis=0)).reshape(2, 500).mean(1)
    np.testing.assert_allclose(found, [-0.04 - 0.16 * explore] * 2, atol=0.02)


def test_policies_and_seeds_in_one_program(random_data):
    """The policy's state may be traced: one that is always wrong and one that is always right, each by two seeds."""
    env = probes.ActionReward()
    dataset = random_data(env)
    policy = Agent(
        init=None,
        act=lambda state, observation, memory, key, explore: (jnp.full(observation.shape[0], state), memory, {}),
        update=None,
    )

    def value(action, key):
        learner = train.make(
            fqe.make(env.spec, SMALL, policy, action), fqe.source(env, SMALL.replace(gamma=0.5), dataset)
        )
        state = learner.run(learner.init(key), 300)[0].agent
        return fqe.value_of(env.spec, SMALL, policy, action)(state, jnp.zeros((1, 1)), key)[0]

    over_seeds = jax.vmap(value, (None, 0))
    values = jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.arange(2), jax.random.split(jax.random.key(0)))
    np.testing.assert_allclose(values, [[-1.0, -1.0], [1.0, 1.0]], atol=1e-2)


def transitions():
    """Two steps, of which the second terminates."""
    return Sample(
        Transition(
            observation=jnp.array([[1.0, 0.0], [0.0, 1.0]]),
            action=jnp.array([0, 1]),
            reward=jnp.array([2.0, -3.0]),
            terminated=jnp.array([False, True]),
            truncated=jnp.array([True, False]),
            next_observation=jnp.array([[0.0, 1.0], [1.0, 0.0]]),
        ),
        discount=jnp.array([0.9, 0.0]),
        weight=jnp.ones(2),
        slot=jnp.arange(2),
    )


def test_one_update_by_hand():
    """The loss before it, from the target's parameters; and the target takes over at every second update."""
    spec = EnvSpec((2,), Discrete(2))
    logits = jnp.array([[0.0, 1.0], [-1.0, 1.0]])
    config = SMALL.replace(target_rate=1.0, target_period=2, reward_scale=0.5)
    agent = fqe.make(spec, config, table_policy(logits), logits, True)
    first = agent.init(jax.random.key(0))
    older = jax.tree.map(lambda x: x + 0.3, first.critic.params)
    first = first._replace(target_critic=older)
    network = fqe.network(spec, config)
    q, q_older = (np.asarray(network.apply(p, jnp.eye(2))[0]) for p in (first.critic.params, older))
    chances = np.exp([1.0, 1.0]) / (np.exp([1.0, 1.0]) + np.exp([0.0, -1.0]))  # of action 1
    next_value = (1 - chances[1]) * q_older[1, 0] + chances[1] * q_older[1, 1]
    target = np.array([0.5 * 2.0 + 0.9 * next_value, 0.5 * -3.0])
    second, metrics = agent.update(first, transitions(), jax.random.key(1))
    assert float(metrics["loss/critic"]) == pytest.approx(np.square(target - q[[0, 1], [0, 1]]).mean(), rel=1e-5)
    assert float(metrics["critic/q"]) == pytest.approx(q[[0, 1], [0, 1]].mean() / 0.5, rel=1e-5)
    same = lambda a, b: all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))
    assert same(second.target_critic, older) and not same(second.critic.params, first.critic.params)
    third, _ = agent.update(second, transitions(), jax.random.key(2))
    assert same(third.target_critic, third.critic.params)


def test_it_acts_as_the_policy_that_it_evaluates():
    policy = normal_policy(0.1)
    agent = fqe.make(EnvSpec((1,), Continuous((1,))), SMALL, policy, jnp.float32(0.3))
    observation, key = jnp.ones((3, 1)), jax.random.key(0)
    state = agent.init(key)
    np.testing.assert_allclose(agent.act(state, observation, (), key)[0], 0.3)
    np.testing.assert_array_equal(
        agent.act(state, observation, (), key, True)[0], policy.act(0.3, observation, (), key, True)[0]
    )


def test_a_policy_with_a_memory_is_refused():
    policy = normal_policy(0.1)._replace(memory=jnp.zeros(3))
    with pytest.raises(ValueError, match="Fitted Q evaluation is for policies without a memory"):
        fqe.make(EnvSpec((1,), Continuous((1,))), SMALL, policy, jnp.float32(0.3))
