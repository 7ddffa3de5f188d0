"""The errors that are the user's to mend; scripts print them as one line and exit with status 2."""

from __future__ import annotations


class InputError(ValueError):
    """A file, flag or value from outside cannot be used; the message names place, value and remedy."""
