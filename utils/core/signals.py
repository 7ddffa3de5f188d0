"""Signals during critical sections."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DEFERRED = ("SIGINT", "SIGCHLD")  # their handlers raise: Ctrl-C, and PyTorch's for a killed loader process


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
