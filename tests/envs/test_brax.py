"""The brax adapter, on the spring backend: the others take longer to compile and go through the same lines."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rljax import rollout
from rljax.envs import make
from rljax.types import Agent, EnvSpec


@functools.cache
def collect():
    """Two pendulums, 32 steps with a limit of 8 and a constant push: one compilation for the tests below."""
    env = make("brax/inverted_pendulum?episode_length=8")
    agent = Agent(init=lambda key: (), act=None, update=None)
    act = lambda observation, memory, key: (jnp.full((len(observation), 1), 0.2), memory, {})

    @jax.jit
    def run(key):
        return rollout.unroll(env, act, (), rollout.start(env, agent, 2, key), key, 32)

    return run(jax.random.key(0))[1].steps


def test_the_time_limit_truncates():
    steps = collect()
    assert steps.truncated[:, 0].tolist() == ([False] * 7 + [True]) * 4
    assert not steps.terminated.any()


def test_the_last_observation_survives_and_starts_are_fresh():
    steps = collect()
    ends = np.array([7, 15, 23])
    going_on = np.setdiff1d(np.arange(31), ends)
    np.testing.assert_array_equal(steps.next_observation[going_on], steps.observation[going_on + 1])
    starts = np.concatenate([steps.observation[:1], steps.observation[ends + 1]])  # [4, 2, 4]
    assert np.abs(starts).max() <= 0.01
    assert (np.abs(steps.next_observation[ends]).max(-1) > 0.05).all()  # eight pushes later
    # Resets are dear, so an unroll prepares a pool, here of two for six new episodes, and deals it out in turn.
    assert make("brax/inverted_pendulum").spec.costly_reset
    assert len(np.unique(starts.reshape(-1, 4), axis=0)) == 4
    assert (starts[1] != starts[0]).any(-1).all()


def test_falling_terminates_actions_are_clipped_and_gravity_is_vmapped():
    env = make("brax/inverted_pendulum?episode_length=200")
    assert env.spec == EnvSpec((4,), env.spec.action, 200, costly_reset=True)

    def play(gravity, action):
        changed = env.replace(sys=env.sys.tree_replace({"gravity": jnp.array([0.0, 0.0, gravity])}))

        def step(state, key):
            return changed.step(state, jnp.full((1,), action), key)

        state, _ = changed.reset(jax.random.key(3))
        return jax.lax.scan(step, state, jax.random.split(jax.random.key(0), 60))[1]

    steps = jax.jit(jax.vmap(play))(jnp.array([-9.81, -9.81, -1.0, -9.81]), jnp.array([1.0, 5.0, 1.0, 0.0]))
    pushed, pushed_more, light, left_alone = (jax.tree.map(lambda x, i=i: x[i], steps) for i in range(4))
    np.testing.assert_array_equal(pushed.terminated, np.abs(pushed.observation[:, 1]) > 0.2)
    assert pushed.terminated[-1] and not pushed.terminated[0] and not pushed.truncated.any()
    np.testing.assert_array_equal(pushed.observation, pushed_more.observation)
    assert np.abs(pushed.observation[5] - left_alone.observation[5]).max() > 1e-2
    assert np.abs(pushed.observation[5] - light.observation[5]).max() > 1e-3


def test_stepping_leaves_the_state_as_it_was():
    """brax writes into the dictionaries of a state; an environment here must not."""
    env = make("brax/reacher")

    def unchanged(key):
        state, _ = env.reset(key)
        before = dict(state.brax.metrics)
        after, following = env.step(state, jnp.zeros(2), key)
        assert all(state.brax.metrics[name] is before[name] for name in before)
        assert set(following.info) == set(before) and following.info is not after.brax.metrics
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), after)

    jax.eval_shape(unchanged, jax.random.key(0))
