"""Model files that can do more than compute, which are loaded only with `--trust`."""

from __future__ import annotations

from utils.core.errors import InputError


class UntrustedError(InputError):
    """The file can do more than compute, or cannot be checked for it, and the user did not say that it is trusted.

    Args:
        place: file, and place in it if known.
        reason: what it can do.
    """

    def __init__(self, place: object, reason: str) -> None:
        super().__init__(f"{place}: {reason}; use --trust (hub: trust=True) if you trust the file")
