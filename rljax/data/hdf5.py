"""HDF5 files, opened by h5py, which is optional. Nothing in them is unpickled: h5py gives numbers and text alone."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from rljax.errors import UserError


@contextlib.contextmanager
def opened(path: str | pathlib.Path, mode: str = "r") -> Iterator[Any]:
    """The h5py.File at `path`. Raises UserError where h5py is not installed or the file is not HDF5."""
    try:
        import h5py
    except ImportError:
        raise UserError(f"{path} needs h5py: pip install 'rljax-suite[gymnasium]'.") from None
    try:
        file = h5py.File(path, mode)
    except OSError as error:
        raise UserError(f"{path} cannot be read as HDF5: {error}") from error
    with file:
        yield file


def array(group: Any, name: str, path: str | pathlib.Path) -> np.ndarray:
    """The numbers `name` in a group of the file `path`.

    Raises:
      UserError: there is no such array, it cannot be read, or holds anything but numbers.
    """
    node = group.get(name)
    if node is None or not hasattr(node, "dtype"):
        raise UserError(f"{path} has no array {name} in {group.name}.")
    if node.dtype.kind not in "biuf":
        raise UserError(f"{path} holds {group.name}/{name} as {node.dtype} rather than numbers.")
    try:
        return node[()]
    except OSError as error:
        raise UserError(f"{path} cannot be read at {group.name}/{name}: {error}") from error
