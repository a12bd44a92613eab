"""What must be settled before jax starts its backends.

XLA's CPU client runs programs on a pool of as many threads as there are cores. When as many virtual devices as threads wait
for work that itself needs a thread, the program hangs. The size of the pool is read from the variable NPROC; a pool larger
than the number of devices cannot hang, and one Eigen thread a device is faster for small networks. Importing rljax sets both
(and respects what you have set); `check_pool` refuses to run what could hang.
"""

import os

from rljax.errors import UserError

MAX_VIRTUAL_DEVICES = 16
EIGEN_FLAG = "--xla_cpu_multi_thread_eigen"


def prepare() -> None:
    """Set the environment variables that XLA reads when its CPU client starts. Harmless on accelerators."""
    os.environ.setdefault("NPROC", str(max(cpu_count(), MAX_VIRTUAL_DEVICES) + 2))
    flags = os.environ.get("XLA_FLAGS", "")
    if EIGEN_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {EIGEN_FLAG}=false".strip()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cpu_devices(count: int) -> None:
    """Ask for `count` virtual devices, where the backend turns out to be the CPU. Call before the first array is made."""
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)


def check_pool(num_devices: int) -> None:
    """Raise UserError if `num_devices` virtual CPU devices could hang on a thread pool that is too small."""
    import jax

    if jax.default_backend() != "cpu" or num_devices == 1:
        return
    threads = int(os.environ.get("NPROC", cpu_count()))
    if threads <= num_devices:
        raise UserError(
            f"{num_devices} CPU devices share a pool of {threads} threads, on which XLA can hang: import rljax before jax, "
            f"or set NPROC={num_devices + 1} or more."
        )
