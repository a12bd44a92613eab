"""Many networks as one."""

import flax.linen as nn


def ensemble(module: type[nn.Module], size: int) -> type[nn.Module]:
    """`size` independent copies of `module`, vmapped: inputs are shared, outputs are stacked in front, [size, ...]."""
    return nn.vmap(
        module, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, out_axes=0, axis_size=size
    )
