"""PEBBLE: who is asked what and when, what is learned from it, what SAC is paid; and stopping and going on changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs, train
from rljax.agents.online import sac
from rljax.agents.preference import pebble, reward_model
from rljax.errors import UserError
from rljax.losses import preference

SMALL = dict(
    hidden=(8,), batch_size=16, capacity=400, warmup=80, num_envs=2, rollout_length=2, pretraining=40, neighbour=2, among=32,
    segment=5, query_every=20, query_size=8, max_judgements=20, candidates=3, reward_hidden=(8,), reward_batch_size=8,
    reward_epochs=3, selection="disagreement",
)  # fmt: skip
ENV = envs.make("gymnax/Pendulum-v1")


@pytest.fixture(scope="module")
def learner():
    config = pebble.Config(**SMALL)
    return train.make(pebble.make(ENV.spec, config), pebble.source(ENV, config))


@pytest.fixture(scope="module")
def states(learner):
    """The run's states after 0, 1, ... 30 iterations of four steps each, and its metrics."""
    start = jax.jit(learner.init)(jax.random.key(0))
    step = jax.jit(learner.step)
    states, metrics = [start], []
    for _ in range(30):
        state, found = step(states[-1])
        states.append(state)
        metrics.append(found)
    return states, metrics


def test_the_budget_is_spent_on_schedule(states):
    """40 steps of exploring, then 8 at once, 8 after 20 steps, and the 4 that are left 20 steps later; no more."""
    states, metrics = states
    counts = [int(state.agent.count) for state in states]
    assert counts == [0] * 10 + [8] * 5 + [16] * 5 + [20] * 11
    asked = [float(found["preference/foretold"].count) for found in metrics]
    assert [i for i, count in enumerate(asked) if count] == [9, 14, 19]
    assert [asked[i] for i in (9, 14, 19)] == [8.0, 8.0, 4.0]  # no ties among real rewards
    weight = np.asarray(states[-1].agent.judged.weight)
    assert (weight == 1.0).all() and states[-1].agent.judged.mask.all()


def test_judgements_are_those_of_what_was_paid(states):
    """Pendulum's reward, worked out anew from the segments in numpy: the better one has rank 0. The agent was not told."""
    judged = jax.tree.map(np.asarray, states[0][-1].agent.judged)
    cosine, sine, velocity = np.moveaxis(judged.transition.observation, -1, 0)
    torque = 2.0 * np.clip(judged.transition.action[..., 0], -1.0, 1.0)
    paid = -(np.arctan2(sine, cosine) ** 2 + 0.1 * velocity**2 + 0.001 * torque**2)
    order = np.argsort(-paid.sum(-1), axis=1)
    np.testing.assert_array_equal(np.take_along_axis(judged.rank, order, 1), [[0, 1]] * 20)
    assert (judged.transition.reward == 0.0).all()


def test_the_reward_and_the_critics_change_when_somebody_answers(states):
    states, _ = states
    params = [state.agent.reward.params for state in states]
    changed = [i for i in range(30) if not same(params[i], params[i + 1])]
    assert changed == [9, 14, 19]
    jumps = [distance(a.agent.policy.target_critic, b.agent.policy.target_critic) for a, b in zip(states, states[1:])]
    assert np.argmax(jumps) == 9 and jumps[9] > 10 * np.delete(jumps, 9).max()  # begun anew, once


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


def distance(a, b):
    return float(sum(jnp.abs(x - y).sum() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))))


def next_batch(state, exploring):
    """A batch of a source whose progress is as wished."""
    config = pebble.Config(**SMALL)
    agent, source = pebble.make(ENV.spec, config), pebble.source(ENV, config)
    batch = jax.jit(lambda state: source.next(state.source, agent, state.agent, jax.random.key(1)))(state)[1]
    assert bool(batch.exploring) == exploring
    return agent, config, batch


def paid_sac(agent, config, state, batch, pay):
    """PEBBLE's update, and SAC's own on the same batch and key paid `pay`."""
    key = jax.random.key(2)
    found = jax.jit(agent.update)(state.agent, batch, key)[0].policy
    steps = batch.sample.transition.replace(reward=jnp.asarray(pay, jnp.float32))
    plain = sac.make(ENV.spec, config)
    expected = jax.jit(plain.update)(
        state.agent.policy, batch.sample.replace(transition=steps), jax.random.split(key)[1]
    )[0]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, expected)


def rewards_of(config):
    model = reward_model.networks(ENV.spec, reward_model.beside_policy(config))
    return lambda params, steps: model.reward(params, steps)[0]


def test_steps_are_paid_the_mean_of_the_ensemble_of_the_day(states):
    """Each member's network by itself; what the environment paid does not matter, however old the steps."""
    state = states[0][21]
    agent, config, batch = next_batch(state, False)
    steps = batch.sample.transition
    rewards = rewards_of(config)
    members = np.asarray(rewards(state.agent.reward.params, steps))
    assert members.shape == (3, 16) and np.abs(members).max() < 1.0
    np.testing.assert_allclose(agent.reward(state.agent, steps), members.mean(0), atol=1e-6)
    bribed = batch.replace(sample=batch.sample.replace(transition=steps.replace(reward=steps.reward + 100.0)))
    paid_sac(agent, config, state, bribed, members.mean(0))


def test_before_anybody_is_asked_steps_are_paid_for_being_new(states):
    """Logarithms of distances, over their standard deviation so far."""
    state = states[0][0]
    agent, config, batch = next_batch(state, True)
    far = np.log(np.asarray(batch.newness))
    assert np.isfinite(far).all() and far.std() > 0.0
    paid_sac(agent, config, state, batch, far / far.std())


def test_the_pairs_asked_about_are_the_ones_most_at_odds(states):
    """The second query, of the pairs that its source drew: more disagreement than pairs drawn blindly have in the mean."""
    state = states[0][14]
    config = pebble.Config(**SMALL | dict(candidates=40))
    rewards = rewards_of(config)

    def disagreement(selection):
        changed = config.replace(selection=selection)
        agent, source = pebble.make(ENV.spec, changed), pebble.source(ENV, changed)
        batch = jax.jit(lambda state: source.next(state.source, agent, state.agent, jax.random.key(3)))(state)[1]
        assert int(batch.asked) == 8
        scores = reward_model.scores(rewards(state.agent.reward.params, batch.judged.transition), batch.judged.mask)
        return np.asarray(jax.nn.sigmoid(scores[..., 0] - scores[..., 1])).std(0)

    assert disagreement("disagreement").min() > disagreement("uniform").mean()


def test_stopped_and_gone_on_is_never_stopped(learner, states):
    """To the bit, across the first two queries."""
    run = jax.jit(learner.run, static_argnums=1)
    whole, _ = run(states[0][5], 12)
    halves, _ = run(run(states[0][5], 6)[0], 6)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(bits(x), bits(y)), whole, halves)


def bits(x):
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)


def test_the_ensemble_learns_to_tell_what_it_was_told():
    """Plenty of epochs on twenty judgements: accuracy above the mark, which ends them; skipped ones teach nothing."""
    config = pebble.Config(**SMALL | dict(reward_epochs=400, reward_hidden=(32,), reward_learning_rate=1e-2))
    agent, source = pebble.make(ENV.spec, config), pebble.source(ENV, config)
    learner = train.make(agent, source)
    state, _ = jax.jit(learner.run, static_argnums=1)(jax.jit(learner.init)(jax.random.key(0)), 20)
    judged = state.agent.judged
    scores = agent.reward(state.agent, judged.transition).sum(-1)
    share, _ = jax.vmap(preference.agreement)(scores, judged.rank)
    assert float(state.agent.accuracy) > 0.97 and share.mean() > 0.9


def test_who_skips_all_teaches_nothing_and_several_updates_ask_once():
    config = pebble.Config(**SMALL | dict(num_updates=2)).replace(teacher_skip=1.0)  # Pendulum pays 0 at most
    learner = train.make(pebble.make(ENV.spec, config), pebble.source(ENV, config))
    start = jax.jit(learner.init)(jax.random.key(0))
    state, _ = jax.jit(learner.run, static_argnums=1)(start, 12)
    assert int(state.agent.count) == 8 and (state.agent.judged.weight == 0.0).all()
    assert same(start.agent.reward.params, state.agent.reward.params)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="num_steps=3 must be 1"):
        pebble.make(ENV.spec, pebble.Config(num_steps=3))
    with pytest.raises(UserError, match="no selection 'disagreements'"):
        pebble.make(ENV.spec, pebble.Config(selection="disagreements"))
