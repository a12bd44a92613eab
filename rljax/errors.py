"""Errors that a user can mend."""


class UserError(ValueError):
    """What was wrong and what would be right, in one sentence. The binaries print it without a traceback."""
