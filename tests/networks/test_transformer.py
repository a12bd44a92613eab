"""The transformer: what may see what, and its attention against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.networks.transformer import Transformer

NETWORK = Transformer(num_layers=2, num_heads=2, dropout=0.5)
TOKENS = jax.random.normal(jax.random.key(0), (3, 6, 8))
ALL = jnp.ones((3, 6), bool)
PARAMS = NETWORK.init(jax.random.key(1), TOKENS, ALL)
apply = jax.jit(NETWORK.apply)


def test_no_token_sees_what_comes_after_it():
    changed = TOKENS.at[:, 4].set(TOKENS[::-1, 5])
    before, after = apply(PARAMS, TOKENS, ALL), apply(PARAMS, changed, ALL)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (np.abs(before - after)[:, 4:].max(-1) > 1e-3).all()


def test_masked_tokens_are_not_seen():
    """Two tokens of padding in front change nothing, whatever stands in them."""
    mask = jnp.arange(6) >= 2
    padded = apply(PARAMS, TOKENS.at[:, :2].set(9.0), jnp.broadcast_to(mask, (3, 6)))
    alone = apply(PARAMS, TOKENS[:, 2:], ALL[:, 2:])
    np.testing.assert_allclose(padded[:, 2:], alone, atol=1e-5)
    assert np.isfinite(padded).all()


def test_without_causality_every_token_sees_all_that_are_not_masked():
    network = Transformer(num_layers=2, num_heads=2, causal=False)
    mask = ALL.at[:, 5].set(False)
    apply = jax.jit(network.apply)
    before, after = (apply(PARAMS, tokens, mask) for tokens in (TOKENS, TOKENS.at[:, 4].set(TOKENS[::-1, 3])))
    assert (np.abs(before - after)[:, :4].max(-1) > 1e-3).all()
    unseen = apply(PARAMS, TOKENS.at[:, 5].set(9.0), mask)
    np.testing.assert_array_equal(before[:, :5], unseen[:, :5])


def test_attention_by_hand():
    """One layer, one head, in numpy."""
    network = Transformer(num_layers=1, num_heads=1)
    params = network.init(jax.random.key(2), TOKENS, ALL)["params"]
    number = lambda *path: np.float64(get(params, path))

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * number(name, "scale") + number(name, "bias")

    def linear(name, x):
        kernel = number(name, "kernel")
        return x @ kernel.reshape(
            -1 if name != "DenseGeneral_3" else 8, 8 if "General" in name else kernel.shape[-1]
        ) + (number(name, "bias").reshape(-1))

    x = np.float64(TOKENS)
    seen = norm("LayerNorm_0", x)
    query, key, value = (linear(f"DenseGeneral_{i}", seen) for i in range(3))
    logits = np.where(np.tril(np.ones((6, 6))), query @ key.transpose(0, 2, 1) / np.sqrt(8.0), -np.inf)
    weight = np.exp(logits - logits.max(-1, keepdims=True))
    x = x + linear("DenseGeneral_3", weight / weight.sum(-1, keepdims=True) @ value)
    hidden = linear("Dense_0", norm("LayerNorm_1", x))
    hidden = 0.5 * hidden * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (hidden + 0.044715 * hidden**3)))
    x = x + linear("Dense_1", hidden)
    np.testing.assert_allclose(network.apply({"params": params}, TOKENS, ALL), norm("LayerNorm_2", x), atol=1e-4)


def get(tree, path):
    for name in path:
        tree = tree[name]
    return tree


def test_dropout_only_with_a_key():
    np.testing.assert_array_equal(apply(PARAMS, TOKENS, ALL), apply(PARAMS, TOKENS, ALL))
    one, two = (apply(PARAMS, TOKENS, ALL, jax.random.key(i)) for i in (0, 1))
    assert float(jnp.abs(one - two).mean()) > 0.1


@pytest.mark.parametrize("size", [1, 6])
def test_any_length(size):
    assert apply(PARAMS, TOKENS[:, :size], ALL[:, :size]).shape == (3, size, 8)
