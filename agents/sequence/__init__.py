"""Agents that model sequences: what to do is read off what was done, and to which end."""
