"""PPO: the surrogate by hand, the first minibatch's ratio, time limits, and what each probe says is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs, rollout, train
from rljax.agents.online import ppo
from rljax.losses import policy_gradient
from rljax.types import initial_memory

PROBE = ppo.Config(learning_rate=3e-3, gamma=0.9, num_envs=16, rollout_length=16, hidden=(32,), entropy_coefficient=0.0)


@pytest.mark.parametrize(
    "ratio, advantage, expected",
    [
        (1.0, 2.0, -2.0),  # at the start: the plain policy gradient
        (1.5, 2.0, -2.4),  # too likely already: stops paying at 1.2
        (0.5, 2.0, -1.0),  # made less likely though good: not clipped, it may come back
        (1.5, -2.0, 3.0),  # made more likely though bad: not clipped
        (0.5, -2.0, 1.6),  # unlikely enough: stops paying at 0.8
    ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, expected):
    loss = policy_gradient.clipped_surrogate(jnp.log(ratio), jnp.float32(advantage), 0.2)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "ratio, advantage, pays", [(1.5, 2.0, 0), (0.5, -2.0, 0), (0.5, 2.0, 1), (1.5, -2.0, 1), (1.0, 1.0, 1)]
)
def test_clipped_surrogate_has_a_gradient_only_where_it_pays(ratio, advantage, pays):
    gradient = jax.grad(policy_gradient.clipped_surrogate)(jnp.log(ratio), jnp.float32(advantage), 0.2)
    np.testing.assert_allclose(gradient, -ratio * advantage * pays, rtol=1e-5)


def test_clipped_value_loss_by_hand():
    # value moved from 1 to 2, allowed 0.5: kept 1.5; target 3: errors 1 and 1.5, the larger counts
    np.testing.assert_allclose(
        policy_gradient.clipped_value_loss(*map(jnp.float32, (2.0, 1.0, 3.0)), 0.5), 0.5 * 1.5**2
    )


def learn(name, config, iterations):
    """The value network (observation -> value) and the greedy policy (observation -> action) after training on a probe."""
    env = envs.make(name)
    agent = ppo.make(env.spec, config)
    learner = train.make(agent, ppo.source(env, config))
    state, _ = jax.jit(lambda key: learner.run(learner.init(key), iterations))(jax.random.key(0))
    network = ppo.ActorCritic(env.spec, config)

    def value(observation):
        return network.apply(state.agent.model.params, jnp.full((1, 1), observation), ())[1][1].item()

    def action(observation):
        return agent.act(state.agent, jnp.full((1, 1), observation), (), jax.random.key(1), False)[0].item()

    return value, action


both = pytest.mark.parametrize("continuous", ["false", "true"], ids=["discrete", "continuous"])


@both
def test_probe_constant_reward(continuous):
    value, _ = learn(f"rljax/Probe-ConstantReward?continuous={continuous}", PROBE, 30)
    np.testing.assert_allclose(value(0.0), 1.0, atol=0.05)


def test_probe_observation_reward():
    value, _ = learn("rljax/Probe-ObservationReward", PROBE, 60)
    np.testing.assert_allclose([value(-1.0), value(1.0)], [-1.0, 1.0], atol=0.1)


def test_probe_two_step_credit():
    value, _ = learn("rljax/Probe-TwoStepCredit", PROBE, 60)
    np.testing.assert_allclose([value(0.0), value(1.0)], [0.9, 1.0], atol=0.07)


@both
def test_probe_action_reward(continuous):
    _, action = learn(f"rljax/Probe-ActionReward?continuous={continuous}", PROBE, 100)
    np.testing.assert_allclose(action(0.0), 0.5 if continuous == "true" else 1, atol=0.15)


@both
def test_probe_observation_action_reward(continuous):
    _, action = learn(f"rljax/Probe-ObservationActionReward?continuous={continuous}", PROBE, 150)
    right = (-0.5, 0.5) if continuous == "true" else (0, 1)
    np.testing.assert_allclose([action(-1.0), action(1.0)], right, atol=0.2)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95])
def test_probe_time_limit(gae_lambda):
    config = PROBE.replace(gae_lambda=gae_lambda, learning_rate=1e-2, normalize_observations=False)
    value, _ = learn("rljax/Probe-TimeLimit", config, 150)
    # Taken for a termination, the limit would give at most the sum over ten steps, 6.5.
    np.testing.assert_allclose(value(0.0), 10.0, rtol=0.05)


def test_probe_memory_needs_a_memory():
    config = PROBE.replace(memory=16, rollout_length=32, entropy_coefficient=0.01)
    assert final_return("rljax/Probe-Memory", config) > 0.9
    assert final_return("rljax/Probe-Memory", config.replace(memory=0)) < 0.3


def final_return(name, config, iterations=150):
    env = envs.make(name)
    learner = train.make(ppo.make(env.spec, config), ppo.source(env, config))
    run = jax.jit(lambda key: learner.run(learner.run(learner.init(key), iterations)[0], 10)[1])
    return run(jax.random.key(0))["episode/return"]


@pytest.mark.parametrize("memory", [0, 8])
@pytest.mark.parametrize(
    "name", ["gymnax/CartPole-v1?max_steps_in_episode=7", "gymnax/Pendulum-v1?max_steps_in_episode=7"]
)
def test_the_first_ratio_is_one(name, memory):
    """What acting stored is what the update computes again, across episode ends and normalised observations."""
    config = ppo.Config(num_envs=4, rollout_length=16, hidden=(8,), memory=memory, num_epochs=1, num_minibatches=1)
    config = config.replace(normalize_observations=True)
    env = envs.make(name)
    agent, source = ppo.make(env.spec, config), ppo.source(env, config)
    collect = jax.jit(lambda source_state, state, key: source.next(source_state, agent, state, key))
    update = jax.jit(agent.update)
    state = jax.jit(agent.init)(jax.random.key(0))
    source_state = jax.jit(lambda key: source.init(agent, key))(jax.random.key(1))
    # The second time in the middle of episodes, with statistics of earlier data.
    for i in range(2):
        source_state, batch, _ = collect(source_state, state, jax.random.key(2 + i))
        state, metrics = update(state, batch, jax.random.key(4 + i))
        assert batch.steps.done.any()
        np.testing.assert_allclose(metrics["policy/kl"], 0.0, atol=1e-6)
        np.testing.assert_allclose(metrics["policy/clipped"], 0.0)
        assert abs(metrics["loss/policy"]) < 1e-5  # minus the mean of normalised advantages, each at ratio one


def test_normaliser_is_that_of_acting():
    """Statistics move after the update, never between acting and learning from what was done."""
    config = ppo.Config(num_envs=4, rollout_length=8, hidden=(8,), normalize_observations=True, num_minibatches=1)
    env = envs.make("gymnax/CartPole-v1")
    agent, source = ppo.make(env.spec, config), ppo.source(env, config)
    state = agent.init(jax.random.key(0))
    _, batch, _ = source.next(source.init(agent, jax.random.key(1)), agent, state, jax.random.key(2))
    after, _ = agent.update(state, batch, jax.random.key(3))
    seen = np.asarray(batch.steps.observation).reshape(-1, 4)
    assert state.statistics.count == 0
    np.testing.assert_allclose(after.statistics.mean, seen.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(after.statistics.variance, seen.var(0), rtol=1e-4, atol=1e-7)


def test_memory_starts_anew_with_each_episode():
    config = ppo.Config(num_envs=2, rollout_length=4, hidden=(8,), memory=4)
    env = envs.make("gymnax/CartPole-v1?max_steps_in_episode=4")  # every fourth step ends an episode
    agent = ppo.make(env.spec, config)
    state = agent.init(jax.random.key(0))
    actors = rollout.start(env, agent, 2, jax.random.key(1))
    act = lambda observation, memory, key: agent.act(state, observation, memory, key, True)
    actors, _, _ = rollout.unroll(env, act, initial_memory(agent, 2), actors, jax.random.key(2), 3)
    assert (actors.memory != 0).all()
    actors, _, _ = rollout.unroll(env, act, initial_memory(agent, 2), actors, jax.random.key(3), 1)
    assert (actors.memory == 0).all()


def test_learning_rate_falls_to_zero():
    config = ppo.Config(num_envs=4, rollout_length=8, hidden=(8,), anneal_learning_rate=True, total_steps=64.0)
    env = envs.make("gymnax/CartPole-v1")
    learner = train.make(ppo.make(env.spec, config), ppo.source(env, config))
    step = jax.jit(learner.step)
    states = [learner.init(jax.random.key(0))]
    for _ in range(4):  # 64 steps are two iterations
        states.append(step(states[-1])[0])
    params = [np.concatenate([x.ravel() for x in jax.tree.leaves(s.agent.model.params)]) for s in states]
    assert np.abs(params[2] - params[1]).max() > 0
    np.testing.assert_array_equal(params[3], params[2])


def test_minibatches_must_divide_a_rollout():
    config = ppo.Config(num_envs=3, rollout_length=5)
    env = envs.make("gymnax/CartPole-v1")
    learner = train.make(ppo.make(env.spec, config), ppo.source(env, config))
    with pytest.raises(ValueError, match="num_minibatches=4 must divide the 15 samples"):
        learner.step(learner.init(jax.random.key(0)))
