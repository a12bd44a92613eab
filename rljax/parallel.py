"""Many runs in one program: seeds x hyperparameters, over the devices of one host or of many.

A run is a function of one key and one point of a sweep. `Fleet.over` makes of it a function of S keys and S points, laid out as

  vmap     all runs of a device at once, as one vectorised program; the runs are split over all devices
  devices  each device takes its runs one after another
  map      one device takes all runs one after another
  data     all devices take each run together, one run after another: its environments and minibatches are split over them
  fsdp     as data, and each device keeps but its part of what is large in a run's state (parameters, their moments)

`auto` is `vmap` on accelerators and `devices` on CPUs, where one seed a core is fastest (docs/architecture.md has the numbers).
All hosts of a pod run the same program; a host sees its own part of every array, and `to_host` gathers the whole.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rljax import runtime
from rljax.errors import UserError

LAYOUTS = ("auto", "vmap", "devices", "map", "data", "fsdp")
LARGE = 1024  # numbers a device from which on an array is split
TOGETHER = ("data", "fsdp")  # all devices take a run together
RUNS, ENVS = "run", "env"  # axes of a mesh: what is split over it


class Fleet(NamedTuple):
    """`num_runs` runs on the devices of `mesh`. Where these split the runs, runs are padded by repeats of the first."""

    num_runs: int
    mesh: Mesh
    mapped: bool  # one after another on each device, rather than vectorised
    splits_state: bool = False  # each device keeps its part of what is large

    @property
    def splits_runs(self) -> bool:
        return self.mesh.axis_names == (RUNS,)

    @property
    def padded(self) -> int:
        return self.mesh.size * math.ceil(self.num_runs / self.mesh.size) if self.splits_runs else self.num_runs

    @property
    def sharding(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(RUNS)) if self.splits_runs else self.replicated

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def sharding_of(self, shape: Sequence[int]) -> NamedSharding:
        """Where an array [num_runs, ...] without padding lies: on every device; where states are split and it is large, along the
        first of its other axes that the devices divide (of a product's weights that of its inputs, so that outputs, heads say, stay
        together)."""
        divided = [axis for axis, size in enumerate(shape) if axis and size % self.mesh.size == 0]
        if not self.splits_state or math.prod(shape) < LARGE * self.mesh.size or not divided:
            return self.replicated
        return NamedSharding(self.mesh, PartitionSpec(*[None] * divided[0], ENVS))

    def placed(self, shapes: Any) -> Any:
        """Shapes of arrays [padded, ...] as `over` takes and gives them: with where they lie."""
        where = lambda x: self.sharding if self.splits_runs else self.sharding_of(x.shape)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where(x)), shapes)

    def over(self, function: Callable, donate: Sequence[int] = (), num_shared: int = 0) -> Callable:
        """`function` over the leading axis [padded] of its arguments, jitted; arguments `donate` give up their memory.

        The first `num_shared` arguments have no such axis: every run sees the whole of them (a dataset, say).
        """

        def local(*args):
            one = functools.partial(function, *args[:num_shared])
            args = args[num_shared:]
            return jax.lax.map(lambda args: one(*args), args) if self.mapped else jax.vmap(one)(*args)

        if not self.splits_runs:

            def spread_out(*args):
                with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                    return self._lie(local(*args))

            return jax.jit(spread_out, donate_argnums=donate)
        if self.mesh.size > 1:
            runs = PartitionSpec(RUNS)

            def split(*args):
                specs = (*[PartitionSpec()] * num_shared, *[runs] * (len(args) - num_shared))
                return jax.shard_map(local, mesh=self.mesh, in_specs=specs, out_specs=runs, check_vma=False)(*args)

            return jax.jit(split, donate_argnums=donate)
        return jax.jit(local, donate_argnums=donate)

    def _lie(self, tree: Any) -> Any:
        """Results of runs that share all devices, each where it is to lie."""
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, self.sharding_of(x.shape)), tree)

    def place(self, tree: Any) -> Any:
        """Arrays [num_runs, ...], known to every host, as padded arrays spread over the devices."""

        def pad(x):
            return jnp.concatenate([x, jnp.broadcast_to(x[:1], (self.padded - self.num_runs, *x.shape[1:]))])

        constant = jax.tree.map(np.asarray, tree)
        return jax.jit(lambda: jax.tree.map(lambda x: pad(jnp.asarray(x)), constant), out_shardings=self.sharding)()

    def keys(self, seeds: Sequence[int], base: int = 0) -> jax.Array:
        """One key for each run from its seed, so that a seed's run does not depend on which others run beside it."""
        make = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(base), seed))
        return jax.jit(make, out_shardings=self.sharding)(self.place(np.asarray(seeds, np.uint32)))

    def trim(self, tree: Any) -> Any:
        """A copy of arrays [padded, ...] without the padding, as `sharding_of` says: what is worth keeping of a state."""
        copy = lambda tree: jax.tree.map(lambda x: jnp.copy(x[: self.num_runs]), tree)
        where = jax.tree.map(lambda x: self.sharding_of((self.num_runs, *x.shape[1:])), tree)
        return jax.jit(copy, out_shardings=where)(tree)

    def fill(self, tree: Any) -> Any:
        """The inverse of `trim`."""

        def padded(tree):
            rows = jnp.where(jnp.arange(self.padded) < self.num_runs, jnp.arange(self.padded), 0)
            return jax.tree.map(lambda x: x[rows], tree)

        where = jax.tree.map(lambda x: x.sharding, self.placed(jax.eval_shape(padded, tree)))
        return jax.jit(padded, out_shardings=where)(tree)

    def to_host(self, tree: Any) -> Any:
        """Arrays [padded, ...] as numpy arrays [num_runs, ...] on every host."""
        if jax.process_count() > 1:
            tree = multihost_utils.process_allgather(tree, tiled=True)
        return jax.tree.map(lambda x: np.asarray(x)[: self.num_runs], tree)


def fleet(num_runs: int, layout: str = "auto", devices: Sequence[jax.Device] | None = None) -> Fleet:
    """Lay out `num_runs` runs.

    Raises:
      ValueError: an unknown layout.
      UserError: more virtual CPU devices than XLA's thread pool can serve (see rljax.runtime).
    """
    if layout not in LAYOUTS:
        raise UserError(f"Unknown layout {layout!r}; one of: {', '.join(LAYOUTS)}.")
    devices = list(jax.devices() if devices is None else devices)
    on_cpu = devices[0].platform == "cpu"
    if layout == "auto":
        layout = "devices" if on_cpu else "vmap"
    if jax.process_count() == 1 and layout not in TOGETHER:
        devices = devices[: 1 if layout == "map" else num_runs]
    runtime.check_pool(len(devices))
    axis = ENVS if layout in TOGETHER else RUNS
    mesh = jax.make_mesh((len(devices),), (axis,), axis_types=(AxisType.Auto,), devices=devices)
    return Fleet(num_runs, mesh, mapped=layout != "vmap", splits_state=layout == "fsdp")


def spread(tree: Any, axis: int = 0) -> Any:
    """Split `axis` of arrays over the devices, in the layouts `data` and `fsdp`; elsewhere nothing happens.

    XLA then splits what is computed from them and adds up where a mean is taken, so agents need not know.

    Raises:
      ValueError: the axis cannot be split evenly.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if ENVS not in mesh.axis_names:
        return tree
    spec = PartitionSpec(*[None] * axis, ENVS)
    for x in jax.tree.leaves(tree):
        if x.shape[axis] % mesh.size:
            raise UserError(
                f"The layouts `data` and `fsdp` split {x.shape[axis]} environments or samples over {mesh.size} devices unevenly."
            )
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), tree)


def select(tree: Any, index: int) -> Any:
    """One run out of a tree of arrays [S, ...]: its state, to act with it alone."""
    return jax.tree.map(lambda x: x[index], tree)
