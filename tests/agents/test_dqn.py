"""DQN: its loss by hand, its schedules, and what it must learn on probes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import train
from rljax.agents.online import dqn
from rljax.envs import probes
from rljax.networks import heads
from rljax.networks.torsos import NoisyDense
from rljax.types import Continuous, Discrete, EnvSpec, Model, Sample, Transition

SPEC = EnvSpec((2,), Discrete(2))
LINEAR = dict(hidden=(), learning_rate=0.1)  # Q(s, a) = observation @ kernel + bias


def linear(kernel):
    """Parameters of a linear Q without bias."""
    return {"params": {"Streams_0": {"Dense_0": {"kernel": jnp.array(kernel, jnp.float32), "bias": jnp.zeros(2)}}}}


def batch():
    """Two steps: reward 1 and on, reward 2 and the end."""
    transition = Transition(
        observation=jnp.array([[1.0, 0.0], [0.0, 1.0]]),
        action=jnp.array([0, 1]),
        reward=jnp.array([1.0, 2.0]),
        terminated=jnp.array([False, True]),
        truncated=jnp.array([False, False]),
        next_observation=jnp.array([[0.0, 1.0], [1.0, 0.0]]),
    )
    return Sample(transition, jnp.array([0.5, 0.0]), jnp.array([1.0, 0.25]), jnp.array([0, 1]))


@pytest.mark.parametrize(
    "double, delta, errors, loss",
    [
        # Q(s) = [1, 0] and [3, 4]; of the actions taken 1 and 4. Target network at s' = [0, 1]: [6, 2].
        # DQN: targets 1 + .5 max(6, 2) = 4 and 2; errors 3 and -2; squares 4.5 and 2, weighted 1 and 1/4: (4.5 + .5) / 2
        (False, 1e6, [3.0, 2.0], 2.5),
        # Huber with delta 1: 2.5 and 1.5: (2.5 + .375) / 2
        (False, 1.0, [3.0, 2.0], 1.4375),
        # Double: the online network prefers action 1 at s': 1 + .5 2 = 2; errors 1 and -2; (.5 + .5) / 2
        (True, 1e6, [1.0, 2.0], 0.5),
    ],
)
def test_loss_by_hand(double, delta, errors, loss):
    agent = dqn.make(SPEC, dqn.Config(double=double, huber_delta=delta, prioritised=True, **LINEAR))
    state = agent.init(jax.random.key(0))
    q = Model(linear([[1.0, 0.0], [3.0, 4.0]]), state.q.opt_state)
    state = state._replace(q=q, target=linear([[0.0, 0.0], [6.0, 2.0]]))
    _, metrics = agent.update(state, batch(), jax.random.key(0))
    np.testing.assert_allclose(metrics["loss/q"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["priority"], errors, rtol=1e-6)
    np.testing.assert_allclose(metrics["q/mean"], 2.5)


def test_only_prioritised_replay_gets_priorities():
    agent = dqn.make(SPEC, dqn.Config(**LINEAR))
    _, metrics = agent.update(agent.init(jax.random.key(0)), batch(), jax.random.key(0))
    assert "priority" not in metrics and all(x.shape == () for x in metrics.values())


@pytest.mark.parametrize("rate, period", [(1.0, 3), (0.5, 1)])
def test_target_network(rate, period):
    agent = dqn.make(SPEC, dqn.Config(target_rate=rate, target_period=period, **LINEAR))
    update = jax.jit(agent.update)
    state = agent.init(jax.random.key(0))
    expected = state.target
    for i in range(1, 7):
        state, _ = update(state, batch(), jax.random.key(0))
        if i % period == 0:
            expected = jax.tree.map(lambda old, new: (1 - rate) * old + rate * new, expected, state.q.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.target, expected)


def test_exploration_falls_with_environment_steps():
    # 100 random steps, then 8 * 2 / 4 = 4 environment steps an update, over 1000: half way at update 100
    config = dqn.Config(
        warmup=100, num_envs=8, rollout_length=2, num_updates=4, exploration_steps=1000.0, epsilon_end=0.1, **LINEAR
    )
    agent = dqn.make(SPEC, config)
    state = agent.init(jax.random.key(0))._replace(q=Model(linear([[0.0, 0.0], [0.0, 1.0]]), ()))
    observation = jnp.tile(jnp.array([0.0, 1.0]), (20_000, 1))  # action 1 is the best
    for updates, epsilon in ((0, 0.91), (100, 0.55), (225, 0.1), (10_000, 0.1)):
        action, _, _ = agent.act(state._replace(updates=jnp.int32(updates)), observation, (), jax.random.key(1), True)
        np.testing.assert_allclose((action == 0).mean(), epsilon / 2, atol=0.012)  # half of all random actions
    greedy, _, _ = agent.act(state, observation, (), jax.random.key(1), False)
    assert (greedy == 1).all()


def test_munchausen_targets_by_hand():
    """Both policies are the softmax of the target network's Q over the temperature 2; target Q(s) = [0, 0] and [6, 2]."""
    config = dqn.Config(munchausen=True, munchausen_temperature=2.0, munchausen_low=-1.0, prioritised=True, **LINEAR)
    agent = dqn.make(SPEC, config)
    state = agent.init(jax.random.key(0))
    state = state._replace(
        q=Model(linear([[1.0, 0.0], [3.0, 4.0]]), state.q.opt_state), target=linear([[0.0, 0.0], [6.0, 2.0]])
    )
    _, metrics = agent.update(state, batch(), jax.random.key(0))
    soft_value = 2.0 * np.log(np.exp(3.0) + np.exp(1.0))  # sum of pi (Q - 2 log pi) at s' = [0, 1]
    first = 1.0 + 0.9 * max(2.0 * np.log(0.5), -1.0) + 0.5 * soft_value  # less the value 1 of the action taken
    second = 2.0 + 0.9 * max(2.0 * np.log(1 / (1 + np.exp(2.0))), -1.0)  # of the worse action; its value is 4
    np.testing.assert_allclose(metrics["priority"], [abs(first - 1.0), abs(second - 4.0)], rtol=1e-5)


def test_dqnreg_prices_q():
    losses = []
    for weight in (0.0, 0.05):
        agent = dqn.make(SPEC, dqn.Config(q_weight=weight, double=False, **LINEAR))
        state = agent.init(jax.random.key(0))
        state = state._replace(q=Model(linear([[1.0, 0.0], [3.0, 4.0]]), state.q.opt_state))
        losses.append(agent.update(state, batch(), jax.random.key(0))[1]["loss/q"])
    np.testing.assert_allclose(losses[1] - losses[0], 0.05 * 2.5, rtol=1e-5)  # the actions taken are worth 1 and 4


def test_noisy_networks_explore_by_themselves_and_act_by_their_means():
    config = dqn.Config(noisy=True, epsilon_start=0.0, epsilon_end=0.0, hidden=(16,))
    agent = dqn.make(SPEC, config)
    state = agent.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 200)
    actions = lambda explore: jax.vmap(lambda key: agent.act(state, jnp.ones((1, 2)), (), key, explore)[0])(keys)
    assert 0.02 < actions(True).mean() < 0.98 and len(set(np.asarray(actions(False)).ravel())) == 1
    with pytest.raises(ValueError, match="noisy"):
        agent.log_prob(state, jnp.ones((1, 2)), jnp.zeros(1, jnp.int32), True)


def test_noise_has_the_paper_s_spread():
    layer = NoisyDense(3, spread=0.5)
    x = jnp.array([[1.0, -2.0, 0.5, 1.0]])
    params = layer.init(jax.random.key(0), x)
    noisy = jax.vmap(lambda key: layer.apply(params, x, rngs={"noise": key})[0])(
        jax.random.split(jax.random.key(1), 20_000)
    )
    plain = layer.apply(params, x)[0]
    np.testing.assert_allclose(plain, x[0] @ params["params"]["kernel"] + params["params"]["bias"], rtol=1e-6)
    np.testing.assert_allclose(noisy.mean(0), plain, atol=0.03)
    mean_size = np.sqrt(2 / np.pi)  # E|z|, which is the variance of sign(z) sqrt|z|
    expected = 0.25 * np.sqrt(mean_size * (1.0 + mean_size * np.square(x).sum()))
    np.testing.assert_allclose(noisy.std(0), expected, rtol=0.03)


def test_continuous_actions_are_refused():
    with pytest.raises(ValueError, match="DQN is for discrete actions"):
        dqn.make(EnvSpec((3,), Continuous((2,))))


PLAIN = dict(double=False)
ALL = dict(double=True, dueling=True, prioritised=True, num_steps=3)


def learned(env, observations, num_iterations=400, gamma=0.9, **config):
    """Q [observations, actions] after training."""
    config = dqn.Config(
        learning_rate=1e-2,
        gamma=gamma,
        target_period=10,
        exploration_steps=1e9,
        importance_steps=1600.0,
        num_envs=4,
        batch_size=32,
        capacity=800,
        warmup=100,
        hidden=(32,),
        **config,
    )
    agent = dqn.make(env.spec, config)
    learner = train.make(agent, dqn.source(env, config))
    state, _ = jax.jit(lambda key: learner.run(learner.init(key), num_iterations))(jax.random.key(0))
    output = dqn.q_network(env.spec, config).apply(state.agent.q.params, jnp.array(observations)[:, None])
    q = heads.preferred(dqn.law(config, output))
    greedy, _, _ = agent.act(state.agent, jnp.array(observations)[:, None], (), jax.random.key(0), False)
    np.testing.assert_array_equal(greedy, q.argmax(-1))
    return np.asarray(q)


@pytest.mark.parametrize(
    "env, observations, expected, config",
    [
        (probes.ConstantReward(), [0.0], [[1.0]], PLAIN),
        (probes.ObservationReward(), [-1.0, 1.0], [[-1.0], [1.0]], PLAIN),
        (probes.TwoStepCredit(), [0.0, 1.0], [[0.9], [1.0]], PLAIN),
        (probes.TwoStepCredit(), [0.0, 1.0], [[0.9], [1.0]], ALL),
        (probes.ActionReward(), [0.0], [[-1.0, 1.0]], PLAIN),
        (probes.ObservationActionReward(), [-1.0, 1.0], [[1.0, -1.0], [-1.0, 1.0]], ALL),
    ],
    ids=lambda x: type(x).__name__,
)
def test_probe_values(env, observations, expected, config):
    np.testing.assert_allclose(learned(env, observations, **config), expected, atol=0.05)


@pytest.mark.parametrize("config", [PLAIN, ALL], ids=["plain", "all"])
def test_a_time_limit_is_no_termination(config):
    q = learned(probes.TimeLimit(), [0.0], num_iterations=2000, gamma=0.7, **config)
    np.testing.assert_allclose(q, [[1 / 0.3]], atol=0.1)  # taken for a termination: 1 / (1 - 0.63) = 2.7
