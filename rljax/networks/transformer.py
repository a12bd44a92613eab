"""A transformer, causal or not. Vaswani et al., 2017 (arXiv:1706.03762), in the form of GPT-2: normalised before each part.

Positions are the caller's: add an embedding of them to the tokens. Products are taken of [B * S, width], as in language_model.py.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Transformer(nn.Module):
    """(tokens [B, S, width], mask [B, S]) -> [B, S, width], normalised. Token s sees the unmasked tokens up to s, or all of them
    where it is not `causal`.

    What stands at a masked token is of no meaning. Dropout is active where `key` is given.
    """

    num_layers: int
    num_heads: int
    dropout: float = 0.0
    causal: bool = True

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "B S D"], mask: Bool[Array, "B S"], key: Array | None = None
    ) -> Float[Array, "B S D"]:
        keys = [None] * (2 * self.num_layers + 1) if key is None else jax.random.split(key, 2 * self.num_layers + 1)
        batch, size, width = tokens.shape
        earlier = jnp.ones((size, size), bool)
        visible = (jnp.tril(earlier) if self.causal else earlier) & mask[:, None, None, :]  # [B, 1, S, S]
        x = self._drop(tokens.reshape(batch * size, width), keys[-1])
        for layer in range(self.num_layers):
            x = x + self._drop(self._attend(nn.LayerNorm()(x), visible), keys[2 * layer])
            hidden = nn.gelu(nn.Dense(4 * width)(nn.LayerNorm()(x)))
            x = x + self._drop(nn.Dense(width)(hidden), keys[2 * layer + 1])
        return nn.LayerNorm()(x).reshape(batch, size, width)

    def _attend(self, x, visible):
        width, (batch, _, _, size) = x.shape[-1], visible.shape
        heads = (self.num_heads, width // self.num_heads)
        query, key, value = (nn.DenseGeneral(heads)(x).reshape(batch, size, *heads) for _ in range(3))
        attended = jax.nn.dot_product_attention(query, key, value, mask=visible)
        return nn.DenseGeneral(width, axis=(-2, -1))(attended.reshape(-1, *heads))

    def _drop(self, x, key):
        if key is None or self.dropout == 0.0:
            return x
        return nn.Dropout(self.dropout, deterministic=False)(x, rng=key)


def push(steps: Array, last: Array) -> Array:
    """Steps [B, K, ...] without the first, and `last` [B, ...] at their end."""
    return jnp.concatenate([steps[:, 1:], last[:, None]], axis=1)
