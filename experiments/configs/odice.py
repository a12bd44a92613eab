"""ODICE on small tasks; docs/results says what was run with these."""

from rljax.experiments.configs import offline

TUNED = offline.family({"policy_learning_rate": 1e-3, "value_learning_rate": 1e-3}, offline.PENDULUM, offline.MAZE)
