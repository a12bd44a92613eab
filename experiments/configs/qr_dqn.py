"""QR-DQN. docs/results says what was run with these."""

from rljax.experiments.configs import laws

TUNED = laws.TUNED
