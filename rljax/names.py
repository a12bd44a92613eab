"""Helping with names that were mistyped."""

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str]) -> str:
    """Half a sentence with the valid names closest to `name`, or with all where none is close."""
    valid = sorted(valid)
    likeness = lambda other: difflib.SequenceMatcher(None, other.lower(), name.lower()).ratio()
    ranked = sorted(((likeness(other), other) for other in valid), reverse=True)
    close = [other for ratio, other in ranked[:4] if ratio >= 0.5]
    return f"nearest: {', '.join(close)}." if close else f"there are: {', '.join(valid)}."
