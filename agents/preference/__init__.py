"""Agents that learn from judgements: which of some segments of a dataset was better."""
