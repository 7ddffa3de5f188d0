"""Reading ahead and writing behind: threads with short queues to both sides of the network."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Generic, TypeVar

from utils.core.errors import InputError
from utils.predict.results import Result
from utils.predict.writers import Writer

READ_AHEAD, WRITE_BEHIND = 3, 4  # images in a queue
JOIN_S = 5.0  # waited for a reader that was told to end
WAKE_S = 0.5  # waits are cut into pieces: on Windows a Ctrl-C reaches the main thread only between them

T = TypeVar("T")


class Channel(Generic[T]):
    """A queue of limited length from one thread to another, which either of them can end."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = self._dropped = False

    def put(self, item: T) -> bool:
        """Add an item once there is room; False, and the item is lost, where nobody takes them any longer."""
        with self._changed:
            while len(self._items) >= self.depth and not self._dropped:
                self._changed.wait(WAKE_S)
            if self._dropped:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def __iter__(self) -> Iterator[T]:
        """The items in order, as they come, until the queue was finished and is empty, or dropped."""
        while True:
            with self._changed:
                while not self._items and not self._finished and not self._dropped:
                    self._changed.wait(WAKE_S)
                if self._dropped or not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def __len__(self) -> int:
        return len(self._items)

    def finish(self) -> None:
        """No further items will come."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def drop(self) -> None:
        """Throw away what is in the queue and all that is to come."""
        with self._changed:
            self._dropped = True
            self._items.clear()
            self._changed.notify_all()


def read_ahead(items: Iterator[T], depth: int = READ_AHEAD) -> Iterator[T]:
    """The same items in the same order, worked out by a thread up to `depth` of them before they are asked for.

    What goes wrong in the thread is raised here, after the items before it. Closing this generator ends the thread.
    """
    channel: Channel[T] = Channel(depth)
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for item in items:
                if not channel.put(item):
                    break
        except BaseException as error:
            failures.append(error)
        finally:
            if (close := getattr(items, "close", None)) is not None:
                close()
            channel.finish()

    thread = threading.Thread(target=read, name="reader", daemon=True)
    thread.start()
    try:
        yield from channel
        if failures:
            raise failures[0]
    finally:
        channel.drop()
        thread.join(JOIN_S)


class BackgroundWriter:
    """Hands results to writers in a thread of its own, in order; waits where `depth` of them are behind.

    What goes wrong in the thread is raised by the next `write`, or by `close`.

    Args:
        writers: used in the thread only, and closed by it.
    """

    def __init__(self, writers: Sequence[Writer], depth: int = WRITE_BEHIND) -> None:
        self.writers = writers
        self._channel: Channel[Result] = Channel(depth)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def write(self, result: Result) -> None:
        """Have a result written soon."""
        if not self._channel.put(result):
            self._raise_failure()

    def close(self) -> None:
        """Wait until everything is written and the writers are closed."""
        self._channel.finish()
        while self._thread.is_alive():
            self._thread.join(WAKE_S)
        self._raise_failure()

    def _run(self) -> None:
        try:
            with ExitStack() as stack:
                for writer in self.writers:
                    stack.callback(writer.close)
                for result in self._channel:
                    write_all(self.writers, result)
        except BaseException as error:
            self._failure = error
        finally:
            self._channel.drop()

    def _raise_failure(self) -> None:
        if (failure := self._failure) is not None:
            self._failure = None
            raise failure


def write_all(writers: Sequence[Writer], result: Result) -> None:
    """Hand a result to each writer; InputError where the disk refuses."""
    try:
        for writer in writers:
            writer.write(result)
    except OSError as error:
        reason = f"its results cannot be written: {error}"
        raise InputError(f"{result.source.path}: {reason}; free space, or --nosave") from error
