"""Agents that learn from data at rest."""
