"""IQL, XQL and f-DVL against exact answers: probes with known values, and an MDP whose optimum is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.offline import iql
from rljax.envs import probes, tabular
from rljax.types import Continuous, Discrete, EnvSpec

SMALL = iql.Config(
    learning_rate=3e-3, gamma=0.9, target_rate=0.05, hidden=(32,), batch_size=64, num_updates=4, inverse_temperature=3.0
)
LEANS = {"expectile": 0.9, "gumbel": 0.5, "chi_square": 0.5, "total_variation": 0.9}


def values(env, config, state, observation):
    _, value, _ = iql.networks(env.spec, config)
    return value.apply(state.value.params, jnp.array(observation)[:, None])[:, 0]


@pytest.mark.parametrize("value_loss", LEANS)
@pytest.mark.parametrize(
    "env, observation, value",
    [
        (probes.ObservationReward(), [-1.0, 1.0], [-1.0, 1.0]),
        (probes.TwoStepCredit(), [0.0, 1.0], [0.9, 1.0]),
        (probes.TimeLimit(), [0.0], [10.0]),
    ],
    ids=lambda x: type(x).__name__,
)
def test_values_where_there_is_one_action(value_loss, env, observation, value, random_data, learn_offline):
    """All actions of the data are worth the same, so there is nothing to lean to. (Chi-square leans by a constant too.)"""
    config = SMALL.replace(value_loss=value_loss, lean=LEANS[value_loss])
    _, state = learn_offline(iql, config, env, random_data(env), 1500)
    np.testing.assert_allclose(values(env, config, state, observation), value, atol=0.05 * max(np.abs(value)))


@pytest.mark.parametrize("value_loss", LEANS)
@pytest.mark.parametrize("continuous", [False, True])
def test_policy_follows_the_observation(value_loss, continuous, random_data, learn_offline):
    env = probes.ObservationActionReward(continuous=continuous)
    config = SMALL.replace(value_loss=value_loss, lean=LEANS[value_loss], inverse_temperature=20.0)
    agent, state = learn_offline(iql, config, env, random_data(env))
    action, _, _ = agent.act(state, jnp.array([[-1.0], [1.0]]), (), jax.random.key(0), False)
    if continuous:
        np.testing.assert_allclose(action[:, 0], [-0.5, 0.5], atol=0.1)
    else:
        np.testing.assert_array_equal(action, [0, 1])


@pytest.mark.parametrize(
    "value_loss, lean, scale",
    [("expectile", 0.98, 1.0), ("gumbel", 0.03, 1.0), ("chi_square", 0.8, 100.0), ("total_variation", 0.95, 1.0)],
)
def test_reaches_the_optimum_of_a_finite_mdp(value_loss, lean, scale, random_data, learn_offline, optimal_q):
    """Full coverage and values near the best action's: the greedy policy is the exact optimum's where actions differ in value.

    The chi square sees differences of 2 and more, hence the scale; of four actions drawn alike, 0.8 then gives the best one's.
    """
    env = tabular.gridworld(3, 3, discount=0.9)
    config = SMALL.replace(
        value_loss=value_loss, lean=lean, reward_scale=scale, inverse_temperature=20.0 / scale, hidden=(64,)
    )
    agent, state = learn_offline(iql, config, env, random_data(env, 32, 128), 2000)
    num_states = env.spec.observation_shape[0]
    action, _, _ = agent.act(state, jnp.eye(num_states), (), jax.random.key(0), False)
    best = optimal_q(env)
    chosen = best[np.arange(num_states), np.asarray(action)]
    np.testing.assert_allclose(chosen, best.max(1), atol=1e-4)


def test_an_unknown_value_loss_is_one_sentence():
    with pytest.raises(ValueError, match="Unknown value loss 'expectil'; .*expectile"):
        iql.make(EnvSpec((3,), Discrete(2)), SMALL.replace(value_loss="expectil"))


def test_likelihood_of_any_action_is_finite():
    """The mean is a tanh and nothing is squashed after it, so actions at the border are learnt like others."""
    spec = EnvSpec((3,), Continuous((2,)))
    policy, _, _ = iql.networks(spec, SMALL)
    params = policy.init(jax.random.key(0), jnp.zeros((1, 3)))
    distribution = policy.apply(params, 100.0 * jnp.ones((1, 3)))
    assert np.isfinite(distribution.log_prob(jnp.array([[1.0, -1.0]]))).all()
    assert (np.abs(distribution.mode()) <= 1.0).all()
