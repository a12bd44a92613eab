"""DSAC: SAC's settings, for equal steps. docs/results says what was run with these."""

from rljax.experiments.configs import sac

TUNED = sac.TUNED
