"""AWAC, CRR and one-step RL: losses in numpy, probes with known answers, MDPs that are solved exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.offline import awac
from rljax.data import dataset as dataset_lib
from rljax.envs import probes, tabular
from rljax.losses import implicit
from rljax.types import Continuous, Discrete, EnvSpec, Transition

SMALL = awac.Config(
    policy_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    gamma=0.9,
    target_rate=0.1,
    hidden=(32,),
    batch_size=64,
    num_updates=4,
)
ONE_STEP = SMALL.replace(one_step=True)
CRR = SMALL.replace(weighting="indicator", num_samples=4)
SPECS = {"discrete": EnvSpec((3,), Discrete(4)), "continuous": EnvSpec((3,), Continuous((2,)))}


def transitions(spec, size=16):
    """Random steps of episodes that end with rows 3 (terminated), 7, 11 and 15 (truncated)."""
    keys = jax.random.split(jax.random.key(0), 4)
    row = jnp.arange(size)
    if isinstance(spec.action, Discrete):
        action = jax.random.randint(keys[1], (size,), 0, 4)
    else:
        action = jax.random.uniform(keys[1], (size, 2), minval=-1.0)
    return Transition(
        observation=jax.random.normal(keys[0], (size, 3)),
        action=action,
        reward=jax.random.normal(keys[2], (size,)),
        terminated=row == 3,
        truncated=(row % 4 == 3) & (row != 3),
        next_observation=jax.random.normal(keys[3], (size, 3)),
    )


def sample(spec, steps=None):
    """The first three episodes, with weights that differ."""
    dataset = dataset_lib.from_transitions(transitions(spec) if steps is None else steps)
    return dataset_lib.read(dataset, jnp.arange(12), 0.9).replace(weight=jnp.linspace(0.5, 1.5, 12))


def with_next_action(batch, next_action):
    extras = batch.transition.extras | {"next_action": next_action}
    return batch.replace(transition=batch.transition.replace(extras=extras))


def other_actions(action, rows):
    """`action` with something else in `rows`."""
    return action.at[rows].set((action[rows] + 1) % 4 if action.ndim == 1 else -0.5 * action[rows])


def one_update(spec, config, batch, policy_seed=0):
    """The states before and after an update, and its metrics. One program for all float hyperparameters."""
    return _one_update(spec, config, batch, policy_seed)


@functools.partial(jax.jit, static_argnums=0)
def _one_update(spec, config, batch, policy_seed):
    agent = awac.make(spec, config)
    before = agent.init(jax.random.key(0))._replace(policy=agent.init(jax.random.key(policy_seed)).policy)
    return before, *agent.update(before, batch, jax.random.key(1))


def moved(a, b):
    return any(bool((x != y).any()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_indicator_weight():
    weight = [implicit.indicator_weight(jnp.float32(x)) for x in (-1.0, 0.0, 1e-6, 3.0)]
    np.testing.assert_array_equal(weight, [0.0, 0.0, 1.0, 1.0])


def test_unknown_names_are_one_sentence():
    with pytest.raises(ValueError, match="Unknown weighting 'binary'; .*indicator"):
        awac.make(SPECS["discrete"], SMALL.replace(weighting="binary"))
    with pytest.raises(ValueError, match="Unknown baseline 'maximum'; .*max"):
        awac.make(SPECS["discrete"], SMALL.replace(baseline="maximum"))


@pytest.mark.parametrize("config", [SMALL, CRR, ONE_STEP], ids=["awac", "crr", "one_step"])
def test_losses_of_discrete_actions_from_the_networks_outputs(config):
    """No steps taken: expectations over actions in numpy, weights capped, and which rows have a target."""
    config = config.replace(
        reward_scale=2.0, max_weight=1.1, critic_learning_rate=0.0, policy_learning_rate=0.0, target_rate=0.0
    )
    spec, batch = SPECS["discrete"], sample(SPECS["discrete"])
    before, _, metrics = one_update(spec, config, batch)
    policy, critic = awac.networks(spec, config)
    steps, row = batch.transition, np.arange(12)
    q_of = lambda observation: np.float64(critic.apply(before.critic.params, observation))
    log_pi_of = lambda observation: np.float64(
        jax.nn.log_softmax(policy.apply(before.policy.params, observation).logits)
    )
    value_of = lambda observation: (np.exp(log_pi_of(observation)) * q_of(observation).min(0)).sum(1)

    q, weight, known = q_of(steps.observation)[:, row, steps.action], np.float64(batch.weight), np.ones(12)
    next_value = value_of(steps.next_observation)
    if config.one_step:
        next_value = q_of(steps.next_observation).min(0)[row, steps.extras["next_action"]]
        known[[7, 11]] = 0.0  # truncated: what came next is not known. Row 3 terminated: nothing did
    target = 2.0 * np.float64(steps.reward) + np.float64(batch.discount) * next_value
    expected = (weight * known * ((target - q) ** 2).sum(0)).mean()
    np.testing.assert_allclose(metrics["loss/critic"], expected, rtol=1e-5)

    advantage = q.min(0) - value_of(steps.observation)
    copies = np.minimum(np.exp(3.0 * advantage), 1.1) if config.weighting == "exponential" else advantage > 0.0
    assert len(np.unique(copies)) > 1 and (copies == copies.max()).sum() > 1  # some at the cap, some below
    log_prob = log_pi_of(steps.observation)[row, steps.action]
    np.testing.assert_allclose(metrics["critic/advantage"], advantage.mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["policy/weight"], copies.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/policy"], -(weight * copies * log_prob).mean(), rtol=1e-5)


@pytest.mark.parametrize("baseline", ["mean", "max"])
def test_advantages_of_continuous_actions(baseline):
    """Over many actions of the policy, clipped to the box: their mean, and with the maximum about the best of a grid."""
    spec, batch = SPECS["continuous"], sample(SPECS["continuous"])
    config = SMALL.replace(baseline=baseline, num_samples=2000, critic_learning_rate=0.0)
    before, _, metrics = one_update(spec, config, batch)
    policy, critic = awac.networks(spec, config)
    observation = batch.transition.observation
    rng = np.random.default_rng(0)
    mean = np.asarray(policy.apply(before.policy.params, observation).mode())
    if baseline == "mean":
        actions = np.clip(mean + rng.normal(size=(2000, 12, 2)), -1.0, 1.0)  # the standard deviation starts at 1
    else:
        grid = np.stack(np.meshgrid(*[np.linspace(-1.0, 1.0, 21)] * 2), -1).reshape(-1, 1, 2)
        actions = np.broadcast_to(grid, (441, 12, 2))

    def q_of(actions):
        everywhere = jnp.broadcast_to(observation, (len(actions), 12, 3))
        return np.asarray(critic.apply(before.critic.params, everywhere, jnp.float32(actions)))[..., 0].min(0)

    value = q_of(actions).mean(0) if baseline == "mean" else q_of(actions).max(0)
    advantage = q_of(batch.transition.action[None])[0] - value
    np.testing.assert_allclose(metrics["critic/advantage"], advantage.mean(), atol=0.02)


@pytest.mark.parametrize("kind", SPECS)
def test_each_loss_moves_its_own_network_alone(kind):
    spec, batch = SPECS[kind], sample(SPECS[kind])
    before, after, _ = one_update(spec, SMALL.replace(policy_learning_rate=0.0, target_rate=0.0), batch)
    assert not moved((before.policy.params, before.target_critic), (after.policy.params, after.target_critic))
    assert moved(before.critic.params, after.critic.params)
    before, after, _ = one_update(spec, SMALL.replace(critic_learning_rate=0.0), batch)
    assert not moved(before.critic.params, after.critic.params)
    assert moved(before.policy.params, after.policy.params)


def test_whose_next_action_the_target_takes():
    """One-step critics hear of the data's next actions and not of the policy; the others the other way round."""
    spec, batch = SPECS["discrete"], sample(SPECS["discrete"])
    other = with_next_action(batch, other_actions(batch.transition.extras["next_action"], slice(5, 6)))
    for config, by_data, by_policy in ((ONE_STEP, True, False), (SMALL, False, True)):
        critic = lambda *args: one_update(spec, config, *args)[1].critic.params  # noqa: B023
        assert moved(critic(batch), critic(other)) == by_data
        assert moved(critic(batch), critic(batch, 1)) == by_policy


def test_next_actions_do_not_cross_the_end_of_an_episode():
    """Actions of the fourth episode change nothing for the first three, nor does a next action where an episode ended."""
    spec = SPECS["discrete"]
    steps = transitions(spec)
    batch, beyond = sample(spec, steps), steps.replace(action=other_actions(steps.action, slice(12, 16)))
    _, after, _ = one_update(spec, ONE_STEP, batch)
    assert not moved(after, one_update(spec, ONE_STEP, sample(spec, beyond))[1])
    ends = with_next_action(batch, other_actions(batch.transition.extras["next_action"], jnp.array([3, 7, 11])))
    assert not moved(after, one_update(spec, ONE_STEP, ends)[1])


def lower_q(env, config, state, observation, action):
    _, critic = awac.networks(env.spec, config)
    observation = jnp.array(observation)[:, None]
    if isinstance(env.spec.action, Discrete):
        return critic.apply(state.critic.params, observation).min(0)[:, 0]
    return critic.apply(state.critic.params, observation, action).min(0)[:, 0]


@pytest.mark.parametrize(
    "config, env, observation, value",
    [
        (SMALL, probes.ObservationReward(), [-1.0, 1.0], [-1.0, 1.0]),
        (SMALL, probes.TwoStepCredit(), [0.0, 1.0], [0.9, 1.0]),
        (SMALL.replace(critic_learning_rate=3e-2), probes.TimeLimit(), [0.0], [10.0]),
        (ONE_STEP.replace(critic_learning_rate=3e-2), probes.TimeLimit(continuous=True), [0.0], [10.0]),
    ],
    ids=["ObservationReward", "TwoStepCredit", "TimeLimit", "TimeLimit-one_step"],
)
def test_values_where_actions_do_not_matter(config, env, observation, value, random_data, learn_offline):
    _, state = learn_offline(awac, config, env, random_data(env), 400)
    q = lower_q(env, config, state, observation, jnp.zeros((len(observation), 1)))
    np.testing.assert_allclose(q, value, atol=0.05 * max(np.abs(value)))


@pytest.mark.parametrize(
    "config, continuous",
    [
        (SMALL.replace(inverse_temperature=20.0), False),
        (SMALL.replace(inverse_temperature=20.0), True),
        (CRR, True),
        (CRR.replace(baseline="max", num_samples=2), False),
    ],
    ids=["awac-discrete", "awac-continuous", "crr-continuous", "crr_max-discrete"],
)
def test_policy_follows_the_observation(config, continuous, random_data, learn_offline):
    env = probes.ObservationActionReward(continuous=continuous)
    agent, state = learn_offline(awac, config, env, random_data(env), 300)
    action, _, _ = agent.act(state, jnp.array([[-1.0], [1.0]]), (), jax.random.key(0), False)
    if continuous:
        np.testing.assert_allclose(action[:, 0], [-0.5, 0.5], atol=0.1)
    else:
        np.testing.assert_array_equal(action, [0, 1])


GRID = tabular.gridworld(3, 3, discount=0.9)


@pytest.mark.parametrize("config", [SMALL.replace(inverse_temperature=20.0), CRR], ids=["awac", "crr"])
def test_reaches_the_optimum_of_a_finite_mdp(config, random_data, learn_offline, optimal_q):
    """All actions are in the data: the most likely one is the optimum's wherever actions differ in value."""
    config = config.replace(hidden=(64,))
    agent, state = learn_offline(awac, config, GRID, random_data(GRID, 32, 128), 1000)
    num_states = GRID.spec.observation_shape[0]
    action, _, _ = agent.act(state, jnp.eye(num_states), (), jax.random.key(0), False)
    best = optimal_q(GRID)
    np.testing.assert_allclose(best[np.arange(num_states), np.asarray(action)], best.max(1), atol=1e-4)


def test_one_step_critics_learn_the_values_of_who_made_the_data(random_data, learn_offline, optimal_q):
    """Q of the data's own next actions, solved exactly; far below Q*, for the data's actions are random."""
    config, data = ONE_STEP.replace(hidden=(64,)), random_data(GRID, 32, 128)
    _, state = learn_offline(awac, config, GRID, data, 1000)
    _, critic = awac.networks(GRID.spec, config)
    learnt = np.asarray(critic.apply(state.critic.params, jnp.eye(9))).mean(0)

    steps = jax.tree.map(np.asarray, data.transition)
    known = steps.terminated | np.asarray(data.has_next)
    pair = 4 * steps.observation.argmax(1) + steps.action
    next_pair = 4 * steps.next_observation.argmax(1) + np.asarray(data.next_action)
    count, reward, follows = np.zeros(36), np.zeros(36), np.zeros((36, 36))
    np.add.at(count, pair[known], 1.0)
    np.add.at(reward, pair[known], steps.reward[known])
    np.add.at(follows, (pair[known], next_pair[known]), 0.9 * ~steps.terminated[known])
    count = np.maximum(count, 1.0)
    exact = np.linalg.solve(np.eye(36) - follows / count[:, None], reward / count).reshape(9, 4)
    assert (optimal_q(GRID) - exact)[:8].max() > 0.3
    np.testing.assert_allclose(learnt[:8], exact[:8], atol=0.05)  # the last state is terminal
