"""f-IRL: a stationary reward whose soft-optimal policy visits states as the demonstrations do. Ni et al., 2020, arXiv:2011.04709.

The divergence's gradient is known up to the ratio of visits, which a logit learns from both; see paths.py. As for adversarial
imitation, but the reward itself is kept, and another agent can be trained on it.
"""

from rljax.agents.imitation import paths
from rljax.agents.imitation.paths import make, source
from rljax.record import record, static

__all__ = ["Config", "make", "source"]


@record
class Config(paths.Config):
    """With a reward of states, as in the paper; of actions too, visits of states and actions are matched."""

    objective: str = static("forward_kl")
    inputs: str = static("state")
