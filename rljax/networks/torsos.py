"""Networks from observations to features. They compute in `dtype` and keep float32 parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rljax.errors import UserError
from rljax.names import nearest


def group_sort(x: Array) -> Array:
    """Neighbouring pairs along the last axis, each sorted: the gradient's norm stays as it is. Anil et al., 2019, arXiv:1811.05381.

    Raises:
      UserError: the last axis is odd.
    """
    if x.shape[-1] % 2:
        raise UserError(f"group_sort sorts pairs, so layers must be even, not of {x.shape[-1]} units.")
    first, second = x[..., ::2], x[..., 1::2]
    return jnp.stack([jnp.minimum(first, second), jnp.maximum(first, second)], axis=-1).reshape(x.shape)


ACTIVATIONS = {
    "relu": nn.relu, "tanh": nn.tanh, "silu": nn.silu, "gelu": nn.gelu, "elu": nn.elu, "group_sort": group_sort,
}  # fmt: skip
NOT_STRETCHING = ("relu", "tanh", "elu", "group_sort")  # by more than 1


def activation(name: str):
    """The activation function called `name`. Raises ValueError for names not in ACTIVATIONS."""
    if name not in ACTIVATIONS:
        raise UserError(f"Unknown activation {name!r}; {nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


class MLP(nn.Module):
    """Fully connected layers [..., in] -> [..., features[-1]], the last one linear and in float32.

    Weights start orthogonal (Saxe et al., 2013, arXiv:1312.6120): gain sqrt(2), and `last_scale` for the last layer; with
    `last_scale` None every layer starts as flax's default (LeCun normal).
    """

    features: tuple[int, ...]
    activation: str = "relu"
    layer_norm: bool = False
    last_scale: float | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, *inputs):
        x = jnp.concatenate(inputs, axis=-1) if len(inputs) > 1 else inputs[0]
        for size in self.features[:-1]:
            x = dense(size, None if self.last_scale is None else np.sqrt(2.0), self.dtype)(x)
            x = nn.LayerNorm(dtype=self.dtype)(x) if self.layer_norm else x
            x = activation(self.activation)(x)
        return dense(self.features[-1], self.last_scale, self.dtype)(x).astype(jnp.float32)


class Torso(nn.Module):
    """Observations to features: `channels` of 3 x 3 convolutions where there are any, flattened, then `hidden` layers.

    Args:
      rank: dimensions of one observation; all axes before are batch axes.
    """

    hidden: tuple[int, ...]
    rank: int = 1
    channels: tuple[int, ...] = ()
    activation: str = "relu"
    layer_norm: bool = False
    orthogonal: bool = False
    dtype: str = "float32"
    noisy: bool = False  # the hidden layers, see NoisyDense

    @nn.compact
    def __call__(self, observation):
        x = observation
        for size in self.channels:
            x = activation(self.activation)(nn.Conv(size, (3, 3), padding="VALID", dtype=self.dtype)(x))
        x = x.reshape(*x.shape[: x.ndim - self.rank], -1)
        for size in self.hidden:
            scale = np.sqrt(2.0) if self.orthogonal else None
            x = (NoisyDense(size, dtype=self.dtype) if self.noisy else dense(size, scale, self.dtype))(x)
            x = nn.LayerNorm(dtype=self.dtype)(x) if self.layer_norm else x
            x = activation(self.activation)(x)
        return x


class NoisyDense(nn.Module):
    """A linear layer whose weights and biases are means plus learned multiples of factorised noise, one draw for a whole batch,
    where the rng `noise` is given; the means alone where it is not. Fortunato et al., 2017 (arXiv:1706.10295), section 3."""

    size: int
    spread: float = 0.5  # of the noise at the start, over the square root of the inputs
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        bound = 1.0 / np.sqrt(width)
        uniform = lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)
        spread = nn.initializers.constant(self.spread * bound)
        kernel = self.param("kernel", uniform, (width, self.size))
        bias = self.param("bias", uniform, (self.size,))
        kernel_spread = self.param("kernel_spread", spread, (width, self.size))
        bias_spread = self.param("bias_spread", spread, (self.size,))
        if self.has_rng("noise"):
            shrunk = lambda z: jnp.sign(z) * jnp.sqrt(jnp.abs(z))
            noise = shrunk(jax.random.normal(self.make_rng("noise"), (width + self.size,)))
            kernel += kernel_spread * noise[:width, None] * noise[width:]
            bias += bias_spread * noise[width:]
        return x @ kernel.astype(self.dtype) + bias.astype(self.dtype)


def dense(size: int, scale: float | None = None, dtype: str = "float32", **kwargs) -> nn.Dense:
    """A linear layer whose weights start orthogonal with gain `scale`, or LeCun normal where it is None."""
    initialiser = nn.initializers.lecun_normal() if scale is None else nn.initializers.orthogonal(scale)
    return nn.Dense(size, kernel_init=initialiser, dtype=dtype, **kwargs)
