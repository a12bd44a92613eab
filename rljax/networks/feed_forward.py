"""The network of most agents: an observation, perhaps an action beside it, to some numbers."""

import flax.linen as nn
import jax.numpy as jnp

from rljax.networks.torsos import Torso, dense
from rljax.types import EnvSpec


class FeedForward(nn.Module):
    """(observation [..., *shape], *inputs [..., any]) -> [..., size], linear and in float32 at the end.

    `channels` of convolutions see the observation alone; `inputs` (an action, say) join before the `hidden` layers.

    Args:
      rank: dimensions of one observation; all axes before are batch axes.
    """

    size: int
    hidden: tuple[int, ...]
    rank: int = 1
    channels: tuple[int, ...] = ()
    activation: str = "relu"
    layer_norm: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, observation, *inputs):
        seen = Torso((), self.rank, self.channels, self.activation, dtype=self.dtype)(observation)
        joined = jnp.concatenate([seen, *inputs], axis=-1)
        features = Torso(self.hidden, 1, (), self.activation, self.layer_norm, dtype=self.dtype)(joined)
        return dense(self.size)(features.astype(jnp.float32))


def structure(spec: EnvSpec, config) -> dict:
    """What all networks of an agent share: FeedForward's arguments as `config` names them and `spec` fixes them."""
    return dict(
        hidden=config.hidden,
        rank=len(spec.observation_shape),
        channels=config.channels,
        activation=config.activation,
        dtype=config.dtype,
    )
