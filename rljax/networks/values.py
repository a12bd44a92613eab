"""Action values of discrete actions, in whichever form a head reads them."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax.losses import value as losses
from rljax.networks.heads import Levels, even_levels
from rljax.networks.torsos import NoisyDense, Torso, dense


class Output(NamedTuple):
    """Of B observations: what the head reads, [B, A, size]; the levels that it is for, [B, size], where the network was asked for
    some; and what the network that proposes them learns from: its inner levels and the values there, [B, size - 1, ...]."""

    values: Float[Array, "B A size"]
    levels: Levels | None = None
    inner: Any = ()


class QNetwork(nn.Module):
    """Observations [B, *shape] to Output. The last hidden layer belongs to the stream(s), which are noisy or not.

    With levels `implicit` it is asked for quantiles at levels [B, size] drawn by `key` (or, without it, even ones), as IQN's
    (Dabney et al., 2018, arXiv:1806.06923, section 3.1); with `proposed` it proposes them by what it sees, as FQF's (Yang et
    al., 2019, arXiv:1911.02140, section 3).
    """

    num_actions: int
    size: int
    hidden: tuple[int, ...]
    rank: int = 1
    channels: tuple[int, ...] = ()
    activation: str = "relu"
    layer_norm: bool = False
    dtype: str = "float32"
    dueling: bool = False
    noisy: bool = False
    levels: str = "fixed"  # implicit, proposed
    num_waves: int = 64  # cosines that a level is told by

    @nn.compact
    def __call__(self, observation, key=None) -> Output:
        shared = dict(activation=self.activation, layer_norm=self.layer_norm, dtype=self.dtype)
        features = Torso(self.hidden[:-1], self.rank, self.channels, **shared)(observation)
        streams = Streams(self.num_actions, self.size if self.levels == "fixed" else 1, self.hidden[-1:], self.dueling,
                          self.noisy, shared)  # fmt: skip
        if self.levels == "fixed":
            return Output(streams(features))
        told = nn.Dense(features.shape[-1], dtype=self.dtype, name="levels")
        waves = jnp.pi * jnp.arange(1, self.num_waves + 1)

        def quantiles(levels):
            """At levels [B, N]: [B, A, N]."""
            seen = nn.relu(told(jnp.cos(levels[..., None] * waves)))
            return jnp.moveaxis(streams(features[:, None] * seen)[..., 0], 1, -1)

        batch = features.shape[0]
        if self.levels == "implicit":
            levels = Levels(*(jnp.broadcast_to(x, (batch, self.size)) for x in even_levels(self.size)))
            if key is not None:
                levels = levels._replace(middle=jax.random.uniform(key, (batch, self.size)))
            return Output(quantiles(levels.middle), levels)
        proposal = nn.Dense(
            self.size, kernel_init=nn.initializers.normal(0.01), name="proposal"
        )  # even ones at first, nearly
        share = nn.softmax(proposal(jax.lax.stop_gradient(features).astype(jnp.float32)))
        above = jnp.cumsum(share, axis=-1)
        inner, fixed = above[:, :-1], jax.lax.stop_gradient(above)
        levels = Levels(fixed - 0.5 * jax.lax.stop_gradient(share), jax.lax.stop_gradient(share))
        values = quantiles(jnp.concatenate([levels.middle, fixed[:, :-1]], axis=1))
        return Output(values[..., : self.size], levels, (inner, jax.lax.stop_gradient(values[..., self.size :])))


class Streams(nn.Module):
    """Features [..., any] to [..., A, size]: of the actions alone, or of a value and their advantages."""

    num_actions: int
    size: int
    hidden: tuple[int, ...]
    dueling: bool
    noisy: bool
    shared: dict

    @nn.compact
    def __call__(self, features):
        def stream(num):
            last = NoisyDense(num * self.size) if self.noisy else dense(num * self.size)
            output = last(Torso(self.hidden, noisy=self.noisy, **self.shared)(features).astype(jnp.float32))
            return output.reshape(*output.shape[:-1], num, self.size)

        if not self.dueling:
            return stream(self.num_actions)
        of_one = jax.vmap(losses.dueling, (0, 1), 1)
        return jnp.vectorize(of_one, signature="(n),(a,n)->(a,n)")(stream(1)[..., 0, :], stream(self.num_actions))
