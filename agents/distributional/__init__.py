"""Distributional RL: laws of returns under DQN and under soft actor-critic."""
