"""The online decision transformer: its objective by hand, its entropy at its target, and it learns from what it does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rljax import train
from rljax.agents.sequence import odt
from rljax.data.dataset import Segment
from rljax.envs import probes
from rljax.errors import UserError
from rljax.evaluate import evaluate
from rljax.networks.policies import soft_policy
from rljax.types import Continuous, Discrete, EnvSpec, Transition

SMALL = odt.Config(
    learning_rate=1e-2, temperature_learning_rate=1e-2, warmup=1.0, return_scale=1.0, target_return=1.0, context=3,
    acting_context=2, num_layers=1, num_heads=1, width=16, dropout=0.0, batch_size=32, num_envs=8, rollout_length=3,
    num_updates=4, capacity=64,
)  # fmt: skip


def spec(continuous):
    return EnvSpec((1,), Continuous((2,)) if continuous else Discrete(3), 10)


def segment(continuous, size=4, seed=0):
    """Segments [size, 3], the first two of them padded."""
    rng = np.random.default_rng(seed)
    shape = (size, 3)
    action = rng.uniform(-0.9, 0.9, (*shape, 2)) if continuous else rng.integers(0, 3, shape)
    steps = Transition(
        observation=jnp.asarray(rng.normal(size=(*shape, 1)), jnp.float32),
        action=jnp.asarray(action, jnp.float32 if continuous else jnp.int32),
        reward=jnp.zeros(shape),
        terminated=jnp.zeros(shape, bool),
        truncated=jnp.zeros(shape, bool),
        next_observation=jnp.zeros((*shape, 1)),
    )
    mask = np.ones(shape, bool)
    mask[0, :2] = mask[1, :1] = False
    to_go = jnp.asarray(rng.normal(size=shape), jnp.float32)
    return Segment(steps, to_go, jnp.tile(jnp.arange(3), (size, 1)), jnp.asarray(mask))


@functools.cache
def built(continuous):
    """An agent, its state and its update, compiled once for many tests."""
    agent = odt.make(spec(continuous), SMALL)
    return agent, jax.jit(agent.init)(jax.random.key(0)), jax.jit(agent.update)


def outputs(state, batch, kind):
    steps = batch.transition
    apply = jax.jit(odt.Network(kind, SMALL).apply)
    return apply(state.policy.params, batch.return_to_go, steps.observation, steps.action, batch.time, batch.mask)


@pytest.mark.parametrize("continuous", [False, True])
def test_objective_by_hand(continuous):
    """Likelihood plus temperature times entropy, both over the steps there are; the dual moves by the gap of entropies alone."""
    kind, batch = spec(continuous), segment(continuous)
    _, state, update = built(continuous)
    _, metrics = update(state, batch, jax.random.key(1))
    output, mask = np.float64(outputs(state, batch, kind)), np.asarray(batch.mask)
    if continuous:
        mean, raw = np.split(output, 2, axis=-1)
        log_std = -5.0 + 3.5 * (np.tanh(raw) + 1.0)
        action = np.float64(batch.transition.action)
        z = (np.arctanh(action) - mean) / np.exp(log_std)
        log_prob = (-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi) - np.log(1 - action**2)).sum(-1)
        entropy = float(metrics["policy/entropy"])  # of one sample a step; its size is tested below
    else:
        log_probs = output - np.log(np.exp(output).sum(-1, keepdims=True))
        log_prob = np.take_along_axis(log_probs, np.asarray(batch.transition.action)[..., None], -1)[..., 0]
        entropy = -(np.exp(log_probs) * log_probs).sum(-1)[mask].mean()
        assert float(metrics["policy/entropy"]) == pytest.approx(entropy, rel=1e-5)
    assert float(metrics["policy/log_likelihood"]) == pytest.approx(log_prob[mask].mean(), rel=1e-4)
    assert float(metrics["loss/policy"]) == pytest.approx(-(log_prob[mask].mean() + 0.1 * entropy), rel=1e-4)
    assert float(metrics["policy/temperature"]) == pytest.approx(0.1)


def test_entropy_is_estimated_over_the_steps_that_are():
    """Against thousands of actions at each step; one at each of ten spreads by less than one."""
    kind, batch = spec(True), segment(True)
    _, state, update = built(True)
    estimates = [float(update(state, batch, jax.random.key(i))[1]["policy/entropy"]) for i in range(300)]
    policy = soft_policy(kind, outputs(state, batch, kind))
    entropy = -policy.sample_and_log_prob(seed=jax.random.key(2), sample_shape=(4000,))[1].mean(0)
    exact = float(np.asarray(entropy)[np.asarray(batch.mask)].mean())
    assert abs(np.mean(estimates) - exact) < 4.5 * np.std(estimates) / np.sqrt(300) < 0.3
    assert abs(float(entropy.mean()) - exact) > 0.0  # padding would have shown


def test_temperature_falls_above_the_target_and_rises_below():
    """By one step of Adam, whose gradient is temperature times (entropy - target)."""
    batch = segment(False)
    _, state, _ = built(False)

    @jax.jit
    @jax.vmap
    def update(share):
        agent = odt.make(spec(False), SMALL.replace(entropy_share=share))
        return agent.update(state, batch, jax.random.key(1))

    after, metrics = update(jnp.array([0.0, 1.0]))
    entropy = np.float64(metrics["policy/entropy"])
    assert (entropy > 0.0).all() and (entropy < np.log(3.0)).all()
    moved = after.temperature.params - np.log(0.1)
    np.testing.assert_allclose(moved, [-1e-2, 1e-2], rtol=1e-3)
    momentum = optax.tree_utils.tree_get(after.temperature.opt_state, "mu")  # a tenth of the gradient, after one step
    np.testing.assert_allclose(momentum, 0.1 * 0.1 * (entropy - [0.0, np.log(3.0)]), rtol=1e-4)


def test_padding_changes_nothing():
    batch = segment(False)
    _, state, update = built(False)
    fill = lambda x, value: jnp.where(batch.mask.reshape(4, 3, *[1] * (x.ndim - 2)), x, value)
    steps = batch.transition
    steps = steps.replace(observation=fill(steps.observation, 7.0), action=fill(steps.action, 2))
    other = batch.replace(transition=steps, return_to_go=fill(batch.return_to_go, -5.0))
    (one, loss), (two, same) = (update(state, x, jax.random.key(1)) for x in (batch, other))
    assert loss["loss/policy"] == pytest.approx(float(same["loss/policy"]), rel=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), one, two)


@pytest.mark.parametrize("target, explored", [(3.0, 6.0), (-3.0, 0.0)])
def test_exploring_asks_for_more(target, explored):
    """The first step asks for all of it; afterwards what was paid is taken off, and nothing is asked anew."""
    agent, (_, state, _) = odt.make(spec(False), SMALL.replace(target_return=target)), built(False)
    act = jax.jit(agent.act, static_argnums=4)
    memory = jax.tree.map(lambda x: jnp.asarray(x)[None], agent.memory)
    for explore, asked in ((True, explored), (False, target)):
        _, after, _ = act(state, jnp.zeros((1, 1)), memory, jax.random.key(1), explore)
        _, later, _ = act(state, jnp.zeros((1, 1)), agent.receive(after, jnp.ones(1)), jax.random.key(2), explore)
        assert after.return_to_go[0].tolist() == [0.0, asked]
        assert later.return_to_go[0].tolist() == [asked, asked - 1.0]


def test_it_learns_from_what_it_does_and_does_as_it_is_asked():
    """The action is judged by a cue seen a step before. It explores asking for more than there is, yet gets 1 or -1 as asked.

    There is room for all episodes, good or bad."""
    env = probes.Memory(delay=1)
    config = SMALL.replace(num_layers=2, width=32, capacity=1000, random_steps=400)
    learner = train.make(odt.make(env.spec, config), odt.source(env, config))
    state, metrics = jax.jit(lambda key: learner.run(learner.init(key), 60))(jax.random.key(0))

    def asking(target):
        agent = odt.make(env.spec, config.replace(target_return=target))
        return evaluate(env, agent, state.agent, jax.random.key(3), 64).returns.mean()

    np.testing.assert_allclose(jax.jit(jax.vmap(asking))(jnp.array([1.0, -1.0])), [1.0, -1.0], atol=0.05)
    assert float(metrics["episode/return"]) > 0.5  # exploring, over the whole of its training; at random it is 0


def test_entropy_comes_to_its_target():
    """Likelihood alone would have none of it, the data being one action; it stays where the constraint holds it."""
    batch = segment(False)
    batch = batch.replace(transition=batch.transition.replace(action=jnp.zeros((4, 3), jnp.int32)))
    agent = odt.make(spec(False), SMALL.replace(entropy_share=0.5, temperature_learning_rate=5e-2))

    @jax.jit
    def run(key):
        update = lambda state, key: agent.update(state, batch, key)
        return jax.lax.scan(update, agent.init(key), jax.random.split(key, 600))[1]

    metrics = run(jax.random.key(0))
    assert float(metrics["policy/entropy"][-200:].mean()) == pytest.approx(0.5 * np.log(3.0), abs=0.03)
    assert float(metrics["policy/temperature"][-1]) > 0.1


def test_it_begins_with_the_best_of_a_dataset(random_data):
    """Half of the 256 episodes of random actions are right: there is room for 16 of them."""
    env = probes.ObservationActionReward()
    made = odt.source(env, SMALL.replace(capacity=16), random_data(env, 8, 32))
    _, episodes = made.init(odt.make(env.spec, SMALL), jax.random.key(0))
    assert made.warmup_steps == 0 and episodes.episode_return[episodes.kept].tolist() == [1.0] * 16


def test_what_it_cannot_do_is_said():
    with pytest.raises(UserError, match="num_heads=3 must divide width=16"):
        odt.make(spec(False), SMALL.replace(num_heads=3))
