"""KDRL: what a teacher does to an update, by hand, and whom it is asked of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs
from rljax.agents.alignment import kdrl, sft, writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.networks import language_model
from rljax.networks.language_model import LanguageModel
from rljax.sources import Demonstrator

ENV = envs.make("tokens/copy-2?dense=true")
SMALL = dict(width=16, num_layers=1, num_heads=2, num_prompts=4, group_size=4, max_grad_norm=1e9)
POLICY = LanguageModel(ENV.spec.action.vocabulary, 16, 1, 2)
RIGHT = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0]], bool)


@functools.cache
def begun():
    return jax.jit(writer.make(ENV.spec, kdrl.Config(**SMALL)).init)(jax.random.key(0))


@jax.jit
def read(params, prompt, tokens):
    """Log-probabilities [B, T]."""
    return language_model.taken(language_model.completion_logits(POLICY, params, prompt, tokens), tokens)


@functools.cache
def taught():
    """Four prompts with four completions each, and a teacher's opinion of their tokens."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, 12, (4, 4, 3))
    tokens = jnp.int32(np.where(np.cumsum(tokens == 1, axis=2) - (tokens == 1) > 0, 0, tokens))
    batch = Completions(jnp.int32(rng.integers(2, 12, (4, 3))), tokens, None, jnp.float32(RIGHT))
    batch = batch.replace(log_prob=read(begun().model.params, *batch.flat()).reshape(tokens.shape))
    teacher = jnp.where(tokens > 0, jnp.float32(-rng.uniform(0.5, 4.0, tokens.shape)), 0.0)
    return kdrl.Taught(batch, teacher, jnp.float32(0.3))


@pytest.mark.parametrize("kl, asked", [("k2", "all"), ("k2", "wrong"), ("k3", "failed")])
def test_an_update_by_hand(kl, asked):
    """GRPO's gradient on policy, and the estimator's own at each token of those that the teacher is asked of."""
    batch, teacher, coefficient = taught()
    held = {"all": np.ones((4, 4)), "wrong": ~RIGHT, "failed": ~RIGHT.any(1, keepdims=True) & ~RIGHT}[asked]
    there = np.asarray(batch.tokens > 0)
    reward = np.float64(batch.reward)
    advantage = (reward - reward.mean(1, keepdims=True)) / (reward.std(1, ddof=1, keepdims=True) + 1e-6)
    ahead = np.float64(batch.log_prob - teacher)
    slope = {"k2": ahead, "k3": 1.0 - np.exp(-ahead)}[kl]  # of the estimator, in the log-probability
    weight = (
        np.where(there, 0.3 * held[..., None] * slope - advantage[..., None], 0.0) / there.sum(2, keepdims=True) / 16
    )

    agent = kdrl.make(ENV.spec, kdrl.Config(**SMALL, kl=kl, asked=asked))
    after, metrics = jax.jit(agent.update)(begun(), taught(), jax.random.key(2))
    kept = [x for x in jax.tree.leaves(after.model.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")]
    of = lambda params: (read(params, *batch.flat()) * weight.reshape(16, 3)).sum()
    expected = jax.jit(jax.grad(of))(begun().model.params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x / 0.1, y, atol=2e-5), kept[0].mu, expected)
    assert float(metrics["teacher/asked"]) == held.mean() and metrics["teacher/coefficient"] == coefficient


def test_the_teacher_reads_what_was_written_and_fades():
    """Another network than the policy's; its coefficient falls on a straight line and stays."""
    config = kdrl.Config(**SMALL, kl_coefficient=0.5, kl_last=0.1, annealing_batches=2.0)
    teacher = sft.make(ENV.spec, sft.Config(width=8, num_layers=2, num_heads=1))
    teacher_state = jax.jit(teacher.init)(jax.random.key(3))
    agent = kdrl.make(ENV.spec, config)
    source = kdrl.source(ENV, config, Demonstrator(teacher_state, teacher.act, teacher.token_log_probs))
    state, draw = (
        source.init(agent, jax.random.key(0)),
        jax.jit(lambda state, key: source.next(state, agent, begun(), key)),
    )
    for i, coefficient in enumerate([0.5, 0.3, 0.1, 0.1]):
        state, (batch, found, now), _ = draw(state, jax.random.key(i))
        assert float(now) == pytest.approx(coefficient, rel=1e-6)
    whole = jax.jit(teacher.log_prob)(teacher_state, *batch.flat()).reshape(4, 4)
    np.testing.assert_allclose(found.sum(axis=2), whole, rtol=1e-5)
    assert (np.asarray(found)[np.asarray(batch.tokens) == 0] == 0.0).all()


def test_who_writes_nothing_is_no_teacher():
    config = kdrl.Config(**SMALL)
    source = kdrl.source(ENV, config, Demonstrator((), lambda *asked: None))
    agent = kdrl.make(ENV.spec, config)
    with pytest.raises(UserError, match="must write some itself: --demonstrator must be a run of sft"):
        jax.eval_shape(lambda key: source.next(source.init(agent, key), agent, begun(), key), jax.random.key(0))


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(kl=""), "kl must be an estimator"),
        (dict(kl="exact"), "kl must be an estimator"),
        (dict(kl="k1", kl_place="reward"), "kl must be an estimator"),
        (dict(asked="wrnog"), "A teacher is not asked of 'wrnog'; nearest: wrong"),
    ],
)
def test_what_cannot_be_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        kdrl.make(ENV.spec, kdrl.Config(**SMALL | changes))
