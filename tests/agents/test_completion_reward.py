"""A reward of completions: its likelihood and its ensembles by hand, its judge, and that it orders what it has not seen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs
from rljax.agents.alignment import completion_reward
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.networks import language_model
from rljax.networks.language_model import LanguageModel
from rljax.types import Transition

ENV = envs.make("tokens/copy-2?dense=true")
SMALL = dict(width=16, num_layers=1, num_heads=2, num_models=3, group_size=3)
NETWORK = LanguageModel(ENV.spec.action.vocabulary, 16, 1, 2, outputs=1)
PROMPT = jnp.array([[5, 3, 12], [0, 4, 12], [7, 7, 12]], jnp.int32)
TOKENS = jnp.array(
    [[[5, 3, 1], [4, 1, 0], [1, 0, 0]], [[6, 6, 6], [2, 9, 1], [3, 1, 0]], [[3, 3, 3], [3, 1, 0], [1, 0, 0]]], jnp.int32
)
REWARD = jnp.array([[1.0, 0.5, 0.5], [0.0, 2.0, 1.0], [0.3, 0.3, 0.3]])
BATCH = Completions(PROMPT, TOKENS, jnp.zeros((3, 3, 3)), REWARD)


@functools.cache
def made(**changes):
    agent = completion_reward.make(ENV.spec, completion_reward.Config(**SMALL | changes))
    return agent, jax.jit(agent.init)(jax.random.key(0))


def scores(params, batch=BATCH):
    """[M, B] of all networks."""
    score = lambda params: language_model.completion_score(NETWORK, params, *batch.flat())
    return np.float64(jax.jit(jax.vmap(score))(params))


def test_its_likelihood_by_hand():
    """All pairs of a group that were not paid the same, the mean over groups that have one; the networks learn each by itself."""
    agent, state = made()
    after, metrics = jax.jit(agent.update)(state, BATCH, jax.random.key(1))
    found = scores(state.reward.params).reshape(3, 3, 3)
    pairs = {0: [(0, 1), (0, 2)], 1: [(1, 0), (2, 0), (1, 2)]}
    losses = [[np.log1p(np.exp(s[q, j] - s[q, i])) for i, j in p] for s in found for q, p in pairs.items()]
    assert float(metrics["loss/reward"]) == pytest.approx(np.mean([np.mean(x) for x in losses]), rel=1e-5)
    assert metrics["group/decided"] == np.float32(2 / 3)
    np.testing.assert_allclose(after.centre, 0.05 * found.mean((1, 2)), rtol=1e-4, atol=1e-7)
    alone, _ = made(num_models=1)
    for m in range(3):
        one = jax.tree.map(lambda x, m=m: x[m : m + 1], (state.reward, state.centre))
        learned, _ = jax.jit(alone.update)(state._replace(reward=one[0], centre=one[1]), BATCH, jax.random.key(1))
        together = jax.tree.map(lambda x, m=m: x[m : m + 1], after.reward.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), learned.reward.params, together)
    jax.tree.map(np.testing.assert_array_equal, after.policy, state.policy)


def test_one_reward_of_several_by_hand():
    """Of centred networks: what a network adds to all its scores is none of its business."""
    state = made()[1]._replace(centre=jnp.array([0.3, -0.2, 0.05]))
    prompt, tokens = BATCH.flat()
    nothing = jnp.zeros(9, bool)
    steps = Transition(prompt, tokens, jnp.full(9, jnp.nan), nothing, nothing, prompt)
    centred = scores(state.reward.params) - np.array([[0.3], [-0.2], [0.05]])
    expected = {
        "mean": centred.mean(0),
        "worst_case": centred.min(0),
        "uncertainty_weighted": centred.mean(0) - 0.7 * centred.var(0, ddof=1),
    }

    @jax.jit
    def rewards(state):
        config = completion_reward.Config(**SMALL, uncertainty_weight=0.7)
        return {
            name: completion_reward.make(ENV.spec, config.replace(ensemble=name)).reward(state, steps)
            for name in expected
        }

    for name, found in rewards(state).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-5)


def test_a_score_is_of_the_last_token():
    """What pads a completion or its prompt changes nothing, what stands in it does."""
    params = jax.tree.map(lambda x: x[0], made()[1].reward.params)
    prompt, tokens = BATCH.flat()
    score = jax.jit(language_model.completion_score, static_argnums=0)
    plain = score(NETWORK, params, prompt, tokens)
    wide = score(NETWORK, params, jnp.pad(prompt, ((0, 0), (2, 0))), jnp.pad(tokens, ((0, 0), (0, 3))))
    np.testing.assert_allclose(plain, wide, atol=1e-5)
    assert len(np.unique(np.asarray(plain).round(6))) == 9
    value = jax.jit(language_model.completion_values, static_argnums=0)
    values, again = (value(NETWORK, params, prompt, some) for some in (tokens, tokens.at[0, 1].set(9)))
    assert (values[0, :2] == again[0, :2]).all() and values[0, 2] != again[0, 2]  # a value is told of what was before


def test_the_judge_errs_as_told():
    """One answer is paid 1 more: it is preferred with the chance sigmoid(1 / noise). The networks tell the two answers apart, so
    that they agree with the judge either then or otherwise."""
    many = 1000
    state = made()[1]
    prompt, tokens = jnp.tile(PROMPT[:1], (many, 1)), jnp.tile(TOKENS[:1, :2], (many, 1, 1))
    batch = Completions(prompt, tokens, jnp.zeros(tokens.shape), jnp.tile(jnp.array([[1.0, 0.0]]), (many, 1)))

    @jax.jit
    def agreement(noise):
        config = completion_reward.Config(**SMALL, noise=noise)
        return completion_reward.make(ENV.spec, config).update(state, batch, jax.random.key(3))[1][
            "preference/agreement"
        ]

    first, second = scores(state.reward.params).mean(0)[:2]
    for noise, share in ((0.0, 1.0), (1.0, 0.731), (4.0, 0.562)):
        found = float(agreement(noise))
        assert (found if first > second else 1.0 - found) == pytest.approx(share, abs=0.05 * (noise > 0.0))


def test_it_orders_what_it_has_not_seen():
    """Answers are paid the sum of their digits; each group is read once."""
    agent, _ = made(learning_rate=1e-2, num_models=2)

    def step(state, key):
        prompt_key, key, update_key = jax.random.split(key, 3)
        prompt = jax.random.randint(prompt_key, (32, 3), 2, 12).at[:, 2].set(12)
        tokens = jax.random.randint(key, (32, 4, 3), 2, 12)
        paid = tokens.sum(axis=-1).astype(jnp.float32)
        state, metrics = agent.update(state, Completions(prompt, tokens, jnp.zeros(tokens.shape), paid), update_key)
        return state, metrics["preference/agreement"]

    run = jax.jit(lambda key: jax.lax.scan(step, agent.init(key), jax.random.split(jax.random.key(1), 150))[1])
    found = run(jax.random.key(0))
    assert found[0] < 0.6 and found[-20:].mean() > 0.95


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(likelihood="decide"), "There is no likelihood 'decide'"),
        (dict(ensemble="worst"), "There is no reward of an ensemble 'worst'; nearest: worst_case"),
        (dict(group_size=1), "group_size=1 leaves no pair to compare"),
        (dict(ensemble="uncertainty_weighted", num_models=1), "One network tells nothing of uncertainty"),
    ],
)
def test_what_cannot_be_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        made(**changes)
