"""CQL against exact answers: integrals and fixed points by numpy, probes with known values, an MDP whose optimum is computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import distributions
from rljax.agents.offline import cql
from rljax.agents.online import sac
from rljax.envs import probes, tabular
from rljax.types import Continuous, Discrete, EnvSpec, Sample, Transition

SMALL = cql.Config(
    policy_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    temperature_learning_rate=3e-3,
    gamma=0.9,
    target_rate=0.05,
    conservative_weight=0.5,
    hidden=(32,),
    batch_size=64,
    num_updates=4,
)
SPECS = {"continuous": EnvSpec((3,), Continuous((2,))), "discrete": EnvSpec((3,), Discrete(4))}


def sample(spec, size=128, seed=0, reward=0.0):
    """Random transitions; every second one terminated; weights that differ. `reward` is added to each."""
    keys = jax.random.split(jax.random.key(seed), 4)
    terminated = jnp.arange(size) % 2 == 0
    steps = Transition(
        observation=jax.random.normal(keys[1], (size, *spec.observation_shape)),
        action=distributions.uniform_action(spec.action, size, keys[0]),
        reward=reward + jax.random.normal(keys[2], (size,)),
        terminated=terminated,
        truncated=jnp.zeros(size, bool),
        next_observation=jax.random.normal(keys[3], (size, *spec.observation_shape)),
    )
    return Sample(steps, 0.9 * (1.0 - terminated), jnp.linspace(0.5, 1.5, size), jnp.arange(size))


@functools.partial(jax.jit, static_argnums=0)
def start(spec, **floats):
    """A state whose target critic is another one, so that it shows which of them is read."""
    agent = cql.make(spec, SMALL.replace(**floats))
    return agent.init(jax.random.key(0))._replace(target_critic=agent.init(jax.random.key(2)).critic.params)


@functools.partial(jax.jit, static_argnums=0)
def update(spec, config, state, batch):
    """One program for all float hyperparameters."""
    return cql.make(spec, config).update(state, batch, jax.random.key(1))


def one_update(spec, config):
    """The states before and after an update, and its metrics."""
    before = start(spec, conservative_weight=config.conservative_weight)
    return before, *update(spec, config, before, sample(spec))


def moved(a, b):
    return any(bool((x != y).any()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def policy_of(params, log_std):
    """The policy that acts alike everywhere: tanh of normals with mean 0 and this log standard deviation."""
    blind = jax.tree.map(jnp.zeros_like, params)
    low, high = distributions.LOG_STD_RANGE
    raw = np.arctanh(np.clip(2.0 * (log_std - low) / (high - low) - 1.0, -0.9999, 0.9999))
    size = blind["params"]["Dense_0"]["bias"].shape[0] // 2
    blind["params"]["Dense_0"]["bias"] = jnp.concatenate([jnp.zeros(size), jnp.full(size, raw, jnp.float32)])
    return blind


# --- One update against numpy -------------------------------------------------------------------------------------------


def test_continuous_gap_is_the_log_of_an_integral_for_each_critic():
    """With many samples the soft maximum is log of the integral of exp Q(s, a) over the box: by a sum over a fine grid.

    It tells densities left out or of the wrong sign (0.7 and more), samples of pi(s') judged at s', and critics pooled.
    """
    spec = EnvSpec((3,), Continuous((1,)))
    config = SMALL.replace(num_samples=4000)
    state, batch = start(spec), sample(spec, size=4)
    _, critic = sac.networks(spec, config)
    steep = jax.tree.map(lambda x: 3.0 * x, state.critic.params)  # critics that differ, and by action and observation

    def metrics_of(log_std):
        policy = state.policy._replace(params=policy_of(state.policy.params, log_std))
        changed = state._replace(critic=state.critic._replace(params=steep), policy=policy)
        return update(spec, config, changed, batch)[1]

    metrics = metrics_of(0.0)

    steps, edges = batch.transition, np.linspace(-1.0, 1.0, 1001)
    grid = jnp.array((edges[1:] + edges[:-1]) / 2.0, jnp.float32)
    q_of = lambda observation, action: np.float64(critic.apply(steep, observation, action))[..., 0]
    q = q_of(jnp.repeat(steps.observation, 1000, 0), jnp.tile(grid, 4)[:, None]).reshape(2, 4, 1000)
    gap = np.log((np.exp(q) * 0.002).sum(-1)) - q_of(steps.observation, steps.action)
    np.testing.assert_allclose(metrics["critic/gap"], gap.mean(), atol=0.02)
    expected = 0.5 * (np.float64(batch.weight) * gap.sum(0)).mean()
    np.testing.assert_allclose(metrics["loss/conservative"], expected, atol=0.02)
    elsewhere = q_of(jnp.repeat(steps.next_observation, 1000, 0), jnp.tile(grid, 4)[:, None]).reshape(2, 4, 1000)
    away = np.log((np.exp(elsewhere) * 0.002).sum(-1)) - q_of(steps.observation, steps.action)
    pooled = np.log((np.exp(q) * 0.002).sum((0, -1))) - q_of(steps.observation, steps.action)
    assert min(abs(away.mean() - gap.mean()), abs(pooled.mean() - gap.mean())) > 0.1  # they would show
    # A policy that is nearly a point finds next to nothing of the integral: of three laws the uniform one alone is left.
    np.testing.assert_allclose(metrics_of(-5.0)["critic/gap"], gap.mean() - np.log(3.0), atol=0.15)


@pytest.mark.parametrize("double", [True, False])
def test_discrete_losses_from_the_networks_outputs(double):
    """Double: the action that the lower critic thinks best, by the lower target critic; else the largest of the latter."""
    spec, config = SPECS["discrete"], SMALL.replace(double=double, reward_scale=2.0)
    before, _, metrics = one_update(spec, config)
    batch, (_, critic) = sample(spec), sac.networks(spec, config)
    steps, rows = batch.transition, np.arange(128)
    q_of = lambda params, observation: np.float64(critic.apply(params, observation))
    next_target = q_of(before.target_critic, steps.next_observation).min(0)
    next_online = q_of(before.critic.params, steps.next_observation).min(0)
    assert (next_target.argmax(1) != next_online.argmax(1)).any()  # the two targets differ
    next_value = next_target[rows, next_online.argmax(1)] if double else next_target.max(1)
    target = 2.0 * np.float64(steps.reward) + np.float64(batch.discount) * next_value
    q = q_of(before.critic.params, steps.observation)
    q_data, weight = q[:, rows, np.asarray(steps.action)], np.float64(batch.weight)
    gap = np.log(np.exp(q).sum(-1)) - q_data  # of each critic apart
    np.testing.assert_allclose(
        metrics["loss/critic"], 0.5 * (weight * ((q_data - target) ** 2).sum(0)).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(metrics["loss/conservative"], 0.5 * (weight * gap.sum(0)).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["critic/gap"], gap.mean(), rtol=1e-5)


def with_outcomes(batch, outcome, discount=0.0):
    """The batch, and what its steps led to: an outcome, a discount of what was left, and the observation that it was left at."""
    size = len(batch.weight)
    extras = {"outcome": jnp.full(size, outcome), "outcome_discount": jnp.full(size, discount)}
    steps = batch.transition.replace(extras=extras | {"outcome_observation": batch.transition.observation[::-1]})
    return batch.replace(transition=steps)


def test_calibrated_discrete_loss_from_the_networks_outputs():
    """Cal-QL: max(Q, what was earned) within the soft maximum, Q itself of the data. A value stands for what was left."""
    spec, config = SPECS["discrete"], SMALL.replace(calibrate=True, reward_scale=2.0)
    before, batch, (_, critic) = start(spec), with_outcomes(sample(spec), 0.05, 0.5), sac.networks(spec, config)
    _, metrics = update(spec, config, before, batch)
    steps, rows = batch.transition, np.arange(128)
    at_end = np.float64(critic.apply(before.target_critic, steps.extras["outcome_observation"])).min(0).max(-1)
    floor = 2.0 * 0.05 + 0.5 * at_end
    q = np.float64(critic.apply(before.critic.params, steps.observation))
    calibrated = np.maximum(q, floor[:, None])
    assert 0.1 < (calibrated > q).mean() < 0.9
    np.testing.assert_allclose(metrics["critic/calibrated"], (calibrated > q).mean(), atol=1e-6)
    gap = np.log(np.exp(calibrated).sum(-1)) - q[:, rows, np.asarray(steps.action)]
    np.testing.assert_allclose(metrics["critic/gap"], gap.mean(), rtol=1e-5)


def test_calibrated_continuous_gap():
    """A floor below all values changes nothing; one above them all stands in for the policy's values, not the uniform law's."""
    spec, config = EnvSpec((3,), Continuous((1,))), SMALL.replace(num_samples=2000)
    state, batch = start(spec), sample(spec, size=4)
    state = state._replace(policy=state.policy._replace(params=policy_of(state.policy.params, 0.0)))
    plain = update(spec, config, state, batch)[1]
    config = config.replace(calibrate=True)
    low, high = (update(spec, config, state, with_outcomes(batch, floor))[1] for floor in (-100.0, 100.0))
    np.testing.assert_allclose(low["critic/gap"], plain["critic/gap"], rtol=1e-5)
    assert low["critic/calibrated"] == 0.0 and high["critic/calibrated"] == 1.0
    steps, (_, critic) = batch.transition, sac.networks(spec, config)
    q_data = np.float64(critic.apply(state.critic.params, steps.observation, steps.action))
    # E 1/pi over samples of pi is the box's volume, 2: of three laws two have weight exp(100) x 2 each
    np.testing.assert_allclose(high["critic/gap"], 100.0 + np.log(2.0 * 2.0 / 3.0) - q_data.mean(), atol=0.15)


@pytest.mark.parametrize("kind", SPECS)
def test_calibrated_values_of_the_data_alone_go_on_rising(kind):
    """Below the floor nothing is pushed down, so the conservative loss's gradient is that of -Q of the data (and of the uniform
    law's values, which are not calibrated)."""
    spec = SPECS[kind]
    config = SMALL.replace(calibrate=True, conservative_weight=1000.0, critic_learning_rate=1e-4)
    before, batch = start(spec), with_outcomes(sample(spec), 100.0)
    after, _ = update(spec, config, before, batch)
    _, critic = sac.networks(spec, config)
    steps, rows = batch.transition, np.arange(128)

    def q_data(params):
        if kind == "discrete":
            return critic.apply(params, steps.observation)[:, rows, steps.action]
        return critic.apply(params, steps.observation, steps.action)

    assert (q_data(after.critic.params) - q_data(before.critic.params)).mean() > 0.0


def test_each_loss_moves_its_own_network_alone():
    spec = SPECS["continuous"]
    before, after, _ = one_update(spec, SMALL.replace(policy_learning_rate=0.0, target_rate=0.0))
    assert not moved(before.policy.params, after.policy.params)
    assert not moved(before.target_critic, after.target_critic)
    assert moved(before.critic.params, after.critic.params)
    assert not moved(before.multiplier, after.multiplier)  # there is nothing to learn without `lagrange`
    before, after, _ = one_update(spec, SMALL.replace(critic_learning_rate=0.0))
    assert not moved(before.critic.params, after.critic.params)
    assert moved(before.policy.params, after.policy.params)
    assert moved(before.temperature.params, after.temperature.params)
    _, heavy, _ = one_update(spec, SMALL.replace(critic_learning_rate=0.0, conservative_weight=50.0))
    assert not moved(after.policy, heavy.policy)  # actions of the policy are constants in the conservative loss


@pytest.mark.parametrize("kind", SPECS)
def test_multiplier_rises_above_the_target_gap_and_falls_below(kind):
    def change(target):
        before, after, metrics = one_update(SPECS[kind], SMALL.replace(lagrange=True, target_gap=target))
        np.testing.assert_allclose(metrics["critic/multiplier"], 0.5, rtol=1e-6)
        return after.multiplier.params - before.multiplier.params

    assert change(100.0) < 0.0 < change(-100.0)


@pytest.mark.parametrize("log_std, entropy", [(-5.0, 2 * (1.418939 - 5.0)), (0.0, None)])
def test_entropy_is_in_the_target_only_when_asked_for_and_is_added(log_std, entropy):
    """-alpha log pi(a'|s'): it lowers targets of a policy nearly fixed, whose entropy is below 0. Never the other sign."""
    spec, batch = SPECS["continuous"], sample(SPECS["continuous"], reward=100.0)

    def mean_target(entropy_in_target, temperature):
        config = SMALL.replace(entropy_in_target=entropy_in_target)
        state = start(spec, initial_temperature=temperature)
        state = state._replace(policy=state.policy._replace(params=policy_of(state.policy.params, log_std)))
        return update(spec, config, state, batch)[1]["priority"].mean()  # of |target - Q| with target far above Q

    if entropy is None:  # of the squashed normal, by numbers drawn here: of the normal, plus log of the slope of tanh
        x = np.random.default_rng(0).normal(size=(100_000, 2))
        entropy = 2 * 1.418939 + np.log(1.0 - np.tanh(x) ** 2).sum(1).mean()
    silent = mean_target(False, 0.5)
    np.testing.assert_allclose(mean_target(False, 1.0), silent, rtol=1e-6)
    added = 0.5 * float(batch.discount.mean()) * entropy
    np.testing.assert_allclose(mean_target(True, 0.5) - silent, added, atol=0.1)


# --- Where learning ends ------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(0, 3))
def learn_batch(spec, config, batch, iterations):
    """Updates on the same batch, over and over: the state, and the metrics of each."""
    agent = cql.make(spec, config)
    keys = jax.random.split(jax.random.key(1), iterations)
    return jax.lax.scan(lambda state, key: agent.update(state, batch, key), agent.init(jax.random.key(0)), keys)


def test_reaches_the_optimum_of_a_finite_mdp_from_below():
    """Every state and action once. Where gradients vanish, Q = r + gamma max Q' + alpha (1 - softmax(Q) / beta), beta = 1 / 4.

    There the best action's softmax is at least beta, so its value is a lower bound of the optimal one, and no two actions
    change places.
    """
    mdp, weight = tabular.gridworld(3, 3, discount=0.9), 0.1
    transition, reward, gamma = np.float64(mdp.transition), np.float64(mdp.reward), 0.9
    open_ = ~np.asarray(mdp.terminal)  # states that are acted in
    best, exact = np.zeros(reward.shape), np.zeros(reward.shape)
    for _ in range(5000):
        best = reward + gamma * transition @ (best.max(1) * open_)
        softmax = np.exp(exact) / np.exp(exact).sum(1, keepdims=True)
        pushed = reward + gamma * transition @ (exact.max(1) * open_) + weight * (1.0 - 4.0 * softmax)
        exact += 0.2 * (pushed - exact)
    assert np.abs(pushed - exact).max() < 1e-9

    state_index, action = np.nonzero(np.ones(reward.shape) * open_[:, None])
    following = transition[state_index, action].argmax(1)
    ended, size = jnp.asarray(~open_[following]), len(action)
    observation, next_observation = jnp.eye(9)[state_index], jnp.eye(9)[following]
    paid = jnp.asarray(reward[state_index, action], jnp.float32)
    steps = Transition(observation, jnp.asarray(action), paid, ended, ~ended, next_observation)
    batch = Sample(steps, gamma * (1.0 - ended), jnp.ones(size), jnp.arange(size))
    config = SMALL.replace(conservative_weight=weight, hidden=(64,))
    state, metrics = learn_batch(mdp.spec, config, batch, 3000)
    q = sac.networks(mdp.spec, config)[1].apply(state.critic.params, jnp.eye(9)).min(0)[open_]
    best, exact = best[open_], exact[open_]
    np.testing.assert_allclose(q, exact, atol=1e-3)
    chosen = cql.make(mdp.spec, config).act(state, jnp.eye(9)[open_], (), jax.random.key(0), False)[0]
    np.testing.assert_allclose(best[np.arange(len(best)), np.asarray(chosen)], best.max(1), atol=1e-6)
    assert (
        q.max(1) < best.max(1) - 0.01
    ).all()  # exactly alpha (4 softmax - 1) = 0.0123 next to the goal, more elsewhere
    np.testing.assert_allclose(metrics["critic/gap"][-1], np.log(np.exp(exact).sum(1)).mean() - exact.mean(), atol=0.01)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_actions_outside_of_the_data_are_pushed_down(kind):
    """One observation, one action in the data, and it pays nothing: without the loss all values come to 0, with it others fall.

    (Were the soft maximum a constant, the loss would only push up.)
    """
    spec = EnvSpec((1,), Continuous((1,)) if kind == "continuous" else Discrete(3))
    ones = jnp.ones(32)
    taken, other = (-0.5, 0.7) if kind == "continuous" else (0, 2)
    action = jnp.full((32, 1), taken) if kind == "continuous" else jnp.full(32, taken)
    steps = Transition(ones[:, None], action, 0.0 * ones, ones > 0, ones < 0, ones[:, None])
    batch = Sample(steps, 0.0 * ones, ones, jnp.arange(32))

    def values(weight):
        config = SMALL.replace(conservative_weight=weight)
        state, _ = learn_batch(spec, config, batch, 500)
        _, critic = sac.networks(spec, config)
        if kind == "discrete":
            return critic.apply(state.critic.params, jnp.ones((1, 1)))[:, 0, jnp.array([taken, other])].max(0)
        return critic.apply(state.critic.params, jnp.ones((2, 1)), jnp.array([[taken], [other]]))[..., 0].max(0)

    at_data, outside = values(0.5)
    if kind == "discrete":
        assert 0.0 < at_data < 0.6  # pushed up, by at most the weight
    else:  # the policy comes to do what the data does, where it is pushed down as much as up
        assert abs(at_data) < 0.05
    assert outside < -1.0
    assert abs(values(0.0)[0]) < 0.02


def test_multiplier_holds_the_gap_at_its_target():
    """Rewards 3, 0, 0.6 of three arms tried equally: the gap is 1.9 without the loss and 1.1 with nothing else."""
    reward, ones = jnp.array([3.0, 0.0, 0.6]), jnp.ones(3)
    steps = Transition(ones[:, None], jnp.arange(3), reward, ones > 0, ones < 0, ones[:, None])
    batch = Sample(steps, 0.0 * ones, ones, jnp.arange(3))
    config = SMALL.replace(lagrange=True, target_gap=1.5, multiplier_learning_rate=1e-2)
    _, metrics = learn_batch(EnvSpec((1,), Discrete(3)), config, batch, 3000)
    np.testing.assert_allclose(metrics["critic/gap"][-100:].mean(), 1.5, atol=0.02)
    assert abs(metrics["critic/gap"][-100:].std()) < 0.02


def q_values(env, config, state, observation, action=None):
    """The lower of the critics."""
    _, critic = sac.networks(env.spec, config)
    return critic.apply(state.critic.params, observation, *(() if action is None else (action,))).min(0)[:, 0]


ONE_ACTION = [
    (probes.ObservationReward, [-1.0, 1.0], [-1.0, 1.0]),
    (probes.TwoStepCredit, [0.0, 1.0], [0.9, 1.0]),
    (probes.TimeLimit, [0.0], [10.0]),
]


@pytest.mark.parametrize("probe, observation, value", ONE_ACTION)
def test_values_where_there_is_one_action(probe, observation, value, random_data, learn_offline):
    """The soft maximum of one value is that value: there is no gap."""
    env, config = probe(), SMALL.replace(critic_learning_rate=1e-2)
    _, state = learn_offline(cql, config, env, random_data(env), 1000)
    q = q_values(env, config, state, jnp.array(observation)[:, None])
    np.testing.assert_allclose(q, value, atol=0.05 * max(np.abs(value)))


@pytest.mark.parametrize("probe, observation, value", ONE_ACTION[1:])
def test_values_where_all_actions_are_worth_the_same(probe, observation, value, random_data, learn_offline):
    """Uniform data: what the loss pushes down it pushes up as much, so values are exact, if there is no entropy in them."""
    env = probe(continuous=True)
    _, state = learn_offline(cql, SMALL, env, random_data(env), 700)
    for action in (-0.7, 0.0, 0.7):
        observations = jnp.array(observation)[:, None]
        q = q_values(env, SMALL, state, observations, jnp.full_like(observations, action))
        np.testing.assert_allclose(q, value, atol=0.1 * max(np.abs(value)))


@pytest.mark.parametrize("continuous", [False, True])
def test_policy_follows_the_observation(continuous, random_data, learn_offline):
    env, config = (
        probes.ObservationActionReward(continuous=continuous),
        SMALL.replace(conservative_weight=0.1),
    )
    agent, state = learn_offline(cql, config, env, random_data(env), 300)
    observation = jnp.array([[-1.0], [1.0]])
    action, _, _ = agent.act(state, observation, (), jax.random.key(0), False)
    if continuous:
        np.testing.assert_allclose(action[:, 0], [-0.5, 0.5], atol=0.1)
        return
    np.testing.assert_array_equal(action, [0, 1])
    drawn, _, _ = agent.act(state, jnp.repeat(observation, 4000, 0), (), jax.random.key(0), True)
    q = np.float64(sac.networks(env.spec, config)[1].apply(state.critic.params, observation).min(0))
    softmax = np.exp(q[:, 1]) / np.exp(q).sum(1)
    np.testing.assert_allclose(np.asarray(drawn).reshape(2, 4000).mean(1), softmax, atol=0.03)
