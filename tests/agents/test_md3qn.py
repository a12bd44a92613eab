"""MD3QN: its loss by numpy, and laws of two returns together against exact ones, however they are correlated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import train
from rljax.agents.distributional import md3qn
from rljax.agents.offline import iql
from rljax.agents.online import dqn
from rljax.check import check_agent
from rljax.envs import forks
from rljax.networks import heads
from rljax.tabular import return_laws
from rljax.types import Continuous, Discrete, EnvSpec, Sample, Transition

SMALL = dict(num_atoms=16, hidden=(32,), learning_rate=3e-3, target_period=10, gamma=0.9)
WIDTHS = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 16.0])


def all_steps(env):
    """Each transition of a finite MDP once, weighing as much as it is likely."""
    mdp = env.mdp
    state, action, after = np.nonzero(np.asarray(mdp.transition) * ~np.asarray(mdp.terminal)[:, None, None])
    one_hot, ended = np.eye(len(mdp.start), dtype=np.float32), np.asarray(mdp.terminal)[after]
    steps = Transition(
        one_hot[state], action.astype(np.int32), np.asarray(mdp.reward)[state, action], ended, ended & False,
        one_hot[after], {"rewards": np.asarray(env.rewards)[state, action]},
    )  # fmt: skip
    weight = np.asarray(mdp.transition)[state, action, after]
    discount = np.float32(0.9 * ~ended)
    return jax.tree.map(jnp.asarray, Sample(steps, discount, weight, np.arange(len(state))))


def mmd(x, y, probs):
    """V-statistic: all pairs, each particle with itself as well."""
    kernel = lambda a, b: np.exp(-np.square(a[:, None] - b).sum(-1)[..., None] / WIDTHS).sum(-1)
    own = np.full(len(x), 1 / len(x))
    return own @ kernel(x, x) @ own - 2 * own @ kernel(x, y) @ probs + probs @ kernel(y, y) @ probs


def moments(atoms, probs):
    mean = probs @ atoms
    return mean, (probs[:, None] * (atoms - mean)).T @ (atoms - mean)


@pytest.mark.parametrize("double", [False, True])
def test_loss_by_numpy(double):
    """Targets are r + gamma Z(s', a*) by vectors, a* the best by the mean of the sum, of either network."""
    env, config = forks.forks(length=2), md3qn.Config(**SMALL, double=double, prioritised=True, reward_scale=2.0)
    agent, batch = md3qn.make(env.spec, config), all_steps(env)
    state = agent.init(jax.random.key(0))
    other = agent.init(jax.random.key(1)).target
    _, metrics = jax.jit(agent.update)(state._replace(target=other), batch, jax.random.key(0))
    network, steps = dqn.q_network(env.spec, config), batch.transition
    atoms = lambda params, x: np.float64(network.apply(params, x).values).reshape(len(x), 2, 16, 2)
    after = atoms(other, steps.next_observation)
    selector = atoms(state.q.params, steps.next_observation) if double else after
    best = selector.sum(-1).mean(-1).argmax(-1)
    rows = np.arange(len(best))
    target = (
        2.0 * np.float64(steps.extras["rewards"])[:, None]
        + np.float64(batch.discount)[:, None, None] * after[rows, best]
    )
    taken = atoms(state.q.params, steps.observation)[rows, steps.action]
    losses = np.array([mmd(x, y, np.full(16, 1 / 16)) for x, y in zip(taken, target)])
    np.testing.assert_allclose(metrics["priority"], losses, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(metrics["loss/q"], (np.float64(batch.weight) * losses).mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["q/mean"], taken.sum(-1).mean(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("apart, best", [(0.8, 0), (1.3, 1)])
def test_joint_laws_are_the_exact_ones(apart, best):
    """At the first of two forks, followed by the better way at the second: what comes together is correlated positively, what
    excludes the other negatively, and one after the other hardly at all."""
    env = forks.forks(length=2, apart=apart)
    config = md3qn.Config(**SMALL)
    agent, batch = md3qn.make(env.spec, config), all_steps(env)
    step = lambda state, key: (agent.update(state, batch, key)[0], ())
    keys = jax.random.split(jax.random.key(0), 2_000)
    state = jax.jit(lambda keys: jax.lax.scan(step, agent.init(keys[0]), keys)[0])(keys)
    observation = jnp.eye(11)[:1]
    output = dqn.q_network(env.spec, config).apply(state.q.params, observation)
    law = dqn.law(config, output, num_rewards=2)
    greedy, _, _ = agent.act(state, observation, (), jax.random.key(0), False)
    assert greedy[0] == best

    policy = np.tile(np.eye(2)[best], (11, 1))
    laws = return_laws.joint(np.float64(env.mdp.transition), np.float64(env.rewards), 0.9, policy, 4)
    correlations = []
    for action in range(2):
        atoms, probs = (np.asarray(x[0, action]) for x in law)
        mean, covariance = moments(*laws[0][action])
        found = moments(atoms, probs)
        np.testing.assert_allclose(found[0], mean, atol=0.02)
        np.testing.assert_allclose(found[1], covariance, atol=0.02)
        assert mmd(atoms, *laws[0][action]) < 1e-3 < 0.1 < mmd(mean[None], *laws[0][action])
        correlations.append(found[1][0, 1] / np.sqrt(np.diag(found[1])).prod())
    np.testing.assert_allclose(correlations, [1.0, 0.01] if best == 0 else [-0.05, -1.0], atol=0.05)


def test_from_its_own_steps():
    """Through the replay, over three steps: the better way, and what its returns are worth."""
    env = forks.forks(length=2, apart=1.6)
    config = md3qn.Config(
        **SMALL, num_steps=3, num_envs=8, batch_size=64, capacity=4_000, warmup=800, exploration_steps=1e9
    )
    agent, source = md3qn.make(env.spec, config), md3qn.source(env, config)
    check_agent(agent, env, source)
    learner = train.make(agent, source)
    state = jax.jit(lambda key: learner.run(learner.init(key), 400)[0])(jax.random.key(0))
    observation = jnp.eye(11)[jnp.array([0, 5])]  # the forks
    law = dqn.law(config, dqn.q_network(env.spec, config).apply(state.agent.q.params, observation), 2)
    greedy, _, _ = agent.act(state.agent, observation, (), jax.random.key(0), False)
    assert greedy.tolist() == [1, 1]
    mean, covariance = moments(np.asarray(law.atoms[1, 1]), np.asarray(law.probs[1, 1]))  # of (1.44, 0) and (0, 1.44)
    np.testing.assert_allclose(mean, [0.72, 0.72], atol=0.12)
    np.testing.assert_allclose(covariance, 0.5184 * np.array([[1, -1], [-1, 1]]), atol=0.12)


def test_one_reward_is_a_law_of_one_number():
    """Without rewards told apart it learns as MMD-DQN does, with the head's own widths."""
    spec, yes = EnvSpec((1,), Discrete(1)), jnp.ones(2, bool)
    config = md3qn.Config(**SMALL)
    agent = md3qn.make(spec, config)
    steps = Transition(jnp.ones((2, 1)), jnp.zeros(2, jnp.int32), jnp.array([-1.0, 1.0]), yes, ~yes, jnp.ones((2, 1)))
    batch = Sample(steps, jnp.zeros(2), jnp.ones(2), jnp.arange(2))
    step = lambda state, key: (agent.update(state, batch, key)[0], ())
    keys = jax.random.split(jax.random.key(0), 800)
    state = jax.jit(lambda keys: jax.lax.scan(step, agent.init(keys[0]), keys)[0])(keys)
    law = dqn.law(config, dqn.q_network(spec, config).apply(state.q.params, jnp.ones((1, 1))))
    assert law.atoms.shape == (1, 1, 16, 1)
    np.testing.assert_allclose(np.sort(law.atoms.ravel()), np.repeat([-1.0, 1.0], 8), atol=0.2)


def test_what_cannot_be_is_refused():
    env = forks.forks()
    with pytest.raises(ValueError, match="'joint' has no munchausen and no one_step"):
        md3qn.make(env.spec, md3qn.Config(one_step=True))
    with pytest.raises(ValueError, match="The head 'joint' learns several rewards together, as DQN can"):
        iql.make(EnvSpec((1,), Continuous((1,))), iql.Config(head="joint"))
    with pytest.raises(ValueError, match="nearest"):
        heads.of(md3qn.Config(head="jont"), num_rewards=2)
