"""Guided cost learning: the reward under which demonstrated paths are most likely, its partition function sampled by a policy that
follows it. Finn, Levine & Abbeel, 2016, arXiv:1603.00448. See paths.py.

The paper's policies are linear-Gaussian controllers; here SAC's. Samples of earlier policies are not used again for the partition
function. Costs there are negative rewards here, and without the paper's regularisers.
"""

from rljax.agents.imitation.paths import Config, make, source

__all__ = ["Config", "make", "source"]
