"""TD3+BC and ReBRAC: their losses in numpy, what they share with TD3 and BC, and probes with exact answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.offline import bc, td3_bc
from rljax.agents.online import td3
from rljax.data import dataset as dataset_lib
from rljax.envs import probes
from rljax.losses.behaviour import squared_distance
from rljax.types import Continuous, Discrete, EnvSpec, Sample, Transition

SMALL = td3_bc.Config(
    policy_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    gamma=0.9,
    target_rate=0.05,
    normalize_observations=False,
    policy_delay=1,
    hidden=(32,),
    batch_size=64,
    num_updates=4,
)
REBRAC = SMALL.replace(alpha=1.0, policy_penalty=0.05, target_penalty=0.02, average_dimensions=False, layer_norm=True)
SPEC = EnvSpec((3,), Continuous((2,)))


def transitions(size=16):
    """Random steps of episodes that end with rows 3 (terminated), 7, 11 and 15 (truncated)."""
    keys = jax.random.split(jax.random.key(0), 4)
    row = jnp.arange(size)
    return Transition(
        observation=jax.random.normal(keys[0], (size, 3)),
        action=jax.random.uniform(keys[1], (size, 2), minval=-1.0),
        reward=jax.random.normal(keys[2], (size,)),
        terminated=row == 3,
        truncated=(row % 4 == 3) & (row != 3),
        next_observation=jax.random.normal(keys[3], (size, 3)),
    )


def sample(steps=None):
    """The first three episodes, with weights that differ."""
    dataset = dataset_lib.from_transitions(transitions() if steps is None else steps)
    return dataset_lib.read(dataset, jnp.arange(12), 0.9).replace(weight=jnp.linspace(0.5, 1.5, 12))


def with_extras(batch: Sample, **extras):
    return batch.replace(transition=batch.transition.replace(extras=batch.transition.extras | extras))


@jax.jit
def one_update(config, batch):
    """The states before and after an update, and its metrics. One program for all float hyperparameters."""
    agent = td3_bc.make(SPEC, config)
    before = agent.init(jax.random.key(0))
    return before, *agent.update(before, batch, jax.random.key(1))


def moved(a, b):
    return any(bool((x != y).any()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def assert_close(a, b, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def best_actions(agent, state, observation):
    return agent.act(state, jnp.array(observation)[:, None], (), jax.random.key(0), False)[0][:, 0]


def test_squared_distance_by_hand():
    # differences 1, -2, 2: squares 1 + 4 + 4
    action, data_action = jnp.array([1.0, 0.0, 0.5]), jnp.array([0.0, 2.0, -1.5])
    assert squared_distance(action, data_action, False) == 9.0
    assert squared_distance(action, data_action, True) == 3.0


def test_discrete_actions_are_refused():
    with pytest.raises(ValueError, match="needs continuous actions; here are 4 discrete ones."):
        td3_bc.make(EnvSpec((3,), Discrete(4)))


@pytest.mark.parametrize("config", [SMALL, REBRAC], ids=["td3_bc", "rebrac"])
def test_losses_from_the_networks_outputs(config):
    """No noise, no steps taken. The target's penalty is nothing where the data have no next action: rows 3, 7 and 11."""
    config = config.replace(target_noise=0.0, reward_scale=2.0, critic_learning_rate=0.0, policy_learning_rate=0.0)
    batch, (policy, critic) = sample(), td3.networks(SPEC, config)
    before, _, metrics = one_update(config, batch)
    steps = batch.transition
    actions = lambda observation: np.float64(jnp.tanh(policy.apply(before.policy.params, observation)))
    q_values = lambda *inputs: np.float64(critic.apply(before.critic.params, *map(jnp.float32, inputs)))[..., 0]
    distance = lambda a, b: ((a - np.float64(b)) ** 2).sum(1) / (2.0 if config.average_dimensions else 1.0)

    next_action = actions(steps.next_observation)
    penalty = config.target_penalty * distance(next_action, steps.extras["next_action"])
    penalty[[3, 7, 11]] = 0.0
    next_value = q_values(steps.next_observation, next_action).min(axis=0) - penalty
    target = 2.0 * np.float64(steps.reward) + np.float64(batch.discount) * next_value
    errors = target - q_values(steps.observation, steps.action)
    expected = 0.5 * (np.float64(batch.weight) * (errors**2).sum(axis=0)).mean()
    np.testing.assert_allclose(metrics["loss/critic"], expected, rtol=1e-5)

    first = q_values(steps.observation, actions(steps.observation))[0]
    far = distance(actions(steps.observation), steps.action).mean()
    expected = config.policy_penalty * far - config.alpha * first.mean() / np.abs(first).mean()
    np.testing.assert_allclose(metrics["policy/distance"], far, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/policy"], expected, rtol=1e-5)


def test_each_loss_moves_its_own_network_alone():
    before, after, _ = one_update(REBRAC.replace(policy_learning_rate=0.0, target_rate=0.0), sample())
    assert not moved(before.policy.params, after.policy.params)
    assert not moved((before.target_policy, before.target_critic), (after.target_policy, after.target_critic))
    assert moved(before.critic.params, after.critic.params)
    before, after, _ = one_update(REBRAC.replace(critic_learning_rate=0.0), sample())
    assert not moved(before.critic.params, after.critic.params)
    assert moved(before.policy.params, after.policy.params)


def test_a_skipped_policy_does_not_move_by_momentum():
    """Two critic steps and one policy step: as if the policy had seen the second half of the batch alone."""
    config, batch = REBRAC.replace(critic_learning_rate=0.0), sample()
    first_half = batch.replace(transition=batch.transition.replace(observation=1.0 - batch.transition.observation))
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), first_half, batch)
    before, after, _ = one_update(config.replace(policy_delay=2), both)
    _, alone, _ = one_update(config, batch)
    assert int(after.critic.opt_state[0].count) == 2 and int(after.policy.opt_state[0].count) == 1
    assert_close(after.policy, alone.policy)
    assert moved(before.policy.params, alone.policy.params)


def test_without_penalties_it_is_td3():
    """The critics learn the same, and the policy's gradient (Adam's first moment) is lambda times that of TD3.

    Q is above 0 everywhere here: were lambda no constant, -lambda Q would be one, and there would be no gradient.
    """
    config = SMALL.replace(policy_penalty=0.0, target_penalty=0.0)
    ours = td3_bc.make(SPEC, config)
    rates = dict(policy_learning_rate=3e-3, critic_learning_rate=3e-3)
    theirs = td3.make(SPEC, td3.Config(**rates, target_rate=0.05, hidden=(32,), policy_delay=1))
    start = theirs.init(jax.random.key(0))
    up = jax.tree.map(lambda x: x + 5.0 if x.shape == (2, 1) else x, start.critic.params)  # the last layer's bias
    start = start._replace(critic=start.critic._replace(params=up), target_critic=up)
    (a, _), (b, metrics) = (jax.jit(agent.update)(start, sample(), jax.random.key(1)) for agent in (ours, theirs))
    assert moved(start.critic.params, b.critic.params)
    assert_close(a.critic, b.critic)
    scale = config.alpha / -metrics["loss/policy"]
    assert 0.1 < scale < 0.9  # Q is about 5, and not 2.5 by chance
    ours, theirs = a.policy.opt_state[0].mu, b.policy.opt_state[0].mu
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(theirs)) > 1e-3
    assert_close(ours, jax.tree.map(lambda x: scale * x, theirs), atol=1e-7)


def test_next_actions_do_not_cross_the_end_of_an_episode():
    """Actions of the fourth episode change nothing for the first three; the next action within an episode does."""
    steps, config = transitions(), REBRAC.replace(target_penalty=1.0)
    beyond = steps.replace(action=steps.action.at[12].multiply(-0.5))
    _, after, _ = one_update(config, sample(steps))
    assert not moved(after, one_update(config, sample(beyond))[1])
    within = sample(steps.replace(action=steps.action.at[6].multiply(-0.5)))  # it follows the one of row 5
    batch = with_extras(sample(steps), next_action=within.transition.extras["next_action"])
    assert moved(after.critic.params, one_update(config, batch)[1].critic.params)


def test_there_is_no_penalty_where_an_episode_ended():
    config = REBRAC.replace(target_penalty=1.0)
    batch = sample()
    next_action, has_next = batch.transition.extras["next_action"], batch.transition.extras["has_next"]
    np.testing.assert_array_equal(np.flatnonzero(~np.asarray(has_next)), [3, 7, 11])
    elsewhere = jnp.where(has_next[:, None], next_action, 7.0)
    _, after, _ = one_update(config, batch)
    assert not moved(after, one_update(config, with_extras(batch, next_action=elsewhere))[1])
    everywhere = with_extras(batch, next_action=elsewhere, has_next=jnp.ones_like(has_next))
    assert moved(after.critic.params, one_update(config, everywhere)[1].critic.params)


def test_normalisation_undoes_any_scale_and_shift_of_observations():
    config, batch = SMALL.replace(normalize_observations=True), sample()
    scale, shift = jnp.array([10.0, 0.1, 1.0]), jnp.array([3.0, 0.0, -1.0])
    steps = batch.transition
    other = steps.replace(
        observation=scale * steps.observation + shift, next_observation=scale * steps.next_observation + shift
    )
    _, state, _ = one_update(config, batch)
    _, moved_state, _ = one_update(config, batch.replace(transition=other))
    assert_close(state.learner, moved_state.learner, atol=1e-4)
    agent, observation = td3_bc.make(SPEC, config), jax.random.normal(jax.random.key(5), (4, 3))
    act = lambda state, observation: agent.act(state, observation, (), jax.random.key(0), False)[0]
    np.testing.assert_allclose(act(state, observation), act(moved_state, scale * observation + shift), atol=1e-4)
    np.testing.assert_allclose(state.statistics.mean, np.asarray(steps.observation).mean(0), atol=1e-6)
    np.testing.assert_allclose(state.statistics.variance, np.asarray(steps.observation).var(0), rtol=1e-5)


DELAYED = SMALL.replace(policy_learning_rate=1e-3, policy_delay=2, target_rate=0.1)
VALUES = [
    (probes.ObservationReward(continuous=True), 3e-3, [-1.0, 1.0], [-1.0, 1.0]),
    (probes.TwoStepCredit(continuous=True), 3e-3, [0.0, 1.0], [0.9, 1.0]),
    (probes.TimeLimit(continuous=True), 1e-2, [0.0], [10.0]),
]


def q_values(env, config, agent, state, observation):
    """What the lower critic thinks of the policy's actions at observations [B]."""
    _, critic = td3.networks(env.spec, config)
    action = best_actions(agent, state, observation)
    return critic.apply(state.critic.params, jnp.array(observation)[:, None], action[:, None]).min(axis=0)[:, 0]


@pytest.mark.parametrize("env, rate, observation, value", VALUES, ids=lambda x: type(x).__name__)
def test_values_where_actions_do_not_matter(env, rate, observation, value, random_data, learn_offline):
    config = DELAYED.replace(critic_learning_rate=rate)
    agent, state = learn_offline(td3_bc, config, env, random_data(env), 300)
    q = q_values(env, config, agent, state, observation)
    np.testing.assert_allclose(q, value, atol=0.05 * max(np.abs(value)))


def test_the_penalty_lowers_the_value_before_a_step_and_not_the_last(random_data, learn_offline):
    """The policy clones uniform actions: it takes 0, at a mean squared distance of 1/3 from the next action in the data."""
    env = probes.TwoStepCredit(continuous=True)
    config = REBRAC.replace(policy_penalty=1e6, target_penalty=1.0, target_noise=0.0, target_rate=0.1)
    config = config.replace(policy_learning_rate=1e-3, critic_learning_rate=1e-3)
    _, state = learn_offline(td3_bc, config, env, random_data(env), 300)
    np.testing.assert_allclose(mean_q(env, config, state, [0.0, 1.0]), [0.9 * (1.0 - 1.0 / 3.0), 1.0], atol=0.05)


def mean_q(env, config, state, observation):
    """Over all actions, the present one says nothing of the next: what a critic reads into it is left out."""
    _, critic = td3.networks(env.spec, config)
    action = jnp.linspace(-1.0, 1.0, 101)[:, None]
    q_of = lambda x: critic.apply(state.critic.params, jnp.full_like(action, x), action).mean()
    return [q_of(x) for x in observation]


@pytest.mark.parametrize("config", [SMALL, REBRAC], ids=["td3_bc", "rebrac"])
def test_policy_follows_the_observation(config, random_data, learn_offline):
    env = probes.ObservationActionReward(continuous=True)
    config = config.replace(normalize_observations=True, policy_learning_rate=1e-3, policy_delay=2)
    agent, state = learn_offline(td3_bc, config, env, random_data(env), 300)
    np.testing.assert_allclose(
        best_actions(agent, state, [-1.0, 1.0]), [-0.5, 0.5], atol=0.15
    )  # over seeds it stays within 0.14


def test_with_a_huge_penalty_the_policy_is_that_of_cloning(random_data, learn_offline):
    """The data's actions are about 0.7 at [-1] and -0.1 at [1], neither the best ones nor 0."""
    env = probes.ObservationActionReward(continuous=True)
    data = random_data(env)
    steps = data.transition
    action = 0.3 - 0.4 * steps.observation + 0.3 * steps.action
    reward = -jnp.square(action - 0.5 * steps.observation)[:, 0]
    data = dataset_lib.from_transitions(steps.replace(action=action, reward=reward))
    cloned = best_actions(*learn_offline(bc, bc.Config(1e-3, (32,), batch_size=64), env, data, 200), [-1.0, 1.0])
    agent, state = learn_offline(td3_bc, DELAYED.replace(policy_penalty=1e6), env, data, 300)
    np.testing.assert_allclose(cloned, [0.7, -0.1], atol=0.05)
    np.testing.assert_allclose(best_actions(agent, state, [-1.0, 1.0]), cloned, atol=0.05)
