"""What batches are made of where agents that learn from data go on in the environment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import sources, train
from rljax.agents.offline import awac, cql, iql, sac_n, td3_bc
from rljax.data import dataset as dataset_lib
from rljax.data.collect import collect, uniform
from rljax.envs import probes
from rljax.errors import UserError

ONLINE = dict(
    online=True,
    data_share=0.25,
    gamma=0.9,
    num_envs=4,
    capacity=400,
    warmup=36,
    hidden=(16,),
    batch_size=32,
    num_updates=2,
)
CONFIGS = {
    iql: iql.Config(**ONLINE),
    awac: awac.Config(**ONLINE),
    cql: cql.Config(calibrate=True, outcome_steps=4, **ONLINE),
    sac_n: sac_n.Config(**ONLINE),
    td3_bc: td3_bc.Config(**ONLINE),
}


@pytest.fixture(scope="module")
def marked():
    """Random actions in an environment of two steps that pay 0 and 1; 100 more in the data."""
    env = probes.TwoStepCredit(continuous=True)
    steps = jax.jit(lambda key: collect(env, uniform(env), (), key, 4, 8, True))(jax.random.key(0))
    return env, dataset_lib.from_transitions(steps.replace(reward=steps.reward + 100.0))


@pytest.mark.parametrize("module", CONFIGS, ids=lambda module: module.__name__.rpartition(".")[-1])
def test_so_much_of_every_part_of_a_batch_is_of_the_data(module, marked):
    env, data = marked
    config = CONFIGS[module]
    agent, source = module.make(env.spec, config), module.source(env, config, data)
    assert source.env_steps == 4 and source.warmup_steps == 36 and source.num_batches == 2

    @jax.jit
    def first(key):
        state = source.init(agent, key)
        batch = source.next(state, agent, agent.init(key), key)[1]
        return batch, agent.update(agent.init(key), jax.tree.map(lambda x: x[0], batch), key)[1]

    batch, metrics = first(jax.random.key(1))
    of_data = np.asarray(batch.transition.reward > 50.0)
    parts = config.policy_delay if module is td3_bc else 1
    assert of_data.shape == (2, 32 * parts)
    np.testing.assert_array_equal(of_data.reshape(2, -1, 16).mean(-1), 0.25)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics))
    if module is cql:  # 0 and 1 were earned from the first step, 1 from the second; 100 more of each in the data
        time = np.asarray(batch.transition.observation[..., 0])
        earned = np.where(time == 0.0, 0.9 + of_data * 190.0, 1.0 + of_data * 100.0)
        np.testing.assert_allclose(batch.transition.extras["outcome"], earned, rtol=1e-5)


def test_without_online_all_is_of_the_data(marked):
    env, data = marked
    config = iql.Config(**ONLINE | {"online": False})
    source, agent = iql.source(env, config, data), iql.make(env.spec, config)
    _, batch, _ = source.next((), agent, None, jax.random.key(0))
    assert source.env_steps == 0 and (batch.transition.reward > 50.0).all()


def test_values_come_from_both():
    """Its own steps and the data say the same: were one of them cut off or marked with the other's ends, values would differ."""
    env = probes.TwoStepCredit(continuous=True)
    config = iql.Config(**ONLINE | {"learning_rate": 3e-3, "data_share": 0.5, "batch_size": 64}, target_rate=0.05)

    steps = jax.jit(lambda key: collect(env, uniform(env), (), key, 32, 64, True))(jax.random.key(0))
    data = dataset_lib.from_transitions(steps)

    @jax.jit
    def run(data, key):
        learner = train.make(iql.make(env.spec, config), iql.source(env, config, data))
        return learner.run(learner.init(key), 1000)[0].agent

    state = run(data, jax.random.key(0))
    value = iql.networks(env.spec, config)[1].apply(state.value.params, jnp.array([[0.0], [1.0]]))
    np.testing.assert_allclose(np.ravel(value), [0.9, 1.0], atol=0.05)


def test_a_share_that_leaves_nothing_is_refused(marked):
    env, data = marked
    for share in (0.0, 0.001, 1.0):
        with pytest.raises(UserError, match=f"data_share={share} of a batch of 32 leaves nothing"):
            sources.of_data(env, CONFIGS[iql].replace(data_share=share), data)
