"""SAC-N and EDAC: the critics' losses against numpy, probes with known values, and what many critics are for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.offline import sac_n
from rljax.agents.online import sac
from rljax.envs import probes
from rljax.errors import UserError
from rljax.types import Continuous, Discrete, EnvSpec, Sample, Transition

SMALL = sac_n.Config(
    policy_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    temperature_learning_rate=3e-3,
    gamma=0.9,
    target_rate=0.05,
    num_critics=4,
    hidden=(32,),
    batch_size=64,
    num_updates=4,
)
SPEC = EnvSpec((3,), Continuous((2,)))


def sample(size=16):
    """Random transitions; every second one terminated; weights that differ."""
    keys = jax.random.split(jax.random.key(0), 4)
    terminated = jnp.arange(size) % 2 == 0
    steps = Transition(
        observation=jax.random.normal(keys[1], (size, 3)),
        action=jax.random.uniform(keys[0], (size, 2), minval=-1.0),
        reward=jax.random.normal(keys[2], (size,)),
        terminated=terminated,
        truncated=jnp.zeros(size, bool),
        next_observation=jax.random.normal(keys[3], (size, 3)),
    )
    return Sample(steps, 0.9 * (1.0 - terminated), jnp.linspace(0.5, 1.5, size), jnp.arange(size))


@functools.partial(jax.jit, static_argnums=1)
def one_update(config, module=sac_n):
    """The states before and after an update, and its metrics. One program for all float hyperparameters."""
    agent = module.make(SPEC, config)
    before = agent.init(jax.random.key(0))
    return before, *agent.update(before, sample(), jax.random.key(1))


def moved(a, b):
    return any(bool((x != y).any()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


EDAC = SMALL.replace(diversify=True)


def test_diversity_loss_from_the_networks_weights():
    """Slopes in the data's actions through one hidden layer of ReLUs, cosines and weights in numpy."""
    before, _, metrics = one_update(EDAC.replace(diversity=3.0))
    batch, params = sample(), jax.tree.map(np.float64, before.critic.params["params"])
    hidden, last = params["Torso_1"]["Dense_0"], params["Dense_0"]
    inputs = np.concatenate([batch.transition.observation, batch.transition.action], -1)
    slopes = []  # [E, B, A]
    for kernel, bias, out in zip(hidden["kernel"], hidden["bias"], last["kernel"]):
        on = inputs @ kernel + bias > 0.0
        slopes.append((on * out[:, 0]) @ kernel[3:].T)
    unit = slopes / np.linalg.norm(slopes, axis=-1, keepdims=True)
    cosines = np.einsum("iba,jba->bij", unit, unit)
    similarity = (cosines.sum((1, 2)) - np.trace(cosines, axis1=1, axis2=2)) / 3.0
    np.testing.assert_allclose(metrics["critic/similarity"], similarity.mean(), rtol=1e-4)
    # halved, since SAC's squared errors are and the paper's are not
    np.testing.assert_allclose(metrics["loss/diversity"], 0.5 * 3.0 * (batch.weight * similarity).mean(), rtol=1e-4)


def test_the_target_is_the_lowest_of_all_critics():
    """One target critic of four lowered by 50 lowers every target that goes on; three of them raised raise none."""
    agent, batch = sac_n.make(SPEC, SMALL), sample()
    batch = batch.replace(transition=batch.transition.replace(reward=jnp.full(16, 100.0)))  # errors are all positive
    state = agent.init(jax.random.key(0))

    @jax.jit
    def errors(shift):
        """|target - Q| where the target critics are moved by `shift` [E]."""
        target = jax.tree_util.tree_map_with_path(
            lambda path, x: x + shift[:, None] if jax.tree_util.keystr(path) == "['params']['Dense_0']['bias']" else x,
            state.target_critic,
        )
        return agent.update(state._replace(target_critic=target), batch, jax.random.key(1))[1]["priority"]

    level = errors(jnp.zeros(4))
    fell = np.where(batch.discount > 0.0, 0.9 * 50.0, 0.0)
    np.testing.assert_allclose(
        level - errors(jnp.array([0.0, 0.0, 0.0, -50.0])), fell, atol=2.0
    )  # they disagreed before
    np.testing.assert_allclose(errors(jnp.array([0.0, 50.0, 50.0, 50.0])), level, atol=2.0)


def test_without_diversity_it_is_sac():
    """One update of SAC-N, of EDAC with weight 0 and of SAC with as many critics: the same numbers."""
    online = sac.Config(
        policy_learning_rate=3e-3,
        critic_learning_rate=3e-3,
        temperature_learning_rate=3e-3,
        target_rate=0.05,
        num_critics=4,
        hidden=(32,),
    )
    _, expected, _ = one_update(online, sac)
    for config in (SMALL, EDAC.replace(diversity=0.0)):
        _, state, _ = one_update(config)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), state, expected)
    _, other, _ = one_update(EDAC.replace(diversity=10.0))
    assert moved(other.critic.params, expected.critic.params)


def test_each_loss_moves_its_own_network_alone():
    before, after, _ = one_update(EDAC.replace(policy_learning_rate=0.0, target_rate=0.0))
    assert not moved(before.policy.params, after.policy.params)
    assert not moved(before.target_critic, after.target_critic)
    assert moved(before.critic.params, after.critic.params)
    before, after, _ = one_update(EDAC.replace(critic_learning_rate=0.0))
    assert not moved(before.critic.params, after.critic.params)
    assert moved(before.policy.params, after.policy.params)
    _, heavy, _ = one_update(EDAC.replace(critic_learning_rate=0.0, diversity=100.0))
    assert not moved(after.policy, heavy.policy)


@functools.partial(jax.jit, static_argnums=1)
def learn_batch(config, iterations):
    """Updates on one batch of terminations, over and over: the state, and the metrics of each."""
    agent, batch = sac_n.make(SPEC, config), sample()
    batch = batch.replace(discount=jnp.zeros(16))
    keys = jax.random.split(jax.random.key(1), iterations)
    return jax.lax.scan(lambda state, key: agent.update(state, batch, key), agent.init(jax.random.key(0)), keys)


def test_diversity_keeps_the_critics_apart_off_the_data():
    """Rewards fitted alike, critics' slopes turn apart, and with them their values of other actions."""
    _, critic = sac.networks(SPEC, EDAC)
    batch = sample()

    def learnt(diversity):
        state, metrics = learn_batch(EDAC.replace(diversity=diversity), 1000)
        q = critic.apply(state.critic.params, batch.transition.observation, -batch.transition.action)[..., 0]
        return metrics["loss/critic"][-1], metrics["critic/similarity"][-1], q.std(0).mean()

    plain_loss, plain, plain_spread = learnt(0.0)
    loss, diverse, spread = learnt(1.0)
    assert loss < 0.5 and plain_loss < 0.5
    assert diverse < 0.0 < plain
    assert spread > 1.5 * plain_spread


def q_values(env, config, state, observation, action):
    """The lowest of the critics."""
    _, critic = sac.networks(env.spec, config)
    return critic.apply(state.critic.params, observation, action).min(0)[:, 0]


@pytest.mark.parametrize(
    "probe, observation, value",
    [
        (probes.ObservationReward, [-1.0, 1.0], [-1.0, 1.0]),
        (probes.TwoStepCredit, [0.0, 1.0], [0.9, 1.0]),
        (probes.TimeLimit, [0.0], [10.0]),
    ],
)
def test_values_where_all_actions_are_worth_the_same(probe, observation, value, random_data, learn_offline):
    """At temperature 0, since entropy counts as reward in them. All actions are in the data, so critics come to agree."""
    env, config = probe(continuous=True), SMALL.replace(initial_temperature=0.0, learn_temperature=False)
    _, state = learn_offline(sac_n, config, env, random_data(env), 500)
    for action in (-0.7, 0.0, 0.7):
        observations = jnp.array(observation)[:, None]
        q = q_values(env, config, state, observations, jnp.full_like(observations, action))
        np.testing.assert_allclose(q, value, atol=0.05 * max(np.abs(value)))


@pytest.mark.parametrize("diversify", [False, True])
def test_policy_follows_the_observation(diversify, random_data, learn_offline):
    """With EDAC at a weight under which critics still fit the rewards."""
    env, config = probes.ObservationActionReward(continuous=True), SMALL.replace(diversify=diversify, diversity=0.1)
    agent, state = learn_offline(sac_n, config, env, random_data(env), 500)
    action, _, _ = agent.act(state, jnp.array([[-1.0], [1.0]]), (), jax.random.key(0), False)
    np.testing.assert_allclose(action[:, 0], [-0.5, 0.5], atol=0.1)


def test_discrete_actions_and_a_single_critic_are_one_sentence():
    with pytest.raises(UserError, match="SAC-N and EDAC need continuous actions; here are 3 discrete ones."):
        sac_n.make(EnvSpec((2,), Discrete(3)), SMALL)
    with pytest.raises(UserError, match="num_critics=1 must be at least 2."):
        sac_n.make(SPEC, EDAC.replace(num_critics=1))
