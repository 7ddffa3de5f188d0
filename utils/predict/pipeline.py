"""Background threads that read images and write results."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Generic, TypeVar

from utils.core.errors import InputError
from utils.predict.writers import Writer
from utils.tasks.results import Result

PREFETCH_SIZE, WRITE_QUEUE_SIZE = 3, 4  # items
JOIN_TIMEOUT_S = 5.0  # for the reader thread
POLL_S = 0.5  # on Windows, Ctrl-C reaches the main thread only between waits

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """A queue between two threads that either of them can close."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = self._cancelled = False

    def put(self, item: T) -> bool:
        """Add an item, waiting for room; False if the queue was cancelled."""
        with self._changed:
            while len(self._items) >= self.depth and not self._cancelled:
                self._changed.wait(POLL_S)
            if self._cancelled:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def __iter__(self) -> Iterator[T]:
        """Items in order, until the queue is finished and empty, or cancelled."""
        while True:
            with self._changed:
                while not self._items and not self._finished and not self._cancelled:
                    self._changed.wait(POLL_S)
                if self._cancelled or not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def __len__(self) -> int:
        return len(self._items)

    def finish(self) -> None:
        """Mark the end of the items."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Discard all items, present and future."""
        with self._changed:
            self._cancelled = True
            self._items.clear()
            self._changed.notify_all()


def prefetch(items: Iterator[T], depth: int = PREFETCH_SIZE) -> Iterator[T]:
    """The same items, produced by a thread that runs up to `depth` items ahead.

    An exception in the thread is raised here, after the items before it. Closing this generator ends the thread.
    """
    items_queue: BoundedQueue[T] = BoundedQueue(depth)
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for item in items:
                if not items_queue.put(item):
                    break
        except BaseException as error:
            failures.append(error)
        finally:
            if (close := getattr(items, "close", None)) is not None:
                close()
            items_queue.finish()

    thread = threading.Thread(target=read, name="reader", daemon=True)
    thread.start()
    try:
        yield from items_queue
        if failures:
            raise failures[0]
    finally:
        items_queue.cancel()
        thread.join(JOIN_TIMEOUT_S)


class BackgroundWriter:
    """Writes results in a background thread, in order; `write` blocks while `depth` results are queued.

    An exception in the thread is raised by the next `write`, or by `close`.

    Args:
        writers: used and closed by the thread only.
    """

    def __init__(self, writers: Sequence[Writer], depth: int = WRITE_QUEUE_SIZE) -> None:
        self.writers = writers
        self._queue: BoundedQueue[Result] = BoundedQueue(depth)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def write(self, result: Result) -> None:
        """Queue a result."""
        if not self._queue.put(result):
            self._raise_failure()

    def close(self) -> None:
        """Wait until all results are written and the writers are closed."""
        self._queue.finish()
        while self._thread.is_alive():
            self._thread.join(POLL_S)
        self._raise_failure()

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                for writer in self.writers:
                    stack.callback(writer.close)
                for result in self._queue:
                    write_all(self.writers, result)
        except BaseException as error:
            self._failure = error
        finally:
            self._queue.cancel()

    def _raise_failure(self) -> None:
        if (failure := self._failure) is not None:
            self._failure = None
            raise failure


def write_all(writers: Sequence[Writer], result: Result) -> None:
    """Pass a result to each writer; InputError if it cannot be written."""
    try:
        for writer in writers:
            writer.write(result)
    except OSError as error:
        reason = f"results cannot be written: {error}"
        raise InputError(f"{result.source.path}: {reason}; free disk space, or add --nosave") from error
