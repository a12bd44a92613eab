"""Pre-training with human preferences: losses by hand, and the law that each objective comes to, from data whose own is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs, train
from rljax.agents.alignment import phf, writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.networks import language_model

ENV = envs.make("tokens/copy-2")
VOCABULARY = ENV.spec.action.vocabulary
SMALL = dict(width=16, num_layers=1, num_heads=2)
PROMPT = np.array([[2, 3, 12], [5, 4, 12]], np.int32)
EVERY = np.array([[7, 1, 0], [7, 8, 1], [9, 1, 0], [9, 8, 7]], np.int32)
COUNT = np.array([[6, 3, 4, 3], [2, 2, 8, 4]])  # of each prompt, in sixteen
GOOD = np.array([[5, 0, 1, 3], [1, 2, 0, 4]])  # how many of those were paid 1
LAW = COUNT / 16
TILTED = ((COUNT - GOOD) + GOOD * np.exp(2.0)) / 16  # by e^(reward / beta), beta 1/2
GIVEN = {"mle": LAW, "filtering": GOOD, "conditional": GOOD, "rwr": TILTED, "awr": TILTED}
GIVEN = {method: law / law.sum(axis=1, keepdims=True) for method, law in GIVEN.items()}


def data():
    """Two prompts with sixteen completions each."""
    tokens = np.stack([np.repeat(EVERY, count, axis=0) for count in COUNT])
    paid = lambda count, good: np.concatenate([np.arange(n) < k for n, k in zip(count, good)])
    reward = np.stack([paid(*one) for one in zip(COUNT, GOOD)])
    return Completions(jnp.asarray(PROMPT), jnp.asarray(tokens), None, jnp.float32(reward))


DATA = data()


def agent_of(**changes):
    return phf.make(ENV.spec, phf.Config(**SMALL | changes))


def logits(params, prompt, tokens, controls=0):
    network = writer.network_of(ENV.spec, phf.Config(**SMALL, method="conditional" if controls else "mle"))
    return language_model.completion_logits(network, params, prompt, tokens)


@functools.cache
def learned(method):
    """The agent, and its state after updates on all of the data, by smaller and smaller steps; more of them where some of the data
    are drawn to be read without a sign."""
    updates, copies = (800, 6) if method == "conditional" else (300, 1)
    config = phf.Config(**SMALL, method=method, unconditional=0.3)
    batch = jax.tree.map(lambda x: jnp.tile(x, (copies, *[1] * (x.ndim - 1))), DATA)

    @jax.jit
    def run(rates, key):
        def step(state, now):
            agent = phf.make(ENV.spec, config.replace(learning_rate=now[0], critic_learning_rate=now[0]))
            return agent.update(state, batch, now[1])[0], None

        begun = phf.make(ENV.spec, config).init(key)
        return jax.lax.scan(step, begun, (rates, jax.random.split(key, len(rates))))[0]

    return phf.make(ENV.spec, config), run(1e-2 * 0.01 ** jnp.linspace(0.0, 1.0, updates), jax.random.key(0))


def laws(log_prob):
    """How likely each completion of each prompt is, [2, 4]; log_prob: (prompt, tokens) -> [B]."""
    return np.exp(np.asarray(log_prob(jnp.repeat(PROMPT, 4, axis=0), jnp.tile(EVERY, (2, 1))))).reshape(2, 4)


@pytest.mark.parametrize("method", GIVEN)
def test_the_law_that_it_comes_to(method):
    """The data's, theirs that are good, or theirs tilted; as the policy acts."""
    agent, state = learned(method)
    np.testing.assert_allclose(laws(functools.partial(jax.jit(agent.log_prob), state)), GIVEN[method], atol=0.04)


def test_what_it_writes_by_what_it_is_told():
    """After the bad's token what was bad, and without one all that there was."""
    state = learned("conditional")[1]
    bad = COUNT - GOOD
    for sign, expected in (VOCABULARY + 1, bad / bad.sum(axis=1, keepdims=True)), (0, LAW):

        def log_prob(prompt, tokens, sign=sign):
            told = phf.ended(prompt, jnp.full(len(prompt), sign)) if sign else phf.without(prompt)
            return language_model.taken(logits(state.model.params, told, tokens, 2), tokens).sum(axis=1)

        np.testing.assert_allclose(laws(jax.jit(log_prob)), expected, atol=0.04)


def test_told_to_be_good_it_is_bad_more_seldom():
    """Than a policy that copies all, whose completions are as bad as the data's."""
    share_bad = (COUNT - GOOD) / COUNT
    prompt = jnp.repeat(PROMPT, 500, axis=0)
    found = {}
    for method in "mle", "conditional":
        agent, state = learned(method)
        tokens = np.asarray(
            jax.jit(lambda state, key, agent=agent: agent.act(state, prompt, (), key)[0])(state, jax.random.key(1))
        )
        which = (tokens[:, None] == EVERY).all(axis=2)
        assert which.any(axis=1).mean() > 0.95
        found[method] = np.repeat(share_bad, 500, axis=0)[which].mean()
    np.testing.assert_allclose(found["mle"], (LAW * share_bad).sum(axis=1).mean(), atol=0.04)
    np.testing.assert_allclose(found["conditional"], (GIVEN["conditional"] * share_bad).sum(axis=1).mean(), atol=0.04)
    assert found["conditional"] < found["mle"] - 0.2


def test_its_critic_expects_what_was_paid():
    """Before the first token, and after it."""
    config = phf.Config(**SMALL, method="awr")
    state = learned("awr")[1]
    network = writer.network_of(ENV.spec, config, outputs=1)
    value = language_model.completion_values(
        network, state.critic.params, jnp.repeat(PROMPT, 2, axis=0), jnp.tile(EVERY[1::2], (2, 1))
    )
    halves = lambda x: x.reshape(2, 2, 2).sum(axis=2)  # by the first token
    np.testing.assert_allclose(value[:, 0], np.repeat(GOOD.sum(axis=1) / 16, 2), atol=0.05)
    np.testing.assert_allclose(value[:, 1], (halves(GOOD) / halves(COUNT)).reshape(-1), atol=0.05)


@pytest.mark.parametrize("method", ["filtering", "unlikelihood", "awr", "conditional"])
def test_losses_by_hand(method):
    """Means over tokens; of a filter, over those that pass."""
    agent = agent_of(method=method, threshold=0.3, unlikelihood_weight=0.5, beta=0.8, unconditional=0.0)
    state = jax.jit(agent.init)(jax.random.key(0))
    batch = DATA.replace(tokens=DATA.tokens[:, 4:8], reward=jnp.float32([[0.2, 0.4, 1.0, 0.1], [0.0, 0.0, 0.3, 0.7]]))
    prompt, tokens = batch.flat()
    reward, there = np.asarray(batch.reward).reshape(-1, 1), np.asarray(tokens) > 0
    good = reward > 0.3
    policy = getattr(state, "policy", state)
    if method == "conditional":
        prompt = jnp.repeat(prompt, 4, axis=0)
        told = jnp.concatenate([prompt, jnp.where(good, VOCABULARY, VOCABULARY + 1)], axis=1)
        log_prob = language_model.taken(logits(policy.model.params, told, tokens, 2), tokens)
    else:
        log_prob = language_model.taken(logits(policy.model.params, prompt, tokens), tokens)
    log_prob = np.float64(log_prob)
    each = {
        "filtering": -log_prob,
        "conditional": -log_prob,
        "unlikelihood": np.where(good, -log_prob, -0.5 * np.log(1.0 - np.where(there, np.exp(log_prob), 0.0))),
    }
    counted = there & good if method == "filtering" else there
    if method == "awr":
        network = writer.network_of(ENV.spec, phf.Config(**SMALL, method="awr"), outputs=1)
        value = np.float64(language_model.completion_values(network, state.critic.params, prompt, tokens))
        each["awr"] = -np.exp((reward - value) / 0.8) * log_prob
    after, metrics = jax.jit(agent.update)(state, batch, jax.random.key(1))
    assert float(metrics["loss/policy"]) == pytest.approx(each[method][counted].mean(), rel=1e-4)
    assert float(metrics["completion/good"]) == pytest.approx(good.mean())
    if method == "awr":
        squares = np.square(value - reward)[there].mean()
        assert float(metrics["loss/value"]) == pytest.approx(squares, rel=1e-4)
    policy = getattr(after, "policy", after)
    jax.tree.map(np.testing.assert_array_equal, policy.reference, policy.model.params)


def test_tokens_of_control_are_drawn_by_none():
    """By a new policy, to which all tokens are much alike."""
    agent = agent_of()
    state = jax.jit(agent.init)(jax.random.key(0))
    embedding = state.model.params["params"]["Embed_0"]["embedding"]
    assert embedding.shape[0] == VOCABULARY + 2
    prompt = jnp.repeat(PROMPT, 200, axis=0)
    tokens, _, extras = jax.jit(lambda state, key: agent.act(state, prompt, (), key))(state, jax.random.key(1))
    assert VOCABULARY - 3 < int(tokens.max()) < VOCABULARY
    told = jax.jit(agent.token_log_probs)(state, prompt, tokens)[0]
    np.testing.assert_allclose(told, extras["log_prob"], atol=1e-5)


def test_runs_side_by_side_are_those_alone():
    """With a critic; temperatures differ."""

    def run(beta):
        agent = agent_of(method="awr", beta=beta)
        step = lambda state, key: (agent.update(state, DATA, key)[0], None)
        keys = jax.random.split(jax.random.key(1), 5)
        return jax.lax.scan(step, agent.init(jax.random.key(0)), keys)[0]

    both, alone = jax.jit(jax.vmap(run))(jnp.array([0.3, 1.0])), jax.jit(run)(1.0)
    close = lambda one, other: np.testing.assert_allclose(one, other[1], atol=1e-5)
    jax.tree.map(
        close, (alone.policy.model.params, alone.critic.params), (both.policy.model.params, both.critic.params)
    )
    moved = jax.tree.map(lambda x: float(jnp.abs(x[0] - x[1]).max()), both.policy.model.params)
    assert max(jax.tree.leaves(moved)) > 1e-4


def test_it_learns_from_its_own():
    """By a filter; good is what was paid above the threshold: answers that are right beyond their first token."""
    env = envs.make("tokens/copy-2?dense=true")
    config = phf.Config(width=32, num_layers=1, num_heads=2, learning_rate=3e-3, threshold=0.2, method="filtering")
    learner = train.make(phf.make(env.spec, config), phf.source(env, config))
    state = jax.jit(learner.init)(jax.random.key(0))
    run = jax.jit(lambda state: learner.run(state, 50))
    (state, begun), (_, after) = (first := run(state)), run(first[0])
    assert begun["completion/good"] < 0.3 and after["completion/good"] > begun["completion/good"] + 0.2


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="There is no objective 'filter'; nearest: filtering"):
        agent_of(method="filter")
    with pytest.raises(UserError, match="unconditional=1.5 must be a share, 1 at most"):
        agent_of(unconditional=1.5)
    with pytest.raises(UserError, match="mle copies whatever it is shown"):
        phf.source(ENV, phf.Config(method="mle"))
    with pytest.raises(UserError, match="Nothing in these data was paid more than 1.5, so there is nothing to copy"):
        phf.source(ENV, phf.Config(method="filtering", threshold=1.5), DATA)
