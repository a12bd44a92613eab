"""The decision transformer: acts as it was trained, ignores padding, and does as it is asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.sequence import dt
from rljax.data import dataset as dataset_lib
from rljax.data.collect import collect
from rljax.envs import make, probes
from rljax.errors import UserError
from rljax.evaluate import evaluate
from rljax.types import Discrete, EnvSpec

SMALL = dt.Config(
    learning_rate=3e-3, warmup=1.0, return_scale=1.0, context=4, num_layers=1, width=16, dropout=0.0, batch_size=64
)


@pytest.mark.parametrize("name", ["gymnax/CartPole-v1", "gymnax/Pendulum-v1"])
def test_acting_sees_what_learning_sees(name):
    """The actions of whole episodes are those the network gives on the same steps read from a dataset."""
    env = make(name)
    config = SMALL.replace(target_return=50.0, return_scale=10.0)
    agent = dt.make(env.spec, config)
    state = agent.init(jax.random.key(0))
    record = jax.jit(lambda state, key: collect(env, agent, state, key, 2, 60, False))
    data = dataset_lib.from_transitions(record(state, jax.random.key(1)))
    rows = jnp.arange(data.size)
    segment = dataset_lib.read_segments(data, rows, config.context)
    paid = data.episode_return[data.episode][:, None] - segment.return_to_go
    output = dt.Network(env.spec, config).apply(
        state.params, 50.0 - paid, segment.transition.observation, segment.transition.action, segment.time, segment.mask
    )[:, -1]
    if isinstance(env.spec.action, Discrete):
        np.testing.assert_array_equal(output.argmax(-1), data.transition.action)
        assert 0 < int(data.transition.action.sum()) < data.size or len(data.start) > 2
    else:
        np.testing.assert_allclose(output, data.transition.action, atol=1e-5)


def test_padding_changes_no_loss():
    """A loss over the steps there are: whatever stands in the padding, loss and step are the same."""
    spec = EnvSpec((1,), Discrete(2), 10)
    agent = dt.make(spec, SMALL)
    state = agent.init(jax.random.key(0))
    env = probes.Memory(delay=2)
    steps = jax.jit(lambda key: collect(env, dt.make(env.spec, SMALL), state_for(env), key, 4, 6, True))(
        jax.random.key(0)
    )
    data = dataset_lib.from_transitions(steps)
    segment = dataset_lib.read_segments(data, jnp.array([0, 1, 2, 4]), 4)
    assert not segment.mask.all()
    fill = lambda x, value: jnp.where(segment.mask.reshape(4, 4, *[1] * (x.ndim - 2)), x, value)
    other = segment.replace(
        transition=segment.transition.replace(
            observation=fill(segment.transition.observation, 7.0), action=fill(segment.transition.action, 1)
        ),
        return_to_go=fill(segment.return_to_go, -5.0),
    )
    update = jax.jit(agent.update)
    (one, loss), (two, same) = (update(state, batch, jax.random.key(1)) for batch in (segment, other))
    assert float(loss["loss/policy"]) == pytest.approx(float(same["loss/policy"]), rel=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), one.params, two.params)


def state_for(env):
    return dt.make(env.spec, SMALL).init(jax.random.key(0))


def test_loss_is_the_mean_over_steps_that_are():
    env = probes.Memory(delay=2)
    data = random_memory(env)
    segment = dataset_lib.read_segments(data, jnp.array([0, 2]), 4)
    state = state_for(env)
    _, metrics = jax.jit(dt.make(env.spec, SMALL).update)(state, segment, jax.random.key(1))
    steps = segment.transition
    logits = np.float64(
        dt.Network(env.spec, SMALL).apply(
            state.params, segment.return_to_go, steps.observation, steps.action, segment.time, segment.mask
        )
    )
    log_prob = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    taken = np.take_along_axis(log_prob, np.asarray(steps.action)[..., None], -1)[..., 0]
    expected = -taken[np.asarray(segment.mask)].mean()
    assert int(segment.mask.sum()) == 4 and float(metrics["loss/policy"]) == pytest.approx(expected, rel=1e-5)


def random_memory(env):
    from rljax.data.collect import uniform

    return dataset_lib.from_transitions(
        jax.jit(lambda key: collect(env, uniform(env), (), key, 64, 30, True))(jax.random.key(0))
    )


def test_it_does_as_it_is_asked_and_remembers(learn_offline):
    """The action is judged by a cue seen two steps before. Asked for 1 it gets 1, asked for -1 it gets -1."""
    env = probes.Memory(delay=2)
    for target in (1.0, -1.0):
        config = SMALL.replace(target_return=target, num_layers=2, width=32)  # one layer fetches, another compares
        agent, state = learn_offline(dt, config, env, random_memory(env), 75)
        episodes = jax.jit(lambda state, agent=agent: evaluate(env, agent, state, jax.random.key(3), 64))(state)
        assert float(episodes.returns.mean()) == pytest.approx(target, abs=0.05)


def test_what_is_paid_is_taken_off_the_return_asked_for():
    env = make("gymnax/CartPole-v1")
    agent = dt.make(env.spec, SMALL.replace(target_return=30.0))
    memory = jax.tree.map(lambda x: jnp.asarray(x)[None], agent.memory)
    memory = agent.receive(agent.receive(memory, jnp.ones(1)), jnp.ones(1))
    assert memory.left.tolist() == [28.0]


def test_what_it_cannot_do_is_said():
    with pytest.raises(UserError, match="num_heads=3 must divide width=16"):
        dt.make(EnvSpec((1,), Discrete(2), 10), SMALL.replace(num_heads=3))
    with pytest.raises(UserError, match="time limit"):
        dt.make(EnvSpec((1,), Discrete(2), None), SMALL)
