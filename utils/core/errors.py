"""User errors, which scripts print as one line."""

from __future__ import annotations

WORKER_DIED = "DataLoader worker (pid"  # start of the PyTorch message about a killed loader process


class InputError(ValueError):
    """A file, flag or value of the user cannot be used; the message names place, value and remedy."""


class StoppedError(Exception):
    """The run ended on SIGTERM, at a point from which it can be resumed."""
