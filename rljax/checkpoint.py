"""Checkpoints of everything a run is, with Orbax: written aside and renamed when whole, in the background, the last few kept."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from rljax.errors import UserError


class Checkpoints:
    """The checkpoints in one folder, by step; the last `keep` of them, or all (None)."""

    def __init__(self, folder: str | pathlib.Path, keep: int | None = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True, create=True)
        self._manager = ocp.CheckpointManager(pathlib.Path(folder).absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """The step of the newest whole checkpoint."""
        return self._manager.latest_step()

    @property
    def all(self) -> list[int]:
        """The steps of all whole checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any) -> None:
        """Begin to write `state`; returns once it is copied. The arrays may then be donated, if they are not the caller's only
        copy: hand in a copy on backends where host and device share memory (`parallel.Fleet.trim` makes one)."""
        self._manager.save(step, args=ocp.args.StandardSave(_encode(state)))

    def restore(
        self,
        like: Any,
        sharding_of: Callable[[tuple[int, ...]], jax.sharding.Sharding] | None = None,
        step: int | None = None,
        part: bool = False,
    ) -> Any:
        """The state saved at `step`, the latest by default.

        Args:
          like: its structure, shapes and dtypes (jax.ShapeDtypeStruct, as of jax.eval_shape).
          sharding_of: where an array of a shape goes; by default to the first device.
          part: `like` holds only some fields of what was saved, as a dictionary by name; the others are not read.
        Raises:
          FileNotFoundError: there is no checkpoint.
          ValueError: the checkpoint is damaged or of another structure.
        """
        step = self.latest if step is None else step
        if step is None:
            raise FileNotFoundError(f"There is no checkpoint in {self._manager.directory}.")
        first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        where = sharding_of or (lambda shape: first)
        placed = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where(x.shape))
        plain = jax.tree.map(placed, jax.eval_shape(_encode, like))
        try:
            encoded = self._manager.restore(step, args=_part(plain) if part else ocp.args.StandardRestore(plain))
        except Exception as error:
            folder, reason = self._manager.directory / str(step), str(error).strip().split("\n")[0][:200]
            raise UserError(
                f"The checkpoint {folder} cannot be read ({reason}); delete that folder to go on from an older one."
            ) from error
        return _decode(encoded, like)

    def wait(self) -> None:
        """Until everything begun is written. Raises what went wrong in the background (a full disk)."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


def _part(plain: Any) -> ocp.args.PyTreeRestore:
    restore_args = ocp.checkpoint_utils.construct_restore_args(plain)
    return ocp.args.PyTreeRestore(plain, restore_args=restore_args, partial_restore=True)


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _encode(state: Any) -> Any:
    """Typed keys as plain numbers."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, state)


def _decode(encoded: Any, like: Any) -> Any:
    return jax.tree.map(lambda x, y: jax.random.wrap_key_data(x) if _is_key(y) else x, encoded, like)
