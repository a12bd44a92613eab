"""Helping with names that were mistyped."""

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str]) -> str:
    """Half a sentence with the valid names closest to `name`, or with all where none is close."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=4, cutoff=0.5)
    return f"nearest: {', '.join(close)}." if close else f"there are: {', '.join(valid)}."
