"""Features of observations, and of actions taken there, from which what comes next is linear."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax.networks.torsos import Torso, activation, dense


class LatentModel(nn.Module):
    """f(s), g(f(s), a) and a linear model of them. Fujimoto et al., 2025 (arXiv:2501.16142), section 4.

    `encode`:  observations [..., *shape] -> their features [..., state_size], the last layer normalised and activated too.
    `join`:    such features, and actions as vectors [..., A] -> features of both [..., pair_size].
    `predict`: features of both -> those of the next observation [..., state_size], logits of the reward [..., num_bins] and
      whether the MDP terminates [...], all linear and in float32.

    Args:
      hidden: layers before the last of `encode` and of `join`.
      rank, channels: of observations and of the convolutions before all layers, see `Torso`.
    """

    state_size: int
    action_size: int
    pair_size: int
    num_bins: int
    hidden: tuple[int, ...]
    rank: int = 1
    channels: tuple[int, ...] = ()
    activation: str = "elu"
    dtype: str = "float32"

    def setup(self):
        shared = dict(activation=self.activation, layer_norm=True, dtype=self.dtype)
        self.of_state = Torso((*self.hidden, self.state_size), self.rank, self.channels, **shared)
        self.of_action = dense(self.action_size, dtype=self.dtype)
        self.of_pair = Torso(self.hidden, **shared)
        self.last = dense(self.pair_size, dtype=self.dtype)
        self.next = dense(self.state_size + self.num_bins + 1)

    def encode(self, observation: Array) -> Float[Array, "*B state_size"]:
        return self.of_state(observation)

    def join(
        self, features: Float[Array, "*B state_size"], action: Float[Array, "*B A"]
    ) -> Float[Array, "*B pair_size"]:
        of_action = activation(self.activation)(self.of_action(action))
        return self.last(self.of_pair(jnp.concatenate([features, of_action], axis=-1)))

    def predict(self, pair: Float[Array, "*B pair_size"]) -> tuple[Array, Array, Array]:
        output = self.next(pair.astype(jnp.float32))
        features, reward_logits, termination = jnp.split(output, [self.state_size, self.state_size + self.num_bins], -1)
        return features, reward_logits, termination[..., 0]

    def __call__(self, observation: Array, action: Float[Array, "*B A"]) -> tuple[Array, Array, Array]:
        return self.predict(self.join(self.encode(observation), action))
