"""A whole segment of steps as a few numbers."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rljax.networks.policies import action_vector
from rljax.networks.transformer import Transformer
from rljax.types import EnvSpec


class SegmentEncoder(nn.Module):
    """(observation [B, K, ...], action [B, K, ...], mask [B, K]) -> [B, size].

    A transformer in which every step sees all others; what it makes of them is averaged over the steps, and linear at the end. A
    step is one token, and knows its place in the segment. Dropout is active where `key` is given.

    Args:
      longest: most steps that a segment can have.
    """

    spec: EnvSpec
    size: int
    longest: int
    width: int
    num_layers: int
    num_heads: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, observation: Array, action: Array, mask: Bool[Array, "B K"], key=None) -> Float[Array, "B size"]:
        step = jnp.concatenate([observation.reshape(*mask.shape, -1), action_vector(self.spec, action)], axis=-1)
        place = self.param("place", nn.initializers.normal(0.02), (self.longest, self.width))
        tokens = nn.LayerNorm()(nn.Dense(self.width)(step) + place[: mask.shape[1]])
        seen = Transformer(self.num_layers, self.num_heads, self.dropout, causal=False)(tokens, mask, key)
        mean = (seen * mask[..., None]).sum(axis=1) / jnp.maximum(mask.sum(axis=1, keepdims=True), 1)
        return nn.Dense(self.size)(mean)
