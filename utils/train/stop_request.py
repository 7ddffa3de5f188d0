"""Ways to end a training run early from outside, without losing what it has learnt."""

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
    """Asked by the training loop whether to go on: a file `stop` in the run folder ends it after an epoch, SIGTERM now.

    A second SIGTERM ends the process as it ends any other. Signals are heard in the main thread only, so a run in
    another thread (a notebook, a service) has the file alone.

    Args:
        folder: the run folder. A stop file that lies there already was meant for an earlier run and is removed.

    Attributes:
        terminated: SIGTERM was received.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / STOP_FILE
        self.terminated = False
        self._before: Any = None

    def __enter__(self) -> StopRequest:
        self._remove_file("was left by an earlier run; removed")
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hear no more signals; StoppedError where SIGTERM ended a loader process and with it the loop.

        Such an end may be noticed before the signal of this process, and anywhere: while a file is written, too.
        """
        loader_died = isinstance(error, RuntimeError | InputError) and WORKER_DIED in str(error)
        if loader_died and not self.terminated:
            time.sleep(SIGNAL_WAIT_S)
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        if self.terminated and (loader_died or isinstance(error, RuntimeError)):  # or another process of the run ended
            raise StoppedError(f"terminated (SIGTERM), and with it: {str(error).splitlines()[0]}") from error

    def check(self) -> None:
        """Raise StoppedError if SIGTERM was received; called where nothing is left half done."""
        if self.terminated:
            raise StoppedError("terminated (SIGTERM)")

    def after_epoch(self) -> bool:
        """Whether the stop file lies there; it is removed, so that the resumed run goes on."""
        return self._remove_file("found: the run ends after this epoch")

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
        if hasattr(signal, "SIGCHLD"):  # loader processes may get the signal too: torch would raise in mid-step
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
