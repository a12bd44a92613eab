"""ROT. docs/results says what was run with these."""

from rljax.experiments.configs import td3

TUNED = {"gymnax/Pendulum-v1": {**td3.TUNED["gymnax/Pendulum-v1"], "warmup": 0}}
