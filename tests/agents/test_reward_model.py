"""Reward models whose scores depend on the order of steps: what they can tell that a sum cannot, and how they pay others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import rollout
from rljax.agents.preference import reward_model
from rljax.check import check_agent
from rljax.data import dataset as dataset_lib
from rljax.data import feedback as feedback_lib
from rljax.data.feedback import Judged
from rljax.envs import make
from rljax.envs.wrappers import Rewarded
from rljax.errors import UserError
from rljax.evaluate import agreement, scores
from rljax.losses import preference
from rljax.types import Agent, Continuous, EnvSpec, Transition

SPEC = EnvSpec((2,), Continuous((1,)), 4)
SMALL = reward_model.Config(
    learning_rate=3e-3,
    hidden=(16,),
    segment=4,
    num_models=2,
    units=8,
    head=(8,),
    width=16,
    num_heads=2,
    dropout=0.0,
    batch_size=128,
    num_updates=1,
)


def ordered(seed, count=400):
    """Pairs of four steps, in each of which a light is on once and a bell rings once: better is where the bell rang first. Any sum
    over steps tells nothing of it."""
    rng = np.random.default_rng(seed)
    when = np.stack([rng.permuted(np.arange(4))[:2] for _ in range(2 * count)]).reshape(count, 2, 2)
    when[:, 0].sort(-1)  # the light first
    when[:, 1] = -np.sort(-when[:, 1])
    turned = rng.random(count) < 0.5
    when[turned] = when[turned, ::-1]
    seen = (np.arange(4)[:, None] == when[:, :, None]).astype(np.float32)  # [P, 2, K, light and bell]
    label = 1.0 - turned
    flat = seen.reshape(-1, 2)
    end = np.tile(np.arange(4) == 3, 2 * count)
    action, zeros = np.zeros((len(flat), 1), np.float32), np.zeros(len(flat), np.float32)
    data = dataset_lib.from_transitions(Transition(flat, action, zeros, end, ~end & end, flat))
    start = 4 * np.arange(2 * count).reshape(count, 2)
    return data.replace(feedback=feedback_lib.pairs(start, np.full_like(start, 4), label))


@pytest.mark.parametrize("score", reward_model.SCORES)
def test_only_who_remembers_can_tell_the_order(score):
    """Of new pairs; to a sum both segments of each are worth the same."""
    config = SMALL.replace(score=score, learning_rate=1e-2, num_models=1, batch_size=64)
    agent = reward_model.make(SPEC, config)

    @jax.jit
    def run(data, held_out):
        source = reward_model.source(None, config, data)

        def step(state, key):
            draw_key, update_key = jax.random.split(key)
            return agent.update(state, source.next((), agent, state, draw_key)[1], update_key)

        state = agent.init(jax.random.key(0))
        state, metrics = jax.lax.scan(step, state, jax.random.split(jax.random.key(1), 150))
        judged = feedback_lib.read(held_out, jnp.arange(held_out.feedback.size), jax.random.key(0))
        return agreement(agent, state, held_out), scores(agent, state, judged), metrics["loss/reward"][-1]

    held_out = ordered(1)
    share, found, loss = run(ordered(0), held_out)
    if score == "sum":
        np.testing.assert_allclose(found[:, 0], found[:, 1], atol=1e-5)
        np.testing.assert_allclose(loss, np.log(2.0), rtol=1e-4)
    else:
        right = np.argmax(found, 1) == np.argmin(held_out.feedback.rank, 1)
        assert right.mean() > 0.98 and float(share) == pytest.approx(right.mean()) and loss < 0.5


def judged_batch():
    """Three judgements of two segments, of different lengths; what lies behind their ends is of no meaning."""
    rng = np.random.default_rng(0)
    shape, zeros = (3, 2, 4), jnp.zeros((3, 2, 4))
    seen, done = rng.normal(size=(*shape, 2)), rng.normal(size=(*shape, 1))
    steps = Transition(jnp.float32(seen), jnp.float32(done), zeros, zeros > 1, zeros > 1, jnp.float32(seen))
    mask = jnp.arange(4) < jnp.array([[4, 2], [1, 4], [3, 3]])[..., None]
    rank, weight = jnp.array([[0, 1], [1, 0], [0, 0]]), jnp.array([1.0, 0.5, 1.0])
    return Judged(steps, mask, rank, weight, jnp.zeros(3, jnp.int32))


@pytest.mark.parametrize("score", ["sum", "transformer"])
def test_an_update_by_hand(score):
    """The loss is that of the judgements under each network's scores; the agent's own score is the networks' mean."""
    agent, batch = reward_model.make(SPEC, SMALL.replace(score=score, bounded=False)), judged_batch()
    model = reward_model.networks(SPEC, SMALL.replace(score=score, bounded=False))

    @jax.jit
    def run(batch):
        state = agent.init(jax.random.key(0))
        rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (batch.transition, batch.mask))
        _, metrics = agent.update(state, batch, jax.random.key(1))
        return model.score(state.params, *rows).reshape(2, 3, 2), scores(agent, state, batch), metrics

    each, mean, metrics = jax.tree.map(np.asarray, run(batch))
    np.testing.assert_allclose(mean, each.mean(0), rtol=1e-5, atol=1e-6)
    gap = each[..., 1] - each[..., 0]
    worse, better = np.log1p(np.exp(gap)), np.log1p(np.exp(-gap))
    told = np.stack([worse[:, 0], 0.5 * better[:, 1], 0.5 * (worse + better)[:, 2]]).mean(0).sum()
    np.testing.assert_allclose(metrics["loss/reward"], told, rtol=1e-5)
    assert np.abs(each[0] - each[1]).max() > 1e-3
    share = preference.agreed(jnp.float32(each.mean(0)), batch.rank)["preference/agreement"]
    assert float(metrics["preference/agreement"]) == float(share)


def test_dropout_is_for_learning_alone():
    config = SMALL.replace(score="transformer", dropout=0.5)
    agent, batch = reward_model.make(SPEC, config), judged_batch()
    model = reward_model.networks(SPEC, config)

    @jax.jit
    def run(key):
        state = agent.init(jax.random.key(0))
        rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (batch.transition, batch.mask))
        return model.score(state.params, *rows, key), agent.score(state, *rows)

    (one, plain), (other, same) = run(jax.random.key(1)), run(jax.random.key(2))
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_array_equal(plain, same)


def test_data_and_environments_are_paid_alike():
    """What steps in the environment are paid is what the same steps are paid as data: each episode from its start on."""
    env = make("rljax/KeyTreasure?episode_length=7")
    config = SMALL.replace(score="recurrent")
    agent = reward_model.make(env.spec, config)
    state = jax.jit(agent.init)(jax.random.key(0))
    paid = Rewarded(env, state, agent.reward, agent.reward_memory)
    idle = Agent(init=lambda key: (), act=None, update=None)
    act = lambda observation, memory, key: (jax.random.uniform(key, (3, 2), minval=-1.0), memory, {})
    start = rollout.start(paid, idle, 3, jax.random.key(1))
    unroll = jax.jit(lambda: rollout.unroll(paid, act, (), start, jax.random.key(2), 17)[1].steps)
    steps = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), unroll())
    flat = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), steps)
    last = np.tile(np.arange(17) == 16, 3)
    data = dataset_lib.from_transitions(flat.replace(truncated=flat.truncated | last, reward=np.zeros(51, np.float32)))
    assert data.length.tolist() == [7, 7, 3] * 3
    pay = jax.jit(lambda data: dataset_lib.paid(data, lambda *x: agent.reward(state, *x), 4, agent.reward_memory))
    found = pay(data)
    np.testing.assert_allclose(found.transition.reward, flat.reward, atol=1e-5)
    np.testing.assert_allclose(found.return_to_go[7], flat.reward[7:14].sum(), atol=1e-5)
    assert np.ptp(flat.reward) > 1e-4
    check_agent(agent, env, reward_model.source(env, config, data.replace(feedback=ordered(0, 2).feedback)))


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="no score 'reccurent'; nearest: recurrent"):
        reward_model.make(SPEC, SMALL.replace(score="reccurent"))
    with pytest.raises(UserError, match="num_heads=3 must divide width=16"):
        reward_model.make(SPEC, SMALL.replace(score="transformer", num_heads=3))
