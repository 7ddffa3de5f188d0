"""The errors that scripts print as one line: what is the user's to mend, and the end that was asked for."""

from __future__ import annotations

WORKER_DIED = "DataLoader worker (pid"  # how PyTorch starts to say that the system ended a loading process


class InputError(ValueError):
    """A file, flag or value from outside cannot be used; the message names place, value and remedy."""


class StoppedError(Exception):
    """The run was told to end (SIGTERM) and did so where it can be resumed."""
