"""Tests run on eight virtual CPU devices, and hold the array arguments of losses to their declared shapes and dtypes.

Most of a test's time is compiling, so programs of this process are compiled with few optimisations and by XLA's older, plainer
emitters (a third of the time); those of the binaries that tests start are compiled as users have them, unless they are given the
environment `plain`.
"""

import gc
import os

import jax
import jaxtyping
import pytest

import rljax

rljax.runtime.use_cpu_devices(8)
jax.config.update("jax_disable_most_optimizations", True)
FLAGS = os.environ["XLA_FLAGS"]
PLAIN = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{FLAGS} {PLAIN}"
jax.devices()  # XLA has read its flags now, and what tests start does not inherit them
os.environ["XLA_FLAGS"] = FLAGS
jaxtyping.install_import_hook("rljax.losses", "beartype.beartype")


def pytest_collection_modifyitems(items):
    """The notebooks come first: few and long, they would keep one worker busy after the others are done."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


@pytest.fixture(scope="session")
def plain():
    """The environment of a binary that compiles as this process does, and not as users have it."""
    return os.environ | {"XLA_FLAGS": f"{FLAGS} {PLAIN}", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


@pytest.fixture
def float64():
    """The test computes in float64 where its arguments do."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Compiled programs are dropped after each file: kept, they come to 5 GB a process by the end."""
    yield
    jax.clear_caches()
    gc.collect()
