"""CQL on small tasks; docs/results says what was run with these."""

from rljax.experiments.configs import offline

RATES = {**offline.RATES, "temperature_learning_rate": 1e-3}  # a temperature that comes down within 10,000 updates
# The push on values stands beside squares of them, so it is scaled as rewards are, and weighed as an action's advantage is here:
# of 0.25 and more the critics tell what is common in the data, and not what is better.
PENDULUM = {**offline.PENDULUM, "conservative_weight": 0.03}

TUNED = offline.family(RATES, PENDULUM, offline.MAZE, offline.FAR)
