"""P3O: an update by hand, and what a prompt adds to its rewards."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs
from rljax.agents.alignment import p3o, writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.networks import language_model
from rljax.networks.language_model import LanguageModel

ENV = envs.make("tokens/copy-2?dense=true")
SMALL = dict(width=16, num_layers=1, num_heads=2, num_prompts=4, group_size=3, max_grad_norm=1e9, kl_coefficient=0.5)
POLICY = LanguageModel(ENV.spec.action.vocabulary, 16, 1, 2)


@functools.cache
def begun():
    """A state whose reference is another than its policy."""
    state = jax.jit(writer.make(ENV.spec, p3o.Config(**SMALL)).init)(jax.random.key(0))
    return state._replace(reference=jax.tree.map(lambda x: 2.0 * x, state.model.params))


@functools.cache
def groups():
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, 12, (4, 3, 3))
    tokens = np.where(np.cumsum(tokens == 1, axis=2) - (tokens == 1) > 0, 0, tokens)
    reward = jnp.float32(rng.integers(-2, 3, (4, 3)))
    return Completions(jnp.int32(rng.integers(2, 12, (4, 3))), jnp.int32(tokens), jnp.zeros((4, 3, 3)), reward)


@jax.jit
def whole(params):
    """Log-probabilities [Q, K]."""
    prompt, tokens = groups().flat()
    logits = language_model.completion_logits(POLICY, params, prompt, tokens)
    return language_model.taken(logits, tokens).sum(axis=1).reshape(4, 3)


@functools.cache
def updating(**changes):
    return jax.jit(p3o.make(ENV.spec, p3o.Config(**SMALL | changes)).update)


def moment(state):
    kept = [x for x in jax.tree.leaves(state.model.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")]
    return jax.tree.map(lambda x: x / 0.1, kept[0].mu)


@pytest.mark.parametrize("clip", ["separate", "joint"])
def test_on_policy_it_is_rloo(clip):
    """Rewards less the divergence of whole completions, each against the mean of the others."""
    after, metrics = updating(clip=clip)(begun(), groups(), jax.random.key(2))
    before, reference = np.float64(whole(begun().model.params)), np.float64(whole(begun().reference))
    paid = np.float64(groups().reward) - 0.5 * (before - reference)
    weight = (paid - (paid.sum(1, keepdims=True) - paid) / 2.0) / 12.0
    expected = jax.jit(jax.grad(lambda params: -(weight * whole(params)).sum()))(begun().model.params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), moment(after), expected)
    assert float(metrics["reference/kl"]) == pytest.approx((before - reference).mean(), rel=1e-4)


def test_what_a_prompt_adds_does_not_matter():
    """To the bit, on policy and off it: the second of two passes as well."""
    update = updating(num_epochs=2, num_minibatches=2, kl_coefficient=0.0)
    added = groups().replace(reward=groups().reward + jnp.float32([[64.0], [-32.0], [0.0], [7.0]]))
    one, other = (update(begun(), batch, jax.random.key(2))[0] for batch in (groups(), added))
    jax.tree.map(np.testing.assert_array_equal, one.model.params, other.model.params)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(clip="jiont"), "P3O has no clip 'jiont'; nearest: joint"),
        (dict(group_size=1), "group_size=1 leaves no pair"),
    ],
)
def test_what_cannot_be_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        p3o.make(ENV.spec, p3o.Config(**SMALL | changes))
