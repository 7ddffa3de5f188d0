"""Watch folders and paths from standard input."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from utils.core.errors import InputError

POLL_S = 0.5  # between two listings of a folder
WAKE_S = 0.2  # between two checks for `close` while waiting for input
MAX_LINE = 1 << 20  # bytes

Signature = tuple[int, int]  # modification time in ns, size


class WatchedFiles:
    """Iterator over the files of a listing, then over each new or changed file once it is complete.

    Args:
        listing: returns the present files, in order.
        poll_s: seconds between two listings; a file is complete if two in a row show the same size and time.

    Attributes:
        ignored_folder: its files are ignored; for the folder that the run writes to.
    """

    def __init__(self, listing: Callable[[], list[str]], *, poll_s: float = POLL_S) -> None:
        self.listing, self.poll_s = listing, poll_s
        self.ignored_folder: Path | None = None
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[str]:
        history: dict[str, Signature] = {}
        previous = self._scan()
        yield from self._find_complete(previous, previous, history)
        while not self._closed.wait(self.poll_s):
            current = self._scan()
            history = {path: signature for path, signature in history.items() if path in current}
            yield from self._find_complete(current, previous, history)
            previous = current

    def close(self) -> None:
        """End the iteration."""
        self._closed.set()

    def _find_complete(
        self, current: dict[str, Signature], previous: dict[str, Signature], history: dict[str, Signature]
    ) -> Iterator[str]:
        """Complete files that `history` does not have in this state; adds them to it."""
        for path, signature in current.items():
            if signature == previous.get(path) != history.get(path):
                if self._closed.is_set():
                    return
                history[path] = signature
                yield path

    def _scan(self) -> dict[str, Signature]:
        """Modification time and size of each present file."""
        signatures: dict[str, Signature] = {}
        try:
            paths = self.listing()
        except OSError:
            return signatures  # the folder is gone; it may come back
        for path in paths:
            if self.ignored_folder is not None and Path(path).absolute().is_relative_to(self.ignored_folder.absolute()):
                continue
            try:
                status = os.stat(path)  # noqa: PTH116 - runs for every file, twice a second
            except OSError:
                continue  # removed since the listing
            signatures[path] = (status.st_mtime_ns, status.st_size)
        return signatures


class PathLines:
    """Iterator over the paths in an open file, one per line, as they are written; empty lines are skipped.

    Args:
        descriptor: of the file, such as standard input.

    Raises:
        InputError: a line is too long for a path.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[str]:
        rest = b""
        while not self._closed.is_set():
            if os.name == "posix" and not select.select([self.descriptor], [], [], WAKE_S)[0]:
                continue
            chunk = os.read(self.descriptor, 1 << 16)  # sys.stdin would hold a lock that Python needs at exit
            *lines, rest = (rest + chunk).split(b"\n") if chunk else (rest, b"")
            if len(rest) > MAX_LINE:
                raise InputError(f"--source: a line of over {MAX_LINE:,} bytes is no path; write one path per line")
            for line in lines:
                if path := os.fsdecode(line).strip():
                    yield path
            if not chunk:
                return

    def close(self) -> None:
        """End the iteration; on Windows only after the next line."""
        self._closed.set()
