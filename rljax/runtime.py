"""What must be settled before jax starts its backends.

XLA's CPU client runs programs on a pool of threads, as many as there are cores. When several virtual devices wait on threads for
work that itself needs one, the program can hang. So their pool is a large one; threads without work cost speed, but with one more
than there are devices a run was seen to hang (docs/results). A single device has XLA's own default. The size of the pool is read
from the variable NPROC, which `use_cpu_devices` sets (and respects if you have); `check_pool` refuses to run what is known to hang.
One Eigen thread a device is faster for small networks; importing rljax sets that.
"""

import os
import re

from rljax.errors import UserError

POOL = 18  # threads, or two more than there are devices
EIGEN_FLAG = "--xla_cpu_multi_thread_eigen"
DEVICES_FLAG = "--xla_force_host_platform_device_count"


def prepare() -> None:
    """Set the environment variables that XLA reads when its CPU client starts. Harmless on accelerators."""
    flags = os.environ.get("XLA_FLAGS", "")
    if EIGEN_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {EIGEN_FLAG}=false".strip()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    if forced_devices():
        _size_pool(forced_devices())


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def forced_devices() -> int:
    """Virtual devices that XLA_FLAGS asks for; 0 where it does not say."""
    found = re.search(rf"{DEVICES_FLAG}=(\d+)", os.environ.get("XLA_FLAGS", ""))
    return int(found[1]) if found else 0


def use_cpu_devices(count: int) -> None:
    """Ask for `count` virtual devices, where the backend turns out to be the CPU. Call before the first array is made."""
    import jax

    if not forced_devices():
        jax.config.update("jax_num_cpu_devices", count)
        _size_pool(count)


def check_pool(num_devices: int) -> None:
    """Raise UserError if `num_devices` virtual CPU devices could hang on a thread pool that is too small."""
    import jax

    if jax.default_backend() != "cpu" or num_devices == 1:
        return
    threads = int(os.environ.get("NPROC", cpu_count()))
    if threads <= num_devices:
        raise UserError(
            f"{num_devices} CPU devices share a pool of {threads} threads, on which XLA can hang: before the first array call "
            f"rljax.runtime.use_cpu_devices({num_devices}), or set NPROC={num_devices + 1} or more."
        )


def _size_pool(num_devices: int) -> None:
    """For several devices; one has a thread for each core."""
    if num_devices > 1:
        os.environ.setdefault("NPROC", str(max(cpu_count() + 2, num_devices + 2, POOL)))
