"""COMBO on small tasks; docs/results says what was run with these."""

from rljax.experiments.configs import offline

TUNED = offline.family(offline.MODEL_RATES, offline.PENDULUM, offline.MAZE)
