"""What tests of offline agents share: data of random actions, and training on them."""

import jax
import numpy as np
import pytest

from rljax import train
from rljax.data import dataset as dataset_lib
from rljax.data.collect import collect, uniform


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
