"""The loop: what it does in an iteration, and that stopping and going on changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax import envs, train
from rljax.agents.online import ppo
from rljax.metrics import Average, average, reduce
from rljax.types import Agent, Source


def counting_source(num_batches=1):
    """Batches are 0, 1, 2, ...; feedback adds up the priorities."""

    def next_batch(state, agent, agent_state, key):
        count, total = state
        batch = count if num_batches == 1 else count + jnp.arange(num_batches)
        return (count + num_batches, total), batch, {"source/count": count.astype(jnp.float32)}

    return Source(
        init=lambda agent, key: (jnp.int32(0), jnp.float32(0.0)),
        next=next_batch,
        feedback=lambda state, batch, priority: (state[0], state[1] + priority),
        num_batches=num_batches,
    )


SUMMING = Agent(
    init=lambda key: jnp.int32(0),
    act=lambda state, observation, memory, key, explore: (observation, memory, {}),
    update=lambda state, batch, key: (state + batch, {"batch": batch.astype(jnp.float32), "priority": 0.5 * batch}),
)


def test_batches_come_in_turn_and_priorities_go_back():
    for num_batches in (1, 3):
        learner = train.make(SUMMING, counting_source(num_batches))
        state, metrics = learner.run(learner.init(jax.random.key(0)), 4)
        seen = np.arange(4 * num_batches)
        assert state.agent == seen.sum() and state.iteration == 4
        assert state.source[1] == 0.5 * seen.sum()
        assert set(metrics) == {"batch", "source/count"}  # the priorities are not a metric
        np.testing.assert_allclose(metrics["batch"], seen.mean())


def test_updates_have_keys_of_their_own():
    noise = Agent(lambda key: jnp.zeros((0,)), None, lambda state, batch, key: (state, {"x": jax.random.uniform(key)}))
    learner = train.make(noise, counting_source(3)._replace(feedback=None))
    _, a = learner.step(learner.init(jax.random.key(0)))
    state, _ = learner.step(learner.init(jax.random.key(0)))
    _, b = learner.step(state)
    assert a["x"] != b["x"]


def test_run_is_its_halves_to_the_bit():
    env, config = envs.make("gymnax/CartPole-v1"), ppo.Config(num_envs=4, rollout_length=16, hidden=(8,))
    learner = train.make(ppo.make(env.spec, config), ppo.source(env, config))
    run = jax.jit(learner.run, static_argnums=1)
    start = jax.jit(learner.init)(jax.random.key(3))
    whole, _ = run(start, 6)
    half, _ = run(start, 3)
    halves, _ = run(half, 3)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(numbers(x), numbers(y)), whole, halves)
    again, _ = run(start, 6)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(numbers(x), numbers(y)), whole, again)
    other, _ = run(jax.jit(learner.init)(jax.random.key(4)), 6)
    assert numbers(other.key).tolist() != numbers(whole.key).tolist()


def numbers(x):
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)


def test_averages_weigh_by_what_was_counted():
    metrics = {"loss": jnp.array([1.0, 3.0]), "return": Average(jnp.array([10.0, 2.0]), jnp.array([5.0, 1.0]))}
    reduced = reduce(metrics)
    np.testing.assert_allclose(reduced["loss"], 2.0)
    np.testing.assert_allclose(reduced["return"], 2.0)  # 12 over 6, not the mean of 2 and 2 by chance:
    np.testing.assert_allclose(reduce({"x": Average(jnp.array([9.0, 1.0]), jnp.array([1.0, 3.0]))})["x"], 2.5)


def test_nothing_counted_is_nan_and_masked_values_do_not_leak():
    nothing = average(jnp.array([jnp.inf, 2.0]), jnp.array([False, False]))
    assert np.isnan(reduce(jax.tree.map(lambda x: x[None], {"x": nothing}))["x"])
    some = average(jnp.array([jnp.nan, 2.0]), jnp.array([False, True]))
    np.testing.assert_allclose([some.total, some.count], [2.0, 1.0])
