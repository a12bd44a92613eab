"""COMBO on small tasks; docs/results says what was run with these."""

from rljax.experiments.configs import offline

TUNED = offline.family(offline.MODEL, offline.PENDULUM, offline.MAZE)
