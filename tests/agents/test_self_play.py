"""Agents that play themselves: each loss in numpy, who writes and who one was, and the equilibrium they come to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs, train
from rljax.agents.alignment import self_play, writer
from rljax.agents.alignment.self_play import METHODS, Config, Seen, State
from rljax.completions import Compared
from rljax.errors import UserError
from rljax.networks import language_model
from rljax.networks.language_model import Mixture
from rljax.tabular import games
from rljax.types import Model

ENV = envs.make("tokens/rock_paper_scissors-2")
SMALL = dict(width=8, num_layers=1, num_heads=2, num_prompts=2, group_size=3)
TOKENS = np.array([[2, 3], [4, 1], [1, 0], [3, 3], [2, 4], [4, 4]], np.int32)
THERE = TOKENS > 0


def drawn(size, seed=0):
    """Log-probabilities [3, K, T] by the policy, the reference and who one was, and preferences [K, K]."""
    rng = np.random.default_rng(seed)
    preference = rng.uniform(size=(size, size))
    preference = np.triu(preference, 1) + np.tril(1.0 - preference.T, -1) + 0.5 * np.eye(size)
    return np.where(THERE[:size], -rng.exponential(size=(3, size, 2)), 0.0), preference


def by_numpy(method, config, log_probs, preference):
    """From the papers, pair by pair and token by token; groups have three of one's own."""
    token, ref_token, last_token = log_probs
    policy, reference, last = log_probs.sum(axis=-1)
    own, tau, rate = range(3), config.tau, config.rate
    pairs = [(i, j) for i in own for j in own if i < j]
    ahead = lambda x, i, j: x[i] - x[j]
    if method in ("nash_md", "nash_mp"):
        total = 0.0
        for i in own:
            cost = tau * (token[i] - ref_token[i])
            if method == "nash_mp":
                cost = cost + (token[i] - last_token[i]) / rate
            for t in range(2):
                if THERE[i, t]:
                    total -= (preference[i, 3:].mean() - 0.5 - cost[t:][THERE[i, t:]].sum()) * token[i, t]
        return total / 3
    won = [np.mean([preference[i, j] for j in own if j != i]) for i in own]
    if method == "sppo":
        return np.mean([(policy[i] - last[i] - rate * (won[i] - 0.5)) ** 2 for i in own])
    sigmoid = lambda x: 1.0 / (1.0 + np.exp(-x))
    if method == "dno":
        label = lambda i, j: sigmoid(won[i] - won[j])
        log_odds = lambda i, j: (ahead(policy, i, j) - ahead(last, i, j)) / rate
        cross = lambda i, j: label(i, j) * np.log(sigmoid(log_odds(i, j)))
        return -np.mean([cross(i, j) + cross(j, i) for i, j in pairs])
    if method == "inpo":
        share = tau * rate
        ratio = policy - share * reference - (1.0 - share) * last
        one = lambda i, j: preference[i, j] * (ahead(ratio, i, j) - 0.5 * rate) ** 2
        return np.mean([one(i, j) + one(j, i) for i, j in pairs])
    ratio = policy - reference
    pairs = [(i, j) for i in own for j in (3, 4, 5)] if method == "xpo" else pairs
    one = lambda i, j: -preference[i, j] * np.log(sigmoid(tau * ahead(ratio, i, j)))
    direct = np.mean([one(i, j) + one(j, i) for i, j in pairs])
    return direct if method == "dpo" else direct + {"vpo": tau, "xpo": 1.0}[method] * config.optimism * ratio[3:].mean()


@pytest.mark.parametrize("method", METHODS)
def test_losses_in_numpy(method):
    config = Config(**SMALL, method=method, tau=0.3, rate=1.5, optimism=0.2)
    size = 3 * len(METHODS[method].writers)
    log_probs, preference = drawn(size)
    shown = size if METHODS[method].reads_all else 3
    seen = Seen(*(x[:shown] for x in log_probs), THERE[:shown], preference)
    expected = by_numpy(method, config, log_probs, preference)
    assert float(METHODS[method].loss(config, jax.tree.map(jnp.asarray, seen))) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", ["nash_mp", "vpo"])
def test_an_update_reads_the_policy_the_reference_and_who_one_was(method):
    config = Config(**SMALL, method=method)
    agent = self_play.make(ENV.spec, config)
    state = jax.jit(agent.init)(jax.random.key(0))
    scaled = lambda by: jax.tree.map(lambda x: by * x, state.policy.model.params)
    anchors = tuple(scaled(by) for by in (1.4, 0.6)[: len(state.anchors)])
    state = State(state.policy._replace(reference=scaled(1.8)), anchors, jnp.int32(1))
    prompt, preference = jnp.array([[2], [4]]), np.stack([drawn(6, seed)[1] for seed in (1, 2)])
    tokens = jnp.asarray(np.stack([TOKENS, TOKENS[::-1]]))
    batch = Compared(
        prompt, tokens, jnp.zeros(tokens.shape), jnp.zeros((2, 6)), preference=jnp.asarray(preference, jnp.float32)
    )
    after, metrics = jax.jit(agent.update)(state, batch, jax.random.key(1))

    network = writer.network_of(ENV.spec, config)
    shown = slice(6 if METHODS[method].reads_all else 3)

    @jax.jit
    def read(params):
        logits = language_model.completion_logits(network, params, *batch.flat())
        return language_model.taken(logits, tokens.reshape(12, 2)).reshape(2, 6, 2)[:, shown]

    laws = [read(params) for params in (state.policy.model.params, scaled(1.8), scaled(1.4))]
    there = (tokens > 0)[:, shown]
    each = [METHODS[method].loss(config, Seen(*(x[q] for x in laws), there[q], batch.preference[q])) for q in (0, 1)]
    assert float(metrics["loss/policy"]) == pytest.approx(float(np.mean(each)), rel=1e-4)
    away = (laws[0] - laws[1])[:, :3].sum(axis=-1).mean()
    assert float(metrics["policy/away"]) == pytest.approx(float(away), rel=1e-4) and abs(away) > 1e-3
    assert float(metrics["preference/won"]) == pytest.approx(preference[:, :3, 3:].mean(), rel=1e-5)
    jax.tree.map(np.testing.assert_array_equal, after.anchors, anchors)
    embedding = lambda params: np.asarray(params["params"]["Embed_0"]["embedding"])
    assert after.count == 2 and (embedding(after.policy.model.params) != embedding(scaled(1.0))).any()


def test_who_one_was():
    """Each anchor in its turn becomes the policy, and is kept until its next turn; at first all are, whoever the policy is."""

    def at(count, *anchors):
        model = Model(jnp.float32(7.0), ())
        state = State(writer.State(model, model.params), tuple(map(jnp.float32, anchors)), jnp.int32(count))
        found = tuple(map(float, self_play.held(state, 3)))
        return (*found, float(self_play.newest(state, 3))) if len(anchors) == 2 else found

    assert at(0, 1.0) == at(3, 1.0) == (7.0,) and at(1, 1.0) == at(5, 1.0) == (1.0,)
    assert at(0, 1.0, 2.0) == at(6, 1.0, 2.0) == (7.0, 2.0, 7.0)
    assert at(2, 1.0, 2.0) == (1.0, 2.0, 1.0)
    assert at(3, 1.0, 2.0) == (1.0, 7.0, 7.0) and at(5, 1.0, 2.0) == (1.0, 2.0, 2.0)


@pytest.mark.parametrize("method", ["nash_md", "inpo", "xpo"])
def test_who_writes(method):
    """By what they say of their own tokens, and by what the judge is asked."""
    config = Config(**SMALL, method=method, mixture=0.4)
    agent, source = self_play.make(ENV.spec, config), self_play.source(ENV, config)
    state = agent.init(jax.random.key(0))
    scaled = lambda by: jax.tree.map(lambda x: by * x, state.policy.model.params)
    anchors = tuple(scaled(5.0) for _ in state.anchors)
    state = State(state.policy._replace(reference=scaled(9.0)), anchors, jnp.int32(1))
    batch = jax.jit(lambda key: source.next((), agent, state, key)[1])(jax.random.key(1))
    assert source.env_steps == batch.reward.size
    network = writer.network_of(ENV.spec, config)
    one, other = (
        (network, scaled(1.0)),
        {
            "nash_md": (Mixture(network, 0.4), (scaled(1.0), scaled(9.0))),
            "inpo": None,
            "xpo": (network, scaled(9.0)),
        }[method],
    )
    laws = [(network, scaled(5.0))] if method == "inpo" else [one, other]
    for i, law in enumerate(laws):
        part = batch.replace(tokens=batch.tokens[:, 3 * i : 3 * i + 3])
        logits = language_model.completion_logits(*law, *part.flat())
        told = language_model.taken(logits, part.flat()[1]).reshape(2, 3, 2)
        np.testing.assert_allclose(batch.log_prob[:, 3 * i : 3 * i + 3], told, atol=1e-5)
    for q in range(2):
        asked = [[ENV.prefer(batch.prompt[q, 0] - 2, a, b) for b in batch.tokens[q]] for a in batch.tokens[q, :2]]
        np.testing.assert_allclose(batch.preference[q, :2], asked, atol=1e-6)


@pytest.mark.parametrize("method", ["nash_mp", "inpo"])
def test_the_last_policy_is_beside_the_regularised_equilibrium(method):
    """Of one throw, for each prompt, though the game goes round in circles: within 0.08 in total variation, and they begin more
    than thrice as far."""
    env, tau = envs.make("tokens/rock_paper_scissors-1"), 0.1
    config = Config(
        width=16, num_layers=1, num_heads=2, method=method, tau=tau, rate=2.0, learning_rate=3e-3, num_prompts=32
    )
    agent = self_play.make(env.spec, config)
    learner = train.make(agent, self_play.source(env, config))
    prompt, tokens = jnp.repeat(jnp.arange(2, 5), 4)[:, None], jnp.tile(jnp.array([2, 3, 4, 1]), 3)[:, None]
    law = lambda state: jnp.exp(agent.log_prob(state.agent, prompt, tokens).reshape(3, 4))

    @jax.jit
    def course(key):
        start = learner.init(key)
        return law(start), law(learner.run(start, 400)[0])

    first, last = course(jax.random.key(0))
    solve = lambda state, law: games.equilibrium(games.Game(env.payoff(state), law, tau))
    nash = jax.jit(jax.vmap(solve))(jnp.arange(3), first)
    far = lambda law: 0.5 * np.abs(np.asarray(law - nash)).sum(axis=1)
    assert far(first).min() > 3 * 0.08 and far(last).max() < 0.08


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(method="nash_pm"), "There is no method 'nash_pm'; nearest: nash_mp"),
        (dict(credit="to-go"), "There is no credit 'to-go'"),
        (dict(group_size=1), "group_size=1 leaves no pair to compare"),
        (dict(tau=0.0), "tau=0.0 must be above 0"),
        (dict(rate=0.0), "rate=0.0 must be above 0"),
        (dict(method="inpo", tau=0.5, rate=3.0), "tau=0.5 times rate=3.0 must be at most 1"),
        (dict(mixture=1.5), "mixture=1.5 must be at most 1"),
    ],
)
def test_what_cannot_be_is_refused(changes, sentence):
    for made in (lambda config: self_play.make(ENV.spec, config), lambda config: self_play.source(ENV, config)):
        with pytest.raises(UserError, match=sentence):
            made(Config(**SMALL | changes))
