"""rljax: reinforcement learning as pure JAX functions, compiled whole."""

from rljax import runtime as _runtime

_runtime.prepare()  # before anything touches jax's backends

from rljax.errors import UserError  # noqa: E402
from rljax.record import record, static  # noqa: E402
from rljax.types import (  # noqa: E402
    Agent,
    Continuous,
    Discrete,
    Env,
    EnvSpec,
    Rollout,
    Sample,
    Source,
    TimeStep,
    Tokens,
    Transition,
)

__all__ = [
    "Agent",
    "Continuous",
    "Discrete",
    "Env",
    "EnvSpec",
    "Rollout",
    "Sample",
    "Source",
    "TimeStep",
    "Tokens",
    "Transition",
    "UserError",
    "record",
    "static",
]

__version__ = "0.2.0"
