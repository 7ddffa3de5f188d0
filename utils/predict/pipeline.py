"""Background threads that read images and write results."""

from __future__ import annotations

import errno
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

from utils.core.errors import InputError
from utils.predict.writers import Writer
from utils.tasks.results import Result

PREFETCH_SIZE, WRITE_QUEUE_SIZE = 3, 4  # items
JOIN_TIMEOUT_S = 5.0  # for the reader thread
POLL_S = 0.1  # on Windows, Ctrl-C reaches the main thread only between waits
END = object()  # last item of a queue

T = TypeVar("T")


def prefetch(items: Iterator[T], depth: int = PREFETCH_SIZE) -> Iterator[T]:
    """The items of a generator, produced by a thread that runs up to `depth` items ahead.

    An exception in the thread is raised here, after the items before it. Closing this generator ends the thread.
    """
    read_ahead: queue.Queue[Any] = queue.Queue(depth)
    closed = threading.Event()
    failures: list[BaseException] = []

    def put(item: object) -> None:
        while not closed.is_set():
            with suppress(queue.Full):
                read_ahead.put(item, timeout=POLL_S)
                return

    def read() -> None:  # in a daemon thread: it may be waiting for standard input when the program ends
        try:
            for item in items:
                put(item)
                if closed.is_set():
                    break
        except BaseException as error:
            failures.append(error)
        finally:
            items.close()  # type: ignore[attr-defined]
            put(END)

    thread = threading.Thread(target=read, name="reader", daemon=True)
    thread.start()
    try:
        while (item := _get(read_ahead)) is not END:
            yield item
        if failures:
            raise failures[0]
    finally:
        closed.set()
        thread.join(JOIN_TIMEOUT_S)


def _get(items: queue.Queue[Any]) -> Any:
    while True:
        with suppress(queue.Empty):
            return items.get(timeout=POLL_S)


class BackgroundWriter:
    """Writes results in a background thread, in order; `write` blocks while `depth` results are queued.

    An exception in the thread is raised by a later `write`, or by `close`; queued results are not written after it.
    """

    def __init__(self, writers: Sequence[Writer], depth: int = WRITE_QUEUE_SIZE) -> None:
        self.writers, self.depth = writers, depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._pending: deque[Future[None]] = deque()
        self._failed = False

    def write(self, result: Result) -> None:
        while self._pending and (self._pending[0].done() or len(self._pending) > self.depth):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._write, result))

    def close(self) -> None:
        """Wait until all results are written, and close the writers."""
        with ExitStack() as stack:
            stack.enter_context(explain_write_errors())
            for writer in self.writers:
                stack.callback(writer.close)
            stack.callback(self._pool.shutdown)
            for future in self._pending:
                future.result()

    def _write(self, result: Result) -> None:
        if self._failed:
            return
        self._failed = True
        write_all(self.writers, result)
        self._failed = False


def write_all(writers: Sequence[Writer], result: Result) -> None:
    """Pass a result to each writer; InputError if it cannot be written."""
    with explain_write_errors(f"{result.source.path}: "):
        for writer in writers:
            writer.write(result)


@contextmanager
def explain_write_errors(place: str = "") -> Iterator[None]:
    """Turn an OSError of a writer into an InputError that starts with `place`."""
    try:
        yield
    except OSError as error:
        remedy = "free disk space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the run folder"
        raise InputError(f"{place}results cannot be written: {error}; {remedy}, or add --nosave") from error
