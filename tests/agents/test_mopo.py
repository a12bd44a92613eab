"""MOPO, COMBO and MOBILE: who learns when and from what, penalties by numpy, and where learning ends on small exact problems."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.offline import combo, mobile, mopo
from rljax.agents.online import sac
from rljax.envs import probes, tabular
from rljax.errors import UserError
from rljax.networks import dynamics
from rljax.types import Agent, Continuous, Discrete, EnvSpec, Sample, Transition

SETTINGS = dict(
    model_learning_rate=3e-3,
    policy_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    temperature_learning_rate=3e-3,
    gamma=0.9,
    target_rate=0.05,
    model_updates=400.0,
    num_members=3,
    num_elites=2,
    model_hidden=(32,),
    horizon=2,
    hidden=(32,),
    batch_size=64,
    num_updates=4,
)
SMALL = mopo.Config(**SETTINGS, real_share=0.25)
COLD = dict(initial_temperature=0.01, learn_temperature=False)
SPEC = EnvSpec((3,), Continuous((1,)))


def sample(size=64, seed=0):
    """Random transitions; every second one terminated."""
    keys = jax.random.split(jax.random.key(seed), 4)
    terminated = jnp.arange(size) % 2 == 0
    steps = Transition(
        observation=jax.random.normal(keys[1], (size, 3)),
        action=jax.random.uniform(keys[0], (size, 1), minval=-1.0),
        reward=jax.random.normal(keys[2], (size,)),
        terminated=terminated,
        truncated=~terminated,
        next_observation=jax.random.normal(keys[3], (size, 3)),
        extras={"time": jnp.arange(size)},
    )
    return Sample(steps, 0.9 * (1.0 - terminated), jnp.linspace(0.5, 1.5, size), jnp.arange(size))


def same(a, b):
    return all(bool((x == y).all()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# --- Who learns, and from what ------------------------------------------------------------------------------------------


def run(key, model_updates, batch, updates):
    """The states after each of so many updates on one batch."""
    agent = mopo.make(SPEC, SMALL.replace(model_updates=model_updates))

    def step(state, key):
        state, _ = agent.update(state, batch, key)
        return state, state

    init_key, key = jax.random.split(key)
    return jax.lax.scan(step, agent.init(init_key), jax.random.split(key, updates))[1]


def test_first_the_model_learns_then_who_learns_from_it_and_vmapped_runs_are_as_alone():
    """Two runs side by side of which the first changes over after two updates, the second after three."""
    keys, changes = jax.random.split(jax.random.key(0)), jnp.array([2.0, 3.0])
    run_4 = functools.partial(run, updates=4)
    beside = jax.device_get(jax.jit(jax.vmap(run_4, (0, 0, None)))(keys, changes, sample()))
    alone = jax.jit(run_4)
    for i in range(2):
        check_order(at(beside, i), change=2 + i)
        by_itself = jax.device_get(alone(keys[i], changes[i], sample()))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), at(beside, i), by_itself)


def at(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def check_order(states, change):
    """Of the states after each of four updates, those before `change` moved the model alone, later ones what learns from it."""
    for j in range(3):
        before, after = at(states, j), at(states, j + 1)
        stays = same(before.model, after.model), same(before.learner, after.learner)
        assert stays == ((False, True) if j + 1 < change else (True, False))
    assert states.model.updates[-1] == change


SPY = Agent(
    lambda key: jnp.float32(0.0),
    lambda state, observation, memory, key, explore=True: (jnp.full((len(observation), 1), 0.3), memory, {}),
    lambda state, batch, key: (state, {"batch": batch}),
)


def practised(config, model, batch):
    return jax.lax.fori_loop(0, 20, lambda _, state: dynamics.make(SPEC, config).learn(state, batch)[0], model)


@jax.jit
def given(config, batch):
    """What who learns is handed of a batch, by a model of 20 updates, what that foretells of it, and the metrics; actions are all
    0.3. One program for all float hyperparameters."""
    agent = mopo.make(SPEC, config, learner=SPY)
    state = agent.init(jax.random.key(0))
    state = state._replace(model=practised(config, state.model, batch))
    metrics = agent.update(state, batch, jax.random.key(1))[1]
    steps = metrics["batch"].transition
    return metrics["batch"], dynamics.make(SPEC, config).predict(state.model, steps.observation, steps.action), metrics


def test_mixture_of_data_and_of_rollouts_that_begin_in_data():
    """16 steps of the data, then 24 rollouts of two steps; a rollout's end and a time limit are no terminations."""
    config, batch = SMALL.replace(model_updates=0.0, penalty=0.0), sample()
    mixture, _, metrics = jax.device_get(given(config, batch))
    steps, batch = mixture.transition, jax.device_get(batch)
    assert steps.reward.shape == (64,) and mopo.shares(config) == (16, 24)
    data = jax.tree.map(lambda x: x[:16], batch)
    assert same(jax.tree.map(lambda x: x[:16], steps), data.transition.replace(extras={}))
    assert same((mixture.discount[:16], mixture.weight[:16]), (data.discount, data.weight))
    first, second, start = at(steps, slice(16, 40)), at(steps, slice(40, 64)), batch.transition.observation[16:40]
    np.testing.assert_array_equal(first.observation, start)
    assert 0 < first.terminated.sum() < 24
    ends = first.terminated[:, None]
    np.testing.assert_array_equal(second.observation, np.where(ends, start, first.next_observation))
    assert (steps.action[16:] == np.float32(0.3)).all()
    np.testing.assert_allclose(mixture.discount[16:], 0.9 * (1.0 - np.float32(steps.terminated[16:])), rtol=1e-6)
    assert (mixture.weight[16:] == 1.0).all()
    np.testing.assert_allclose(metrics["model/terminated"], steps.terminated[16:].mean(), rtol=1e-5)


@pytest.mark.parametrize("uncertainty", mopo.UNCERTAINTIES)
def test_penalty_by_the_models_predictions(uncertainty):
    config = SMALL.replace(model_updates=0.0, uncertainty=uncertainty)
    free, found, _ = jax.device_get(given(config.replace(penalty=0.0), sample()))
    dear, _, metrics = jax.device_get(given(config.replace(penalty=2.0), sample()))
    steps = free.transition
    np.testing.assert_array_equal(steps.next_observation, dear.transition.next_observation)
    if uncertainty == "spread":
        unknown = np.sqrt(np.square(found.std).sum(axis=-1)).max(axis=0)
    else:
        change = found.mean[..., :3]
        unknown = np.sqrt(np.square(change - change.mean(axis=0)).sum(axis=-1)).max(axis=0)
    unknown[:16] = 0.0  # steps of the data are as they were paid
    np.testing.assert_allclose(steps.reward - dear.transition.reward, 2.0 * unknown, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(metrics["model/penalty"], 2.0 * unknown[16:].mean(), rtol=1e-3)


def blind(params, raw):
    """The policy tanh(0 + exp(log std) noise) everywhere, its log standard deviation told by `raw`."""
    params = jax.tree.map(jnp.zeros_like, params)
    params["params"]["Dense_0"]["bias"] = jnp.array([0.0, raw])
    return params


def test_inconsistency_by_numpy():
    """Linear critics, a policy that next to always does nothing, models without noise: each elite's Bellman target is a sum."""
    config = mobile.Config(**SETTINGS | dict(hidden=(), horizon=1, num_critics=1, model_updates=0.0), real_share=0.25)
    config = config.replace(penalty=3.0, reward_scale=2.0)
    agent, model, batch = mobile.make(SPEC, config), dynamics.make(SPEC, config), sample()

    @jax.jit
    def update(batch):
        state = agent.init(jax.random.key(0))
        network = practised(config, state.model, batch)
        sure = network.network.params
        for name in ("lowest", "highest"):
            sure["params"][name] = jnp.full(4, -30.0)
        network = network._replace(network=network.network._replace(params=sure))
        policy = state.learner.policy._replace(params=blind(state.learner.policy.params, -20.0))
        target = jax.tree.map(lambda x: 2.0 * x, state.learner.target_critic)
        state = state._replace(model=network, learner=state.learner._replace(policy=policy, target_critic=target))
        found = model.predict(network, batch.transition.observation[16:], jnp.zeros((48, 1)))
        return state, found, agent.update(state, batch, jax.random.key(1))[1]

    state, found, metrics = jax.device_get(update(batch))
    weight = np.float64(state.learner.target_critic["params"]["Dense_0"]["kernel"])[0, :3, 0]
    observation = np.float64(batch.transition.observation[16:])
    mean, ended = (np.float64(x)[np.argsort(state.model.error)[:2]] for x in (found.mean[..., :3], found.ended))
    target = 0.9 * (1.0 - ended) * ((observation + mean) @ weight)
    expected = 3.0 * (np.abs(target[0] - target[1]) / np.sqrt(2.0)).mean() / 2.0
    assert expected > 0.02
    np.testing.assert_allclose(metrics["model/penalty"], expected, rtol=0.02)


@pytest.mark.parametrize("model_states_alone", [False, True])
def test_conservative_gap_is_an_integral_in_the_mixtures_states_less_the_datas_values(model_states_alone):
    """Two steps of the data and two rollouts of one step, which begin in the batch's other two states."""
    config = combo.Config(
        **SETTINGS | dict(horizon=1, batch_size=4, model_updates=0.0), real_share=0.5, num_samples=4000
    )
    config = config.replace(model_states_alone=model_states_alone, conservative_weight=0.5)
    agent, batch = combo.make(SPEC, config), sample(size=4)
    _, critic = sac.networks(SPEC, config)

    @jax.jit
    def update(batch):
        state = agent.init(jax.random.key(0))
        steep = jax.tree.map(lambda x: 3.0 * x, state.learner.critic.params)
        policy = state.learner.policy._replace(params=blind(state.learner.policy.params, 0.4))
        learner = state.learner._replace(critic=state.learner.critic._replace(params=steep), policy=policy)
        return steep, agent.update(state._replace(learner=learner), batch, jax.random.key(1))[1]

    steep, metrics = update(batch)
    steps, edges = batch.transition, np.linspace(-1.0, 1.0, 1001)
    grid = jnp.array((edges[1:] + edges[:-1]) / 2.0, jnp.float32)
    q_of = lambda observation, action: np.float64(critic.apply(steep, observation, action))[..., 0]
    q = q_of(jnp.repeat(steps.observation, 1000, 0), jnp.tile(grid, 4)[:, None]).reshape(2, 4, 1000)
    low = np.log((np.exp(q) * 0.002).sum(axis=-1))
    low = low[:, 2:] if model_states_alone else low
    gap = low.mean(axis=1) - (np.float64(batch.weight[:2]) * q_of(steps.observation, steps.action)[:, :2]).mean(axis=1)
    np.testing.assert_allclose(metrics["critic/gap"], gap.mean(), atol=0.02)
    np.testing.assert_allclose(metrics["loss/conservative"], 0.5 * gap.sum(), atol=0.02)
    assert metrics["model/penalty"] == 0.0


# --- Where learning ends ------------------------------------------------------------------------------------------------


def test_reaches_the_optimum_of_a_gridworld(random_data, learn_offline, optimal_q):
    """Random actions cover it; nine tenths of what is learned from are rollouts, through the goal's termination too."""
    env = tabular.gridworld(3, 3, discount=0.9)
    config = SMALL.replace(
        penalty=0.0, beta=0.5, horizon=3, real_share=0.1, model_updates=1500.0, model_hidden=(64,), **COLD
    )
    agent, state = learn_offline(mopo, config, env, random_data(env), 750)
    free = jnp.eye(9)[:8]
    best = optimal_q(env)[:8]
    chosen, _, _ = agent.act(state, free, (), jax.random.key(0), False)
    np.testing.assert_allclose(best[np.arange(8), np.asarray(chosen)], best.max(axis=1), atol=1e-6)
    _, critic = sac.networks(env.spec, config)
    q = critic.apply(state.learner.critic.params, free).mean(axis=0)
    np.testing.assert_allclose(q, best, atol=0.1)


def test_values_go_on_past_time_limits_and_rollouts(random_data, learn_offline):
    env = probes.TimeLimit(continuous=True)
    config = SMALL.replace(penalty=0.0, initial_temperature=0.0, learn_temperature=False)
    _, state = learn_offline(mopo, config, env, random_data(env), 300)
    _, critic = sac.networks(env.spec, config)
    q = critic.apply(state.learner.critic.params, jnp.zeros((3, 1)), jnp.array([[-0.7], [0.0], [0.7]]))
    np.testing.assert_allclose(q, 10.0, atol=0.5)


@pytest.mark.parametrize("module", [combo, mobile])
def test_policy_follows_the_observation(module, random_data, learn_offline):
    env = probes.ObservationActionReward(continuous=True)
    extra = {"conservative_weight": 0.1} if module is combo else {"penalty": 0.1}
    config = module.Config(**SETTINGS, real_share=0.25, **extra)
    agent, state = learn_offline(module, config, env, random_data(env), 250)
    action, _, _ = agent.act(state, jnp.array([[-1.0], [1.0]]), (), jax.random.key(0), False)
    np.testing.assert_allclose(action[:, 0], [-0.5, 0.5], atol=0.1)


def test_what_cannot_be_is_one_sentence():
    with pytest.raises(UserError, match="real_share=0.001 of a batch of 64 and rollouts of 2 steps leave nothing"):
        mopo.make(SPEC, SMALL.replace(real_share=0.001))
    with pytest.raises(UserError, match="real_share=0.25 of a batch of 64 and rollouts of 49 steps leave nothing"):
        mopo.make(SPEC, SMALL.replace(horizon=49))
    with pytest.raises(UserError, match="Unknown uncertainty 'spred'.*spread"):
        mopo.make(SPEC, SMALL.replace(uncertainty="spred"))
    with pytest.raises(UserError, match="COMBO needs continuous actions; here are 4 discrete ones."):
        combo.make(EnvSpec((3,), Discrete(4)))
    with pytest.raises(UserError, match="num_elites=1 must be at least 2."):
        mobile.make(SPEC, mobile.Config(num_elites=1))
