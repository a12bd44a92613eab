"""PPO on tokens: one update by hand, what must not count, and that it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs, train
from rljax.agents.alignment import pf_ppo, rlhf_ppo, rto
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.losses import divergence, surrogate
from rljax.networks import language_model
from rljax.networks.language_model import LanguageModel
from rljax.sources import Demonstrator
from rljax.types import Agent

ENV = envs.make("tokens/copy-2?dense=true")
SMALL = dict(width=16, num_layers=1, num_heads=2, num_prompts=6, num_epochs=1, num_minibatches=1, max_grad_norm=1e9)
POLICY = LanguageModel(ENV.spec.action.vocabulary, 16, 1, 2)
CRITIC = LanguageModel(ENV.spec.action.vocabulary, 16, 1, 2, outputs=1)
TOKENS = jnp.array([[5, 3, 1], [4, 1, 0], [1, 0, 0], [6, 6, 6], [2, 9, 1], [3, 1, 0]], jnp.int32)
PROMPT = jnp.array([[5, 3, 12], [0, 4, 12], [7, 7, 12], [6, 2, 12], [2, 9, 12], [3, 8, 12]], jnp.int32)
REWARD = jnp.array([1.0, 0.5, 0.0, -0.3, 2.0, 0.7])
THERE = np.asarray(TOKENS) > 0


OFF_POLICY = dict(gamma=0.9, gae_lambda=0.8, kl_coefficient=0.3, adaptive_kl=True, kl_target=0.01)
PLAIN = dict(kl_coefficient=0.0, gae_lambda=1.0, whiten_advantages=False, critic_learning_rate=0.1)


@functools.cache
def updating(**changes):
    return jax.jit(rlhf_ppo.make(ENV.spec, rlhf_ppo.Config(**SMALL | changes)).update)


@functools.cache
def begun():
    """A state with a reference of its own, and six completions whose stored log-probabilities are another policy's."""
    agent = rlhf_ppo.make(ENV.spec, rlhf_ppo.Config(**SMALL | OFF_POLICY))
    state = jax.jit(agent.init)(jax.random.key(0))
    reference = jax.tree.map(lambda x: 1.5 * x, state.policy.model.params)
    state = state._replace(policy=state.policy._replace(reference=reference))
    old = read(state.policy.model.params) + np.where(THERE, np.random.default_rng(0).uniform(-0.4, 0.4, (6, 3)), 0.0)
    return state, Completions(PROMPT, TOKENS[:, None], jnp.float32(old)[:, None], REWARD[:, None])


@jax.jit
def read(params):
    """Log-probabilities [B, T]."""
    return language_model.taken(language_model.completion_logits(POLICY, params, PROMPT, TOKENS), TOKENS)


def values(params):
    return np.float64(jax.jit(language_model.completion_values, static_argnums=0)(CRITIC, params, PROMPT, TOKENS))


def moments(model):
    """The gradient of the one step that was taken."""
    kept = [x for x in jax.tree.leaves(model.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")]
    return jax.tree.map(lambda x: x / 0.1, kept[0].mu)


def close(a, b, atol=2e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def credit_by_hand(paid, value, gamma, trace):
    """Of each completion by itself, without what pads it."""
    advantage, target = np.zeros((6, 3)), np.zeros((6, 3))
    for b in range(6):
        following = after = 0.0
        for t in reversed(range(THERE[b].sum())):
            following = paid[b, t] + gamma * after - value[b, t] + gamma * trace * following
            advantage[b, t], after = following, value[b, t]
            target[b, t] = following + value[b, t]
    return advantage, target


def test_an_update_by_hand():
    """Each token pays its own divergence, the last also the reward; whitened over tokens; clipped off policy; the coefficient
    adapts to what was found."""
    state, batch = begun()
    after, metrics = updating(**OFF_POLICY)(state, batch, jax.random.key(1))
    old, new = np.float64(batch.log_prob[:, 0]), np.float64(read(state.policy.model.params))
    reference, value = np.float64(read(state.policy.reference)), values(state.critic.params)
    paid = -0.3 * (old - reference)
    paid[np.arange(6), THERE.sum(1) - 1] += np.asarray(REWARD)
    advantage, target = credit_by_hand(paid, value, 0.9, 0.8)
    advantage = (advantage - advantage[THERE].mean()) / advantage[THERE].std(ddof=1)
    ratio = np.exp(new - old)
    loss = -np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)[THERE].mean()
    assert float(metrics["loss/policy"]) == pytest.approx(loss, rel=1e-4)
    assert float(metrics["loss/value"]) == pytest.approx(0.5 * np.square(value - target)[THERE].mean(), rel=1e-4)
    far = (old - reference).sum(1).mean()
    assert float(metrics["reference/kl"]) == pytest.approx(far, rel=1e-4) and metrics[
        "reference/coefficient"
    ] == np.float32(0.3)
    assert abs(far / 0.01 - 1.0) > 0.2
    assert float(after.kl_coefficient) == pytest.approx(0.3 * (1.0 + 0.02 * np.sign(far - 0.01)), rel=1e-6)


def test_padding_changes_nothing():
    """Neither whitening nor any mean nor the critic sees places after END: wider completions make the same steps."""
    state, batch = begun()
    wide = batch.replace(
        tokens=jnp.pad(batch.tokens, ((0, 0), (0, 0), (0, 4))),
        log_prob=jnp.pad(batch.log_prob, ((0, 0), (0, 0), (0, 4)), constant_values=7.0),
    )
    one, two = (updating(**OFF_POLICY)(state, some, jax.random.key(1)) for some in (batch, wide))
    for model in (lambda state: state.policy.model, lambda state: state.critic):
        close(moments(model(one[0])), moments(model(two[0])))
    close(one[1], two[1])


def test_without_critic_and_divergence_it_is_reinforce():
    """On policy: the mean over tokens of the whole reward times the gradient of their log-probabilities."""
    state, batch = begun()
    critic = {"params": state.critic.params["params"] | {"head": {"kernel": jnp.zeros((16, 1))}}}
    state = state._replace(critic=state.critic._replace(params=critic))
    assert (values(critic) == 0.0).all()
    batch = batch.replace(log_prob=read(state.policy.model.params)[:, None])
    after, _ = updating(**PLAIN)(state, batch, jax.random.key(1))
    of = lambda params: -(read(params).sum(axis=1) * REWARD).sum() / THERE.sum()
    close(moments(after.policy.model), jax.jit(jax.grad(of))(state.policy.model.params))


def test_each_token_is_paid_what_a_preferred_policy_likes():
    """RTO without a critic: each token learns from what it and those after it are paid, by how much likelier the preferred policy
    finds it than its reference does, but so much at most; the last one by the reward too."""
    state, batch = begun()
    critic = {"params": state.critic.params["params"] | {"head": {"kernel": jnp.zeros((16, 1))}}}
    state = state._replace(critic=state.critic._replace(params=critic))
    old, reference = read(state.policy.model.params), read(state.policy.reference)
    batch = batch.replace(log_prob=old[:, None])
    ahead = np.float32(np.random.default_rng(3).normal(size=(6, 3)))
    config = rto.Config(
        **SMALL | PLAIN | dict(kl_coefficient=0.3, token_most=0.4, reward_coefficient=2.0), token_coefficient=0.5
    )
    after, metrics = jax.jit(rto.make(ENV.spec, config).update)(
        state, rto.Liked(batch, ahead[:, None]), jax.random.key(1)
    )
    paid = np.where(THERE, np.clip(0.5 * ahead, -0.4, 0.4) - 0.3 * (old - reference), 0.0)
    paid[np.arange(6), THERE.sum(1) - 1] += 2.0 * REWARD
    to_go = np.cumsum(paid[:, ::-1], axis=1)[:, ::-1]
    of = lambda params: -(read(params) * to_go)[THERE].sum() / THERE.sum()
    close(moments(after.policy.model), jax.jit(jax.grad(of))(state.policy.model.params))
    assert float(metrics["token/paid"]) == pytest.approx(np.clip(0.5 * ahead, -0.4, 0.4)[THERE].sum() / 6, rel=1e-4)


def test_what_is_asked_and_what_is_kept_belong_together():
    """Of completions by who writes anything: what RTO is told of each token, and the half of them that a filter keeps."""

    each = lambda prompt, tokens: jnp.repeat(prompt, len(tokens) // len(prompt), axis=0)

    def act(state, prompt, memory, key, explore, beginning):
        prompt = each(prompt, beginning)
        tokens = jnp.where(jax.random.bernoulli(key, 0.7, (len(prompt), 3)), prompt, 5)
        return tokens, memory, {"log_prob": -0.1 * tokens}

    anyone = Agent(lambda key: (), act, None)
    draw = lambda source: jax.jit(lambda key: source.next((), anyone, (), key)[1])
    opinion = lambda state, prompt, tokens: (state * (tokens + each(prompt, tokens)), 1.0 * each(prompt, tokens))
    batch, ahead = draw(rto.source(ENV, rto.Config(**SMALL), Demonstrator(2.0, act, opinion)))(jax.random.key(0))
    prompt = np.asarray(batch.prompt)[:, None]
    np.testing.assert_allclose(ahead, 2.0 * np.asarray(batch.tokens) + prompt, rtol=1e-6)

    config, key = pf_ppo.Config(**SMALL | dict(group_size=4), filter="best_worst"), jax.random.key(1)
    every = draw(rlhf_ppo.source(ENV, config))(jax.random.split(key)[0])
    kept = draw(pf_ppo.source(ENV, config))(key)
    order = np.argsort(np.asarray(every.reward), axis=1, kind="stable")
    assert (np.asarray(every.reward).max(1) > np.asarray(every.reward).min(1)).sum() > 2
    for name in ("tokens", "log_prob", "reward"):
        rows = np.asarray(getattr(every, name))
        expected = np.stack([rows[np.arange(6), order[:, place]] for place in (-1, 0)], axis=1)
        np.testing.assert_array_equal(getattr(kept, name), expected)
    np.testing.assert_array_equal(kept.prompt, every.prompt)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(filter="best_wrost"), "There is no filter 'best_wrost'"),
        (dict(group_size=1), "group_size=1 leaves a filter nothing to choose from"),
    ],
)
def test_what_cannot_be_filtered_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        pf_ppo.source(ENV, pf_ppo.Config(**SMALL | changes))


def test_at_the_optimum_nothing_has_an_advantage():
    """Where log pi - log reference is reward / beta less a constant, the exact values are that constant and what was paid so far,
    turned round: each token pays the divergence from there on and no other."""
    rng, beta, constant = np.random.default_rng(1), 0.7, 1.3
    far = np.where(THERE, rng.normal(size=(6, 3)), 0.0)
    reward = beta * far.sum(1) + constant
    paid = jax.vmap(surrogate.at_the_end)(jnp.float32(reward), jnp.asarray(THERE))
    paid = divergence.penalised("k1", paid, jnp.float32(far), jnp.zeros((6, 3)), beta)
    value = constant + beta * (np.cumsum(far, axis=1) - far)
    config = rlhf_ppo.Config(whiten_advantages=False, gae_lambda=0.6)
    poisoned = jnp.float32(np.where(THERE, value, 1e6))
    advantage, target = rlhf_ppo.credit(config, paid, poisoned, jnp.asarray(THERE))
    np.testing.assert_allclose(advantage, 0.0, atol=1e-5)
    np.testing.assert_allclose(target, np.where(THERE, value, 0.0), atol=1e-5)


def test_clipped_values_stay_near_the_old():
    """The second of two passes, by hand: the larger of both errors."""
    state, batch = begun()
    after, metrics = updating(**PLAIN)(state, batch, jax.random.key(1))
    twice = PLAIN | dict(kl="", num_epochs=2, clip_value=True, value_clip=0.05)
    _, both = updating(**twice)(state, batch, jax.random.key(1))
    old, new, target = values(state.critic.params), values(after.critic.params), np.asarray(REWARD)[:, None]
    kept = old + np.clip(new - old, -0.05, 0.05)
    second = 0.5 * np.maximum(np.square(new - target), np.square(kept - target))[THERE].mean()
    assert float(both["loss/value"]) == pytest.approx(0.5 * (float(metrics["loss/value"]) + second), rel=1e-4)
    assert (np.abs(new - old)[THERE] > 0.05).any() and "reference/kl" not in both


def test_whitened_tokens():
    """Mean 0 and deviation 1 over tokens, whatever pads them."""
    paid, there = jnp.asarray(np.random.default_rng(2).normal(size=(6, 3)), jnp.float32), jnp.asarray(THERE)
    advantage, _ = rlhf_ppo.credit(rlhf_ppo.Config(), paid, jnp.full((6, 3), 5.0), there)
    plain, _ = rlhf_ppo.credit(rlhf_ppo.Config(whiten_advantages=False), paid, jnp.full((6, 3), 5.0), there)
    assert np.asarray(advantage)[THERE].mean() == pytest.approx(0.0, abs=1e-6)
    assert np.asarray(advantage)[THERE].std(ddof=1) == pytest.approx(1.0, rel=1e-5)
    assert (np.asarray(advantage)[~THERE] == 0.0).all() and np.asarray(plain)[THERE].mean() < -1.0
    np.testing.assert_allclose(
        np.corrcoef(np.asarray(plain)[THERE], np.asarray(advantage)[THERE])[0, 1], 1.0, rtol=1e-5
    )


def test_the_coefficient_adapts():
    found = [float(divergence.adapted(jnp.float32(0.5), jnp.float32(kl), 6.0)) for kl in (-3.0, 6.0, 6.6, 60.0)]
    np.testing.assert_allclose(found, [0.5 * 0.98, 0.5, 0.5 * 1.01, 0.5 * 1.02], rtol=1e-6)


def test_a_reward_is_paid_at_the_last_token():
    found = jax.vmap(surrogate.at_the_end)(REWARD, jnp.asarray(THERE))
    expected = np.zeros((6, 3), np.float32)
    expected[np.arange(6), THERE.sum(1) - 1] = REWARD
    np.testing.assert_array_equal(found, expected)
    assert (np.asarray(surrogate.at_the_end(jnp.float32(3.0), jnp.zeros(4, bool))) == 0.0).all()


def test_it_learns():
    """Two digits to be copied, paid for what is right before the first mistake: from less than 0.1 at random."""
    config = rlhf_ppo.Config(
        width=32, num_layers=1, num_heads=2, num_prompts=64, num_epochs=2, num_minibatches=1, learning_rate=5e-3
    )
    agent = rlhf_ppo.make(ENV.spec, config)
    learner = train.make(agent, rlhf_ppo.source(ENV, config))
    state, _ = jax.jit(lambda key: learner.run(learner.init(key), 140))(jax.random.key(0))
    prompt, answer = jax.vmap(ENV.example)(jax.random.split(jax.random.key(1), 200))
    greedy = jax.jit(lambda state: agent.act(state, prompt, (), jax.random.key(2), False)[0])(state.agent)
    assert float(jnp.cumprod(greedy == answer, axis=1).mean()) > 0.5


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(kl="", adaptive_kl=True), "adaptive_kl holds the divergence in the reward"),
        (dict(adaptive_kl=True, kl_coefficient=0.0), "kl_coefficient=0.0 must be above 0 where adaptive_kl adapts."),
        (dict(adaptive_kl=True, kl_rate=9.0), "kl_rate=9.0 must be above 0 and below 5"),
        (dict(kl="k2"), "k2 in the reward has the gradient of no divergence"),
        (dict(surrogate="pp"), "There is no surrogate 'pp'"),
        (dict(width=18), "width=18 must be a multiple"),
    ],
)
def test_what_cannot_be_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        rlhf_ppo.make(ENV.spec, rlhf_ppo.Config(**SMALL | changes))
