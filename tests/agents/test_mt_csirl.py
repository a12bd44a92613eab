"""A common reward of several tasks: its logit by hand, batches by task, and that it holds in a task that was never shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import parallel, sources, train
from rljax.agents.imitation import mt_csirl
from rljax.agents.online import ppo
from rljax.data import dataset as dataset_lib
from rljax.data.collect import collect
from rljax.envs.tabular import gridworld
from rljax.errors import UserError
from rljax.tabular import solvers
from rljax.types import Agent, Discrete, EnvSpec, Rollout, Sample, Transition

GAMMA, SIDE = 0.9, 4
CARPET = -3.0 * np.isin(np.arange(16), [5, 6])  # what is paid for standing there, in all tasks; no task says so
SMALL = mt_csirl.Config(
    gamma=GAMMA, hidden=(32,), reward_hidden=(32,), learning_rate=3e-3, reward_learning_rate=3e-3, num_envs=16,
    rollout_length=16, num_minibatches=2, entropy_coefficient=0.0, reward_batch_size=128,
)  # fmt: skip


def task(goal):
    return gridworld(SIDE, SIDE, goal, start=None, goal_reward=4.0, step_reward=-0.2, discount=GAMMA, episode_length=30)


def soft_optimal(env, common):
    """The policy [S, A] that is best for the task's own reward and the common one [S, A]."""
    reward = jnp.where(env.terminal[:, None], 0.0, env.reward + common)
    value_of = lambda q: jnp.where(env.terminal, 0.0, solvers.soft_value(q))
    return solvers.soft_policy(solvers.optimal_q(env.transition, reward, GAMMA, value_of))


def demonstrations(env, seed):
    policy = soft_optimal(env, jnp.asarray(CARPET)[:, None])
    act = lambda state, seen, memory, key, _: (jax.random.categorical(key, jnp.log(seen @ policy)), memory, {})
    run = lambda key: collect(env, Agent(lambda key: (), act, None), (), key, 32, 60, True)
    return dataset_lib.from_transitions(jax.jit(run)(jax.random.key(seed)))


def on_carpet(env, policy):
    """The share of its discounted time that a policy stands where it should not."""
    time = jnp.where(env.terminal, 0.0, solvers.occupancy(env.transition, policy, env.start, GAMMA))
    return float((time * (CARPET < 0)).sum() / time.sum())


def test_the_common_reward_holds_in_a_task_that_was_never_shown():
    """Learned from goals in three corners: a new agent with a goal in the fourth keeps off the carpet as one who knows of it, where
    one who does not walks over it."""
    envs = [task(goal) for goal in ((0, 0), (0, 3), (3, 0))]
    data = [demonstrations(env, seed) for seed, env in enumerate(envs)]
    config = SMALL.replace(num_tasks=3)
    agent = mt_csirl.make(envs[0].spec, config)

    @jax.jit
    def run(data, key):
        learner = train.make(agent, mt_csirl.source(envs, config, data))
        return learner.run(learner.init(key), 200)[0].agent

    state = run(data, jax.random.key(0))
    nothing = jnp.zeros(64)
    seen, action = jnp.repeat(jnp.eye(16), 4, axis=0), jnp.tile(jnp.arange(4), 16)
    steps = Transition(seen, action, nothing, nothing > 1, nothing > 1, seen)
    learned = agent.reward(state, steps).reshape(16, 4)
    new = task((3, 3))
    of = lambda common: on_carpet(new, soft_optimal(new, common))
    right, found, ignorant = of(jnp.asarray(CARPET)[:, None]), of(learned), of(0.0)
    assert found < right + 0.25 * (ignorant - right)
    inside = ~np.asarray(sum(env.terminal for env in [*envs, new]), bool)
    assert np.corrcoef(learned.mean(1)[inside], CARPET[inside])[0, 1] > 0.9


def test_an_update_by_hand():
    """Each task's steps by its own reward, potential and policy; the common reward by all."""
    spec, rng = EnvSpec((3,), Discrete(2), 9), np.random.default_rng(0)
    config = SMALL.replace(num_envs=1, rollout_length=1, num_minibatches=1, reward_batch_size=4)
    agent, policy = mt_csirl.make(spec, config), ppo.make(spec, config)
    state = jax.jit(agent.init)(jax.random.key(0))

    def steps(*shape):
        seen, following = rng.normal(size=(2, *shape, 3)).astype(np.float32)
        ends = rng.random(shape) < 0.5
        reward = rng.normal(size=shape).astype(np.float32)
        return Transition(seen, rng.integers(0, 2, shape), reward, ends, ends & False, following)

    own, demos = steps(2, 1, 1), steps(2, 4)  # one own step in each task, so that nothing is left to the draw
    own = own.replace(extras={"log_prob": np.full((2, 1, 1), -0.7, np.float32)})
    ones = np.ones((2, 4), np.float32)
    batch = jax.tree.map(
        jnp.asarray, sources.Beside(Rollout(own, ()), Sample(demos, ones, ones, np.zeros((2, 4), int)))
    )
    _, metrics = jax.jit(agent.update)(state, batch, jax.random.key(1))

    def network(params, x):
        hidden, last = (jax.tree.map(np.float64, x["Dense_0"]) for x in (params["params"]["Torso_1"], params["params"]))
        return (np.tanh(x @ hidden["kernel"] + hidden["bias"]) @ last["kernel"] + last["bias"])[:, 0]

    def logits(these, task):
        flat = lambda x, *rest: np.asarray(x[task]).reshape(-1, *rest)
        seen, following = flat(these.observation, 3), flat(these.next_observation, 3)
        action, over = flat(these.action), flat(these.terminated)
        common = network(state.reward.params["reward"], np.concatenate([seen, np.eye(2)[action]], 1))
        h = parallel.select(state.reward.params["potential"], task)
        shaping = GAMMA * (1 - over) * network(h, following) - network(h, seen)
        log_prob = policy.log_prob(parallel.select(state.policies, task), jnp.asarray(seen), jnp.asarray(action))
        return flat(these.reward) + common + shaping - np.asarray(log_prob)

    demonstrated, done = (np.concatenate([logits(these, task) for task in (0, 1)]) for these in (demos, own))
    expected = np.log1p(np.exp(-demonstrated)).mean() + np.log1p(np.exp(done)).mean()
    assert float(metrics["loss/reward"]) == pytest.approx(expected, rel=1e-4)


def test_every_task_has_its_own_environment_policy_and_demonstrations():
    envs = [task((0, 0)), task((3, 3))]
    data = [demonstrations(env, 0) for env in envs]
    agents = [mt_csirl.make(envs[0].spec, SMALL, number) for number in (0, 1)]
    source = mt_csirl.source(envs, SMALL, data)
    state = jax.jit(agents[0].init)(jax.random.key(0))
    read = lambda key: source.next(source.init(agents[0], key), agents[0], state, key)
    _, batch, metrics = jax.jit(read)(jax.random.key(1))
    own, demos = batch.own.steps, batch.data.transition
    for number, env in enumerate(envs):
        for steps in (own, demos):
            at = (steps.observation[number].argmax(-1), steps.action[number])
            np.testing.assert_allclose(steps.reward[number], env.reward[at], atol=1e-6)
        flat = [x[number].reshape(-1, *x.shape[3:]) for x in (own.observation, own.action, own.extras["log_prob"])]
        np.testing.assert_allclose(agents[number].log_prob(state, *flat[:2]), flat[2], atol=1e-5)
    assert source.env_steps == 2 * 16 * 16 and metrics["episode/return"].count.shape == ()


def test_what_cannot_be_is_refused():
    env = task((0, 0))
    with pytest.raises(UserError, match="There is no task 2; num_tasks=2"):
        mt_csirl.make(env.spec, SMALL, 2)
    with pytest.raises(UserError, match="memory=4 must be 0"):
        mt_csirl.make(env.spec, SMALL.replace(memory=4))
    with pytest.raises(UserError, match="1 environments and 0 datasets do not make num_tasks=2"):
        mt_csirl.source([env], SMALL, [])
    with pytest.raises(UserError, match="of one kind"):
        mt_csirl.source([env, gridworld(3, 3)], SMALL, [None, None])
