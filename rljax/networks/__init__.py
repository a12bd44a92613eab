"""Network parts: torsos, recurrent cores, ensembles. Heads that make distributions live with rljax.distributions."""

from rljax.networks.ensemble import ensemble
from rljax.networks.recurrent import unroll_memory
from rljax.networks.torsos import MLP, Torso

__all__ = ["MLP", "Torso", "ensemble", "unroll_memory"]
