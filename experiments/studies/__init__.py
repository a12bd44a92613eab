"""Claims that no run of `train` shows: each file one, with the command that prints its table."""
