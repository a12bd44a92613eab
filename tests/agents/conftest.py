"""What tests of offline agents share: data of random actions, training on them, and small problems of imitation. What tests of
agents that write share: a small task, and a policy beside another one."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import train
from rljax.agents.alignment import writer
from rljax.data import dataset as dataset_lib
from rljax.data.collect import collect, uniform
from rljax.envs import tabular
from rljax.envs.tokens import Task, Verified
from rljax.tabular import solvers
from rljax.types import Sample, Transition


@pytest.fixture(scope="session")
def random_data():
    """(env, num_envs, length) -> Dataset of uniformly random actions."""

    def make(env, num_envs=32, length=64, seed=0):
        run = lambda key: collect(env, uniform(env), (), key, num_envs, length, True)
        return dataset_lib.from_transitions(jax.jit(run)(jax.random.key(seed)))

    return make


@pytest.fixture(scope="session")
def learn_offline():
    """(module, config, env, dataset, iterations) -> the agent, and its state after training with key 0."""

    def learn(module, config, env, dataset, iterations=500, seed=0):
        agent = module.make(env.spec, config)

        @jax.jit
        def run(dataset, key):
            learner = train.make(agent, module.source(env, config, dataset))
            return learner.run(learner.init(key), iterations)[0].agent

        return agent, run(dataset, jax.random.key(seed))

    return learn


@pytest.fixture(scope="session")
def optimal_q():
    """(mdp) -> Q* [S, A] by value iteration in numpy."""

    def solve(mdp):
        transition, reward, gamma = np.float64(mdp.transition), np.float64(mdp.reward), float(mdp.discount)
        q = np.zeros(reward.shape)
        for _ in range(500):
            q = reward + gamma * transition @ q.max(1)
        return q

    return solve


@pytest.fixture(scope="session")
def pairs_of_segments():
    """(advantage [S, A], count, seed) -> steps, first rows [count, 2] of pairs of segments of two steps from anywhere, unpaid, and
    the sums of their advantages [count, 2]."""

    def draw(advantage, count, seed=0):
        rng = np.random.default_rng(seed)
        states, actions = advantage.shape
        state, action = rng.integers(0, states, (count, 2, 2)), rng.integers(0, actions, (count, 2, 2))
        steps = Transition(
            observation=np.eye(states, dtype=np.float32)[state.reshape(-1)],
            action=action.reshape(-1).astype(np.int32),
            reward=np.zeros(state.size, np.float32),
            terminated=np.zeros(state.size, bool),
            truncated=np.tile([False, True], state.size // 2),
            next_observation=np.zeros((state.size, states), np.float32),
        )
        return steps, np.arange(0, state.size, 2).reshape(count, 2), advantage[state, action].sum(-1)

    return draw


class Matching(NamedTuple):
    """Two ways to behave in a deterministic MDP of 3 states and 2 actions that starts in the first, and their steps.

    expert, other: policies [S, A].  steps: (d [S, A]) -> transitions whose frequencies are d, to a thousandth.
    """

    transition: np.ndarray
    gamma: float
    expert: np.ndarray
    other: np.ndarray

    def occupancy(self, policy):
        """(1 - gamma) sum_t gamma^t P(s_t, a_t), [S, A]."""
        matrix = np.eye(3) - self.gamma * np.einsum("sa,sat->st", policy, self.transition)
        return (1 - self.gamma) * np.linalg.solve(matrix.T, np.eye(3)[0])[:, None] * policy

    def steps(self, occupancy):
        count = np.round(1000 * occupancy).astype(int).ravel()
        state, action = np.divmod(np.repeat(np.arange(6), count), 2)
        chosen = np.random.default_rng(0).integers(0, len(state), 1000 - len(state)) if len(state) < 1000 else []
        state, action = (
            np.append(state, state[chosen])[:1000].astype(int),
            np.append(action, action[chosen])[:1000].astype(int),
        )
        one_hot, no = np.eye(3, dtype=np.float32), np.zeros(1000, bool)
        return Transition(
            one_hot[state], action.astype(np.int32), np.zeros(1000, np.float32), no, no,
            one_hot[self.transition[state, action].argmax(-1)],
            {"first_observation": np.tile(one_hot[0], (1000, 1))},
        )  # fmt: skip

    def sample(self, occupancy, **extras):
        steps = self.steps(occupancy)
        steps = steps.replace(extras=steps.extras | extras)
        return Sample(steps, np.full(1000, self.gamma, np.float32), np.ones(1000, np.float32), np.arange(1000))


@pytest.fixture(scope="session")
def matching():
    successor = np.array([[1, 2], [0, 2], [1, 0]])
    expert = np.array([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    other = np.array([[0.4, 0.6], [0.6, 0.4], [0.45, 0.55]])
    return Matching(np.eye(3)[successor], 0.8, expert, other)


@pytest.fixture(scope="session")
def settle():
    """(agent, batch, updates) -> the state after so many updates on this one batch."""

    def run(agent, batch, updates):
        @jax.jit
        def learn(batch, key):
            init_key, key = jax.random.split(key)
            step = lambda state, key: agent.update(state, batch, key)
            return jax.lax.scan(step, agent.init(init_key), jax.random.split(key, updates))[0]

        return learn(batch, jax.random.key(0))

    return run


class OneShown(NamedTuple):
    """A gridworld, data of random actions in which one episode is a shortest path, that episode, and what cloning all is worth."""

    env: tabular.TabularMDP
    data: dataset_lib.Dataset
    demonstrations: dataset_lib.Dataset
    value_of_cloning: float

    def value(self, policy):
        """What a policy [S, A] earns from the start, discounted by the MDP."""
        env = self.env
        return float(env.start @ solvers.value(env.transition, env.reward, env.discount, policy))

    def learn(self, module, agent, config, iterations=400):
        """The agent's state after training on data and demonstrations."""

        @jax.jit
        def run(given, key):
            learner = train.make(agent, module.source(self.env, config, **given))
            return learner.run(learner.init(key), iterations)[0].agent

        return run({"dataset": self.data, "demonstrations": self.demonstrations}, jax.random.key(0))

    def policy(self, agent, state):
        states, num_actions = np.eye(self.env.start.shape[0]), self.env.reward.shape[1]
        columns = [agent.log_prob(state, states, jnp.full(len(states), a)) for a in range(num_actions)]
        return jnp.exp(jnp.stack(columns, -1))


@pytest.fixture(scope="session")
def one_shown(random_data):
    env = tabular.gridworld(5, 5, discount=0.95)
    state, action = np.array([0, 1, 2, 3, 4, 9, 14, 19]), np.array([1, 1, 1, 1, 2, 2, 2, 2], np.int32)
    one_hot, at_end = np.eye(25, dtype=np.float32), np.arange(8) == 7
    after = np.append(state[1:], 24)
    path = Transition(one_hot[state], action, np.float32(at_end), at_end, ~at_end & at_end, one_hot[after])
    demonstrations = dataset_lib.from_transitions(path)
    data = dataset_lib.joined([random_data(env, 32, 64), demonstrations])
    count = np.full((25, 4), 1e-9)
    np.add.at(count, (np.asarray(data.transition.observation).argmax(-1), np.asarray(data.transition.action)), 1.0)
    made = OneShown(env, data, demonstrations, 0.0)
    return made._replace(value_of_cloning=made.value(jnp.float32(count / count.sum(1, keepdims=True))))


@pytest.fixture(scope="session")
def two_signs():
    """(dense) -> two signs, each one of two, to be said as they are: four prompts, with 15 completions of at most three tokens."""
    task = Task(lambda key: jax.random.randint(key, (2,), 2, 4), lambda prompt: prompt, ("a", "b"))
    return lambda dense=False: Verified(task, dense)


@pytest.fixture(scope="session")
def two_policies():
    """(spec) -> the state of an agent that writes, of width 16 and one layer: a policy that is surer of some tokens than of others,
    and as its reference another one."""

    @functools.cache
    def begun(spec):
        rng, parts = np.random.default_rng(0), writer.make(spec, writer.Config(width=16, num_layers=1, num_heads=2))
        leaf = lambda x: jnp.float32((x.ndim == 1) + 0.3 * rng.normal(size=x.shape))  # scales about 1, matrices about 0
        draw = lambda: jax.tree.map(leaf, shape.model.params)
        shape = jax.eval_shape(parts.init, jax.random.key(0))
        opt_state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape.model.opt_state)
        return writer.State(shape.model._replace(params=draw(), opt_state=opt_state), draw())

    return begun
