"""COMBO on small tasks; chosen by their sizes, not yet measured."""

from rljax.experiments.configs import offline

TUNED = offline.family(offline.MODEL, offline.PENDULUM, offline.MAZE)
