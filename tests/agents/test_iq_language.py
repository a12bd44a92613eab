"""IQ-Learn on completions: the optimum of an enumerated tree of tokens, sft in the limit, and the reward that it tells."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from rljax import envs, train
from rljax.agents.alignment import iq_language, sft, writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.networks import language_model
from rljax.tokens import END
from rljax.types import Transition

ENV = envs.make("tokens/copy-2")
SMALL = dict(width=16, num_layers=1, num_heads=2, max_grad_norm=1e9)
PROMPT = np.array([[2, 3, 12]], np.int32)
EVERY = np.array([[7, 1, 0], [7, 8, 1], [9, 1, 0], [9, 8, 7]], np.int32)  # the last is cut off by the limit
COUNT = np.array([6, 3, 4, 3])


def shown(reward=None):
    tokens = jnp.asarray(np.repeat(EVERY, COUNT, axis=0))[None]
    return Completions(jnp.asarray(PROMPT), tokens, None, jnp.ones(tokens.shape[:2]) if reward is None else reward)


def optimum(alpha, gamma):
    """Values [2, 2, 2] of the two tokens that data have in each of the places: first, after 7, after 9 and after (7, 8), (9, 8);
    others come to have no chance. By scipy, of the loss as the paper writes it, a completion and a token at a time."""
    drawn = {(): (7, 9), (7,): (1, 8), (9,): (1, 8), (7, 8): (1,), (9, 8): (7,)}
    places = [(state, token) for state, tokens in drawn.items() for token in tokens]

    def loss(x):
        q = dict(zip(places, x))
        value = {state: np.logaddexp.reduce([q[state, token] for token in tokens]) for state, tokens in drawn.items()}
        total = 0.0
        for line, count in zip(EVERY.tolist(), COUNT):
            line = [token for token in line if token]
            for t, token in enumerate(line):
                state, following = tuple(line[:t]), tuple(line[: t + 1])
                after = value[following] if t + 1 < len(line) else 0.0
                r = q[state, token] - gamma * after
                total += count * (value[state] - q[state, token] + r * r / (4 * alpha))
        return total

    found = optimize.minimize(loss, np.zeros(len(places)), tol=1e-10)
    return dict(zip(places, found.x))


@functools.cache
def learned(alpha=0.4, gamma=0.9):
    config = iq_language.Config(**SMALL, alpha=alpha, gamma=gamma)

    @jax.jit
    def run(rates, key):
        def step(state, now):
            agent = iq_language.make(ENV.spec, config.replace(learning_rate=now[0]))
            return agent.update(state, shown(), now[1])[0], None

        begun = iq_language.make(ENV.spec, config).init(key)
        return jax.lax.scan(step, begun, (rates, jax.random.split(key, len(rates))))[0]

    return config, run(2e-2 * 0.01 ** jnp.linspace(0.0, 1.0, 800), jax.random.key(0))


def test_it_comes_to_the_optimum_of_a_tree():
    """Its law, which is not the data's, and its rewards."""
    config, state = learned()
    q = optimum(0.4, 0.9)
    law, reward = [], []
    for line in EVERY.tolist():
        line = [token for token in line if token]
        chance, paid = 0.0, 0.0
        for t, token in enumerate(line):
            value = lambda state: np.logaddexp.reduce([x for (where, _), x in q.items() if where == state])
            here, following = tuple(line[:t]), tuple(line[: t + 1])
            chance += q[here, token] - value(here)
            paid += q[here, token] - (0.9 * value(following) if t + 1 < len(line) else 0.0)
        law.append(np.exp(chance))
        reward.append(paid)
    agent = iq_language.make(ENV.spec, config)
    asked = jnp.repeat(PROMPT, 4, axis=0), jnp.asarray(EVERY)
    found = np.exp(np.asarray(jax.jit(agent.log_prob)(state, *asked)))
    np.testing.assert_allclose(found, law, atol=0.02)
    assert np.abs(found - COUNT / 16).max() > 0.05
    no = jnp.zeros(4, bool)
    steps = Transition(asked[0], asked[1], jnp.zeros(4), no, no, asked[0], {})
    np.testing.assert_allclose(jax.jit(agent.reward)(state, steps), reward, atol=0.05)


def test_without_a_bound_it_is_sft():
    """Its gradient step, of those that were paid alone."""
    batch = shown(jnp.asarray(np.arange(16) % 3 > 0, jnp.float32)[None])
    after = []
    for module, more in (sft, {}), (iq_language, {"alpha": 1e9}):
        agent = module.make(ENV.spec, module.Config(**SMALL, **more))
        after.append(jax.jit(agent.update)(jax.jit(agent.init)(jax.random.key(0)), batch, jax.random.key(1)))
    (one, told), (other, also) = after
    assert float(told["loss/policy"]) == pytest.approx(float(also["loss/policy"]), rel=1e-5)
    first = lambda state: jax.tree.leaves(state.model.opt_state)
    for a, b in zip(first(one), first(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_a_step_is_the_gradient_of_the_loss():
    """By autodiff of the loss as the paper writes it, of logits as the model tells them; another temperature divides them."""
    config = iq_language.Config(**SMALL, alpha=0.4, gamma=0.9, temperature=0.7)
    agent, batch = iq_language.make(ENV.spec, config), shown()
    state = jax.jit(agent.init)(jax.random.key(0))
    prompt, tokens = batch.flat()
    network, there = writer.network_of(ENV.spec, config), np.asarray(tokens) > 0
    follows = np.append(there[:, 1:], np.zeros((16, 1), bool), axis=1)

    def loss(params):
        logits = language_model.completion_logits(network, params, prompt, tokens) / 0.7
        q = jnp.take_along_axis(logits, tokens[..., None], -1)[..., 0]
        value = jax.nn.logsumexp(logits, axis=-1)
        after = jnp.where(follows, jnp.roll(value, -1, axis=1), 0.0)
        return jnp.where(there, value - q + (q - 0.9 * after) ** 2 / 1.6, 0.0).sum() / there.sum()

    expected = jax.jit(jax.value_and_grad(loss))(state.model.params)
    after, metrics = jax.jit(agent.update)(state, batch, jax.random.key(1))
    assert float(metrics["loss/policy"]) == pytest.approx(float(expected[0]), rel=1e-5)
    moment = after.model.opt_state[1][0].mu
    jax.tree.map(lambda m, g: np.testing.assert_allclose(m, 0.1 * g, rtol=1e-3, atol=1e-6), moment, expected[1])


def runs(updates):
    """The agent, and (key) -> its state after so many updates on examples."""
    config = iq_language.Config(**SMALL | dict(width=32), learning_rate=1e-2, num_prompts=64, alpha=5.0)
    agent = iq_language.make(ENV.spec, config)
    learner = train.make(agent, iq_language.source(ENV, config))
    return agent, lambda key: learner.run(learner.init(key), updates)[0].agent


def test_it_learns():
    """To copy two of ten signs, whichever; likeliest answers."""
    agent, run = runs(250)
    state = jax.jit(run)(jax.random.key(0))
    signs = np.array(list(itertools.product(range(2, 12), repeat=2)), np.int32)
    prompt = jnp.asarray(np.concatenate([signs, np.full((100, 1), ENV.reset(jax.random.key(0))[1][-1])], axis=1))
    tokens = np.asarray(jax.jit(lambda state: agent.act(state, prompt, (), jax.random.key(0), False)[0])(state))
    assert ((tokens[:, :2] == signs).all(axis=1) & (tokens[:, 2] == END)).mean() > 0.9


def test_runs_side_by_side_are_those_alone():
    keys, (_, run) = jax.random.split(jax.random.key(0), 2), runs(5)
    both, alone = jax.jit(jax.vmap(run))(keys), jax.jit(run)(keys[1])
    close = lambda one, other: np.testing.assert_allclose(one, other[1], rtol=1e-3, atol=1e-4)
    jax.tree.map(close, alone.model.params, both.model.params)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(divergence="chi"), "There is no divergence 'chi'"),
        (dict(alpha=0.0), "alpha=0.0 must be above 0"),
        (dict(score_chunk=4), "score_chunk must be 0"),
    ],
)
def test_what_cannot_be_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        iq_language.make(ENV.spec, iq_language.Config(**changes))
