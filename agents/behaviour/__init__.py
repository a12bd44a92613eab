"""Policies that were never trained: they make data."""
