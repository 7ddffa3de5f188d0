"""Requests from outside to end a training run early: a stop file and SIGTERM."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from utils.core.errors import InputError, StoppedError
from utils.core.logging import LOGGER
from utils.core.script import WORKER_DIED

STOP_FILE = "stop"
SIGNAL_WAIT_S = 0.5


class StopRequest:
    """A file `stop` in the run folder ends training after the current epoch, SIGTERM after the current step.

    A second SIGTERM kills the process. Python handles signals in the main thread only, so a run in another thread
    (a notebook, a service) has only the file.

    Args:
        folder: the run folder; a stop file left there by an earlier run is removed.

    Attributes:
        terminated: SIGTERM was received.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / STOP_FILE
        self.terminated = False
        self._handler: Any = None

    def __enter__(self) -> StopRequest:
        self._remove_file("left by an earlier run; removed")
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the signal handler; StoppedError if SIGTERM killed a loader process, whose error ended the loop.

        That error may arrive before the signal of this process.
        """
        loader_died = isinstance(error, RuntimeError | InputError) and WORKER_DIED in str(error)
        if loader_died and not self.terminated:
            time.sleep(SIGNAL_WAIT_S)
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
        if self.terminated and (loader_died or isinstance(error, RuntimeError)):  # also of another rank
            raise StoppedError(f"terminated (SIGTERM), and with it: {str(error).splitlines()[0]}") from error

    def check(self) -> None:
        """Raise StoppedError if SIGTERM was received; call it between steps."""
        if self.terminated:
            raise StoppedError("terminated (SIGTERM)")

    def after_epoch(self) -> bool:
        """Whether there is a stop file; it is removed, so that a resumed run continues."""
        return self._remove_file("stopping after this epoch")

    def _remove_file(self, message: str) -> bool:
        try:
            self.file.unlink()
        except OSError:
            return False
        LOGGER.info(f"{self.file}: {message}")
        return True

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self.terminated = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if hasattr(signal, "SIGCHLD"):  # loader processes get it too, and torch would raise within a step
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
