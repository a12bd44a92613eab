"""How fast a loop of this library runs, for the scripts that measure it against others."""

import time
from collections.abc import Callable
from typing import Any

import jax


def iterations_per_second(run: Callable, state: Any, *shared: Any, seconds: float = 10.0) -> float:
    """Of one compiled program that takes about so many seconds; compiling is left out.

    Args:
      run: (state, number of iterations, *shared) -> (state, anything), to be traced. It may use up its state.
      shared: arrays that all iterations read.
    """
    count = 10
    for measured in (False, True):  # the first says how many take so long
        chunk = jax.jit(lambda state, *shared, n=count: run(state, n, *shared), donate_argnums=0)
        chunk = chunk.lower(state, *shared).compile()
        if not measured:
            state, _ = jax.block_until_ready(chunk(state, *shared))
        start = time.perf_counter()
        state, _ = jax.block_until_ready(chunk(state, *shared))
        rate = count / (time.perf_counter() - start)
        count = max(1, int(seconds * rate))
    return rate
