"""Environments: adapters, wrappers and our own, by name.

env = rljax.envs.make("gymnax/CartPole-v1")
state, observation = env.reset(key)
state, timestep = env.step(state, action, key)
"""

from rljax.envs.registry import make, names, on_host

__all__ = ["make", "names", "on_host"]
