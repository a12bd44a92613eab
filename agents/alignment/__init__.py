"""Agents that write: policies over completions of tokens."""
