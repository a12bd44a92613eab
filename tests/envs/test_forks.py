"""Forks: what each source pays, by hand and under wrappers, and the law of all returns together against episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.distributional import md3qn
from rljax.agents.online import dqn, ppo
from rljax.agents.sequence import udrl
from rljax.check import check_agent, check_env
from rljax.envs import forks, make, wrappers
from rljax.envs.tabular import TabularState
from rljax.errors import UserError
from rljax.record import record
from rljax.tabular import return_laws


def exact(env, policy):
    """Laws [S][A] until the end."""
    mdp = env.mdp
    arrays = np.float64(mdp.transition), np.float64(env.rewards)
    return return_laws.joint(*arrays, float(mdp.discount), policy, mdp.episode_length)


def moments(atoms, probs):
    """Means [D] and covariances [D, D]."""
    mean = probs @ atoms
    return mean, (probs[:, None] * (atoms - mean)).T @ (atoms - mean)


def test_steps_by_hand():
    env = make("rljax/Forks?length=1&num_rewards=3&apart=0.5")
    check_env(env)
    assert env.spec.num_rewards == 3 and env.spec.episode_length == 2
    pays = [[0, 0, 0], [1, 1, 1], [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]  # fork, all, none, each alone
    for index, expected in enumerate(pays):
        _, step = env.step(TabularState(jnp.int32(index), jnp.int32(0)), jnp.int32(0), jax.random.key(0))
        np.testing.assert_allclose(step.info["rewards"], expected)
        np.testing.assert_allclose(step.reward, sum(expected))
        assert step.terminated == (index > 0)
    at_fork = TabularState(jnp.int32(0), jnp.int32(0))
    step = jax.jit(jax.vmap(lambda action, key: env.step(at_fork, action, key)[1].observation.argmax(), (None, 0)))
    for action, rooms in ((0, [1, 2]), (1, [3, 4, 5])):
        found = np.bincount(step(action, jax.random.split(jax.random.key(0), 3_000)), minlength=7) / 3_000
        np.testing.assert_allclose(found[rooms], 1 / len(rooms), atol=0.03)


def test_the_joint_law_of_one_fork():
    """Paid one step late, with 0.9."""
    laws = exact(forks.forks(length=1), np.full((6, 2), 0.5))
    as_sets = lambda law: {tuple(np.round(atom, 6)): round(prob, 6) for atom, prob in zip(*law)}
    assert as_sets(laws[0][0]) == {(0.9, 0.9): 0.5, (0.0, 0.0): 0.5}
    assert as_sets(laws[0][1]) == {(0.72, 0.0): 0.5, (0.0, 0.72): 0.5}
    assert as_sets(laws[3][1]) == {(0.8, 0.0): 1.0}


def test_the_joint_law_against_episodes():
    env = forks.forks(length=2, num_rewards=2)
    policy = np.full((11, 2), [0.3, 0.7])
    laws = exact(env, policy)

    @jax.jit
    @jax.vmap
    def episode(key):
        start_key, *keys = jax.random.split(key, 5)

        def step(state, key):
            action_key, step_key = jax.random.split(key)
            action = (jax.random.uniform(action_key) < 0.7).astype(jnp.int32)
            state, step = env.step(state, action, step_key)
            return state, (action, step.info["rewards"])

        _, (actions, rewards) = jax.lax.scan(step, env.reset(start_key)[0], jnp.stack(keys))
        return actions[0], 0.9 ** jnp.arange(4) @ rewards

    first, returns = (np.asarray(x) for x in episode(jax.random.split(jax.random.key(0), 20_000)))
    for action in range(2):
        mean, covariance = moments(*laws[0][action])
        found = returns[first == action]
        np.testing.assert_allclose(found.mean(0), mean, atol=0.02)
        np.testing.assert_allclose(np.cov(found.T), covariance, atol=0.01)
        assert len(laws[0][action][0]) == 8  # two rooms, then two of either kind


@pytest.mark.parametrize("module", [dqn, ppo, udrl, md3qn])
def test_agents_of_all_kinds_of_sources_take_it(module):
    """Whether they learn of the sources or of their sum alone."""
    env, config = forks.forks(), module.Config()
    check_agent(module.make(env.spec, config), env, module.source(env, config))


@record
class Paid:
    """What an agent has learned that a step is worth: 5."""

    @staticmethod
    def reward(state, steps):
        return jnp.full_like(steps.reward, 5.0)


def test_wrappers_keep_rewards_and_their_sum_in_step():
    env = forks.forks(length=2)
    repeated = wrappers.ActionRepeat(env, 4)
    check_env(repeated)
    assert repeated.spec.num_rewards == 2
    _, step = repeated.step(
        env.reset(jax.random.key(0))[0], jnp.int32(1), jax.random.key(1)
    )  # two rooms, each pays one
    np.testing.assert_allclose(step.info["rewards"].sum(), 1.6, rtol=1e-6)
    np.testing.assert_allclose(step.reward, 1.6, rtol=1e-6)
    rewarded = wrappers.Rewarded(env, (), Paid.reward)
    check_env(rewarded)
    assert rewarded.spec.num_rewards == 1  # what was paid instead has one source
    _, step = rewarded.step(rewarded.reset(jax.random.key(0))[0], jnp.int32(1), jax.random.key(1))
    assert step.reward == 5.0 and "rewards" not in step.info


def test_an_environment_that_does_not_tell_is_refused():
    class Silent(forks.Forks):
        def step(self, state, action, key):
            following, step = self.mdp.step(state, action, key)
            return following, step

    env = forks.forks()
    with pytest.raises(UserError, match=r"info\['rewards'\] must have the shape \(2,\)"):
        check_env(Silent(env.mdp, env.rewards))
    with pytest.raises(UserError, match="two rewards or more, not 2 and 1"):
        make("rljax/Forks?num_rewards=1")
