"""Paths of files that arrive while a run goes on: in a watched folder, or on standard input."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_S = 0.5  # between two looks at a folder
WAKE_S = 0.2  # between two looks at whether to go on waiting for input

Signature = tuple[int, int]  # modification time in ns, size


class WatchedFiles:
    """Files that a listing gives, first those there are, then each new or changed one once it has come to rest.

    Args:
        listing: the files there are now, in order.
        poll_s: seconds between two listings; a file is at rest if two in a row find the same size and time.

    Attributes:
        ignored: a folder whose files are left out, such as the one that the run writes to.
    """

    def __init__(self, listing: Callable[[], list[str]], *, poll_s: float = POLL_S) -> None:
        self.listing, self.poll_s = listing, poll_s
        self.ignored: Path | None = None
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[str]:
        given: dict[str, Signature] = {}
        before = self._look()
        yield from self._new(before, before, given)
        while not self._closed.wait(self.poll_s):
            now = self._look()
            given = {path: signature for path, signature in given.items() if path in now}
            yield from self._new(now, before, given)
            before = now

    def close(self) -> None:
        """End the iteration."""
        self._closed.set()

    def _new(
        self, now: dict[str, Signature], before: dict[str, Signature], given: dict[str, Signature]
    ) -> Iterator[str]:
        """Files at rest that were not given as they are; they are entered in `given`."""
        for path, signature in now.items():
            if signature == before.get(path) != given.get(path):
                if self._closed.is_set():
                    return
                given[path] = signature
                yield path

    def _look(self) -> dict[str, Signature]:
        """Time and size of each file there is."""
        found: dict[str, Signature] = {}
        try:
            listed = self.listing()
        except OSError:
            return found  # the folder is gone; it may come back
        for path in listed:
            if self.ignored is not None and Path(path).absolute().is_relative_to(self.ignored.absolute()):
                continue
            try:
                status = os.stat(path)  # noqa: PTH116 - a listing is looked through twice a second
            except OSError:
                continue  # gone since the listing
            found[path] = (status.st_mtime_ns, status.st_size)
        return found


class PathLines:
    """Paths read line by line from an open file as they come; empty lines are left out.

    Args:
        descriptor: of the file, that of standard input for instance.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[str]:
        left = b""
        while not self._closed.is_set():
            if not self._ready():
                continue
            chunk = os.read(self.descriptor, 1 << 16)  # sys.stdin would hold a lock that Python needs when it ends
            *lines, left = (left + chunk).split(b"\n") if chunk else (left, b"")
            for line in lines:
                if path := os.fsdecode(line).strip():
                    yield path
            if not chunk:
                return

    def close(self) -> None:
        """End the iteration; on Windows after the next line only."""
        self._closed.set()

    def _ready(self) -> bool:
        """Whether there is something to read, after at most WAKE_S; Windows cannot tell, there reading waits."""
        return os.name != "posix" or bool(select.select([self.descriptor], [], [], WAKE_S)[0])
