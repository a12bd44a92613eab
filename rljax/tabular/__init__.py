"""Finite MDPs solved exactly."""
