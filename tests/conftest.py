"""Tests run on eight virtual CPU devices, and hold the array arguments of losses to their declared shapes and dtypes.

Importing rljax first keeps XLA's thread pool large enough for so many devices.
"""

import jaxtyping

import rljax

rljax.runtime.use_cpu_devices(8)
jaxtyping.install_import_hook("rljax.losses", "beartype.beartype")
