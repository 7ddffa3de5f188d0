"""Signals: stopping a run, and critical sections that they must not interrupt."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from utils.core.errors import StoppedError

DEFERRED = ("SIGINT", "SIGCHLD")  # their handlers raise: Ctrl-C, and PyTorch's for a killed loader process
STOPPING = ("SIGTERM", "SIGHUP")  # from batch systems and service managers, and from a terminal that closes


class StopSignals:
    """Records SIGTERM and SIGHUP within a `with` block; a second one kills the process.

    A signal that the process ignores, as SIGHUP under nohup, stays ignored. Python handles signals in the main thread
    only, so in another thread (a notebook, a service) they have their usual effect.

    Attributes:
        received: the signal, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._handlers: dict[int, Any] = {}  # that were replaced
        self._interrupts = False

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in STOPPING if hasattr(signal, name)):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def check(self) -> None:
        """Raise StoppedError if a signal was received."""
        if self.received is not None:
            raise StoppedError(self.received)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within this block the signal also raises KeyboardInterrupt, like Ctrl-C."""
        self._interrupts = True
        try:
            if self.received is not None:
                raise KeyboardInterrupt
            yield
        finally:
            self._interrupts = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        for other in self._handlers:
            signal.signal(other, signal.SIG_DFL)
        if hasattr(signal, "SIGCHLD"):  # loader processes may have it, too, and torch would raise within a step
            signal.signal(signal.SIGCHLD, lambda *_: None)  # with SIG_DFL, Python prints an error if one is pending
        if self._interrupts:
            raise KeyboardInterrupt


@contextmanager
def defer_signals() -> Iterator[None]:
    """Postpone Ctrl-C and the report of a killed loader process until the body has ended.

    Raised within a file write, either would look like a failed write. Outside the main thread no signal arrives.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[tuple[int, Any]] = []
    numbers = [getattr(signal, name) for name in DEFERRED if hasattr(signal, name)]
    handlers = {n: signal.getsignal(n) for n in numbers if callable(signal.getsignal(n))}
    for number in handlers:
        signal.signal(number, lambda number, frame: pending.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number, frame in pending:
        handlers[number](number, frame)  # type: ignore[operator, misc]
