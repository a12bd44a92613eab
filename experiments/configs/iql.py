"""IQL on small tasks; docs/results says what was run with these."""

from rljax.experiments.configs import offline

TUNED = offline.family(offline.RATE, offline.PENDULUM, {**offline.MAZE, "lean": 0.9}, offline.FAR)
