"""Semi-offline learning: what the copies are made of, the gradient of what they are paid, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs, train
from rljax.agents.alignment import semi_offline, sft, writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.networks import language_model
from rljax.tokens import END, PAD

ENV = envs.make("tokens/copy-2?dense=true&slack=1")
SMALL = dict(width=16, num_layers=1, num_heads=2, max_grad_norm=1e9)


def made(**changes):
    config = semi_offline.Config(**SMALL | changes)
    return config, semi_offline.make(ENV.spec, config)


@pytest.fixture(scope="module")
def state():
    """A policy that is not uniform."""
    begun = jax.jit(made()[1].init)(jax.random.key(0))
    wider = jax.tree.map(lambda x: 8.0 * x if x.ndim > 1 else x, begun.model.params)
    return begun._replace(model=begun.model._replace(params=wider))


def laws(params, prompt, answer, temperature=1.0):
    """Of the next token, [Q, T, V], as the model tells them of the answers' own tokens."""
    network = writer.network_of(ENV.spec, semi_offline.Config(**SMALL))
    return jax.nn.softmax(language_model.completion_logits(network, params, prompt, answer) / temperature)


def drawn(state, data=None, **changes):
    config, agent = made(**changes)
    source = semi_offline.source(ENV, config, data)
    return jax.jit(lambda state, key: source.next((), agent, state, key)[1:])(state, jax.random.key(1))


ONE = Completions(
    jnp.array([[4, 5, 12]]),
    jnp.array([[[4, 5, END, PAD], [9, END, PAD, PAD]]]),
    jnp.zeros((1, 2, 4)),
    jnp.array([[1.0, 0.0]]),
)


def test_what_copies_are_made_of(state):
    """Of one answer, many times: a share of its tokens is drawn by the policy's laws there, the others stand; behind an END nothing
    does; the task pays."""
    mixed, metrics = drawn(state, ONE, num_prompts=500, group_size=8, share=0.4, temperature=0.7)
    tokens, replaced = np.asarray(mixed.batch.tokens).reshape(-1, 4), np.asarray(mixed.replaced).reshape(-1, 4)
    right = np.array([4, 5, END, PAD])
    assert (np.asarray(mixed.answer) == right).all() and (mixed.batch.prompt == ONE.prompt).all()
    ended = np.cumsum(tokens == END, axis=1) - (tokens == END) > 0
    assert (tokens[ended] == PAD).all() and not replaced[:, 3].any()
    assert replaced[:, :3].mean() == pytest.approx(0.4, abs=0.02)
    kept = ~replaced & ~ended
    assert (tokens[kept] == np.tile(right, (4000, 1))[kept]).all()
    law = np.asarray(laws(state.model.params, ONE.prompt, jnp.array([right]), 0.7))[0]
    for t in range(3):
        there = ~ended[:, t]
        number = there.sum()
        assert number > 500
        assert replaced[there, t].mean() == pytest.approx(0.4, abs=4 * np.sqrt(0.24 / number))
        drawn_here = tokens[replaced[:, t] & there, t]
        share = np.bincount(drawn_here, minlength=law.shape[1]) / len(drawn_here)
        bound = 4 * np.sqrt(law[t] * (1 - law[t]) / len(drawn_here)) + 1e-6
        assert (np.abs(share - law[t]) < bound).all()
    matched = np.cumprod(tokens == right, axis=1) * (right != PAD)
    np.testing.assert_allclose(np.asarray(mixed.batch.reward).reshape(-1), matched.sum(axis=1) / 3, rtol=1e-6)
    assert float(metrics["mixed/return"].total) == pytest.approx(matched.sum() / 3, rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_or_all_may_be_replaced(state, share):
    mixed, _ = drawn(state, share=share)
    there = np.asarray(mixed.batch.tokens) != PAD
    of_answer = np.broadcast_to((np.asarray(mixed.answer) != PAD)[:, None], there.shape)
    assert (np.asarray(mixed.replaced) == (of_answer if share else 0)).all() and there.any()
    if not share:
        assert (mixed.batch.reward == 1.0).all() and (mixed.batch.tokens == mixed.answer[:, None]).all()


@pytest.mark.parametrize("normalised", [False, True])
def test_a_step_is_the_gradient_of_the_loss(state, normalised):
    """By autodiff, a copy and a pair of copies at a time: the paper's sum over pairs, divided by K twice."""
    config, agent = made(length_normalised=normalised, num_prompts=3, group_size=4, share=0.6, policy_weight=0.3)
    mixed, _ = drawn(state, length_normalised=normalised, num_prompts=3, group_size=4, share=0.6)
    answer, tokens, replaced = (np.asarray(x) for x in (mixed.answer, mixed.batch.tokens, mixed.replaced))
    reward = np.asarray(mixed.batch.reward)
    assert len(np.unique(reward)) > 1 and replaced.any(axis=2).sum() > 8

    def loss(params):
        log_law = jnp.log(laws(params, mixed.batch.prompt, answer) + 1e-30)
        shown = -sum(log_law[q, t, answer[q, t]] for q in range(3) for t in range(3)) / 9
        policy = 0.0
        for q in range(3):
            each = []
            for k in range(4):
                places = np.flatnonzero(replaced[q, k])
                said = [log_law[q, t, tokens[q, k, t]] for t in places if tokens[q, k, t] != PAD]
                whole = sum(said, jnp.float32(0.0))
                each.append(whole / max(len(places), 1) if normalised else whole)
            pairs = sum(-(reward[q, i] - reward[q, j]) * each[i] for i in range(4) for j in range(4))
            policy = policy + pairs / 4 / 4 / 3
        return shown + 0.3 * policy

    after, metrics = jax.jit(agent.update)(state, mixed, jax.random.key(2))
    value, slope = jax.jit(jax.value_and_grad(loss))(state.model.params)
    assert float(metrics["loss/shown"] + 0.3 * metrics["loss/policy"]) == pytest.approx(float(value), rel=1e-4)
    close = lambda m, g: np.testing.assert_allclose(m, 0.1 * g, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, after.model.opt_state[1][0].mu, slope)


def test_its_mean_is_the_gradient_of_what_copies_are_paid():
    """Of one place, all pairs of tokens that two copies may have there, each as likely as it is; half of it, by a baseline that has
    both. By the policy's term alone, which is the step's less the one that nothing was paid for."""
    env = envs.make("tokens/copy-2?dense=true")
    config = semi_offline.Config(**SMALL, num_prompts=1, group_size=2, length_normalised=False)
    agent = semi_offline.make(env.spec, config)
    begun = jax.jit(agent.init)(jax.random.key(0))
    network = writer.network_of(env.spec, config)
    prompt, answer, size = jnp.array([[4, 5, 12]]), jnp.array([[4, 5, END]]), env.spec.action.vocabulary
    first = lambda params: jax.nn.softmax(language_model.completion_logits(network, params, prompt, answer)[0, 0])
    paid = jnp.where(jnp.arange(size) == 4, 1.0, jnp.where(jnp.arange(size) == 7, 0.4, 0.0))
    pairs = jnp.stack(jnp.meshgrid(jnp.arange(size), jnp.arange(size), indexing="ij"), -1).reshape(-1, 2)
    replaced = jnp.zeros((1, 2, 3), bool).at[..., 0].set(True)

    def moment(pair, scale):
        tokens = jnp.tile(answer, (2, 1)).at[:, 0].set(pair)[None]
        batch = Completions(prompt, tokens, jnp.zeros(tokens.shape), scale * paid[pair][None])
        return (
            agent.update(begun, semi_offline.Mixed(answer, batch, replaced), jax.random.key(0))[0]
            .model.opt_state[1][0]
            .mu
        )

    @jax.jit
    def mean(params):
        law = first(params)
        weight = law[pairs[:, 0]] * law[pairs[:, 1]]
        moments = jax.vmap(moment, (0, None))(pairs, 1.0)
        without = moment(pairs[0], 0.0)
        return jax.tree.map(lambda m, w: 10.0 * jnp.tensordot(weight, m - w, 1), moments, without)

    slope = jax.jit(jax.grad(lambda params: (first(params) * paid).sum()))(begun.model.params)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(slope)) > 1e-3
    close = lambda found, true: np.testing.assert_allclose(found, -0.5 * true, rtol=1e-2, atol=1e-5)
    jax.tree.map(close, mean(begun.model.params), slope)


def test_with_a_share_of_none_it_is_sft(state):
    mixed, _ = drawn(state, share=0.0, num_prompts=8)
    after, _ = jax.jit(made(share=0.0)[1].update)(state, mixed, jax.random.key(0))
    batch = Completions(mixed.batch.prompt, mixed.answer[:, None], jnp.zeros((8, 1, 4)), jnp.ones((8, 1)))
    shown, _ = jax.jit(sft.make(ENV.spec, sft.Config(**SMALL)).update)(state, batch, jax.random.key(0))
    first = lambda state: state.model.opt_state[1][0].mu
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), first(after), first(shown))


def runs(updates):
    config, agent = made(width=32, learning_rate=1e-2, num_prompts=32, group_size=4)
    learner = train.make(agent, semi_offline.source(ENV, config))
    return agent, lambda key: learner.run(learner.init(key), updates)[0].agent


def test_it_learns():
    agent, run = runs(250)
    after = jax.jit(run)(jax.random.key(0))
    answer, prompt = jax.vmap(ENV.reset)(jax.random.split(jax.random.key(1), 100))
    tokens = jax.jit(lambda state: agent.act(state, prompt, (), jax.random.key(0), False)[0])(after)
    assert (np.asarray(tokens) == np.asarray(answer)).all(axis=1).mean() > 0.9


def test_runs_side_by_side_are_those_alone():
    keys, (_, run) = jax.random.split(jax.random.key(0), 2), runs(3)
    both, alone = jax.jit(jax.vmap(run))(keys), jax.jit(run)(keys[1])
    close = lambda one, other: np.testing.assert_allclose(one, other[1], rtol=1e-3, atol=1e-4)
    jax.tree.map(close, alone.model.params, both.model.params)


def test_what_cannot_be_is_refused():
    for changes, sentence in [
        (dict(share=1.5), "share=1.5 must be a share"),
        (dict(group_size=1), "group_size=1 leaves no copy"),
        (dict(score_chunk=4), "score_chunk must be 0"),
    ]:
        with pytest.raises(UserError, match=sentence):
            semi_offline.make(ENV.spec, semi_offline.Config(**changes))
    with pytest.raises(UserError, match="Copies of right answers need"):
        semi_offline.source(envs.make("tokens/rock_paper_scissors-2"))
    with pytest.raises(UserError, match="nothing to copy"):
        semi_offline.source(ENV, semi_offline.Config(), ONE.replace(reward=jnp.zeros((1, 2))))
