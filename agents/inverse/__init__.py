"""Agents that learn what demonstrators are after."""
