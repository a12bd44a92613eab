"""Action values of sequences of continuous actions, one level of bins at a time."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.losses import value as losses
from rljax.networks.torsos import Torso, dense


class SequenceCritic(nn.Module):
    """(observation [*B, *shape], middle [*B, K, D], level) -> [*B, K, D, bins, size]: what a head reads of each bin into which a
    level cuts each dimension of each of K actions, around the `middle` that the levels before have led to.

    Each action by its place in the sequence, then one after another by a GRU; with K = 1 there is neither. Seo & Abbeel, 2024
    (arXiv:2411.12155); for one action Seo et al., 2024 (arXiv:2407.07787). With `dueling` a value and the bins' advantages have
    networks of their own.
    """

    num_levels: int
    num_bins: int
    size: int
    hidden: tuple[int, ...]
    rank: int = 1
    channels: tuple[int, ...] = ()
    activation: str = "relu"
    layer_norm: bool = False
    dtype: str = "float32"
    dueling: bool = False

    @nn.compact
    def __call__(self, observation, middle, level):
        length, dimensions = middle.shape[-2:]
        seen = Torso((), self.rank, self.channels, self.activation, dtype=self.dtype)(observation)
        told = [seen[..., None, :], middle, jax.nn.one_hot(level, self.num_levels)]
        told += [jnp.eye(length)] if length > 1 else []
        joined = jnp.concatenate([jnp.broadcast_to(x, (*middle.shape[:-1], x.shape[-1])) for x in told], axis=-1)

        def stream(count):
            """[*B, K, D, count, size]"""
            features = Torso(self.hidden, 1, (), self.activation, self.layer_norm, dtype=self.dtype)(joined)
            if length > 1:
                features = nn.RNN(nn.GRUCell(features.shape[-1], dtype=self.dtype))(features)
            output = dense(dimensions * count * self.size, 0.01)(features.astype(jnp.float32))
            return output.reshape(*middle.shape, count, self.size)

        if not self.dueling:
            return stream(self.num_bins)
        of_one = jax.vmap(losses.dueling, (0, 1), 1)
        return jnp.vectorize(of_one, signature="(n),(a,n)->(a,n)")(stream(1)[..., 0, :], stream(self.num_bins))
