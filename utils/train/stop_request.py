"""Requests from outside to end a training run early: a stop file and signals."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from utils.core.errors import WORKER_DIED, InputError, StoppedError
from utils.core.logging import LOGGER
from utils.core.signals import StopSignals

STOP_FILE = "stop"
SIGNAL_WAIT_S = 0.5


class StopRequest:
    """A file `stop` in the run folder ends training after the current epoch, SIGTERM or SIGHUP after the current step.

    A run outside the main thread (in a notebook, a service) has only the file.

    Args:
        folder: the run folder; a stop file left there by an earlier run is removed.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / STOP_FILE
        self._signals = StopSignals()
        self.requested = False  # by a callback; ends training after the current epoch

    @property
    def terminated(self) -> bool:
        """Whether a signal was received."""
        return self._signals.received is not None

    def __enter__(self) -> StopRequest:
        self._remove_file("left by an earlier run; removed")
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the signal handlers; StoppedError if the signal killed a loader process, whose error ended the loop.

        That error may arrive before the signal of this process.
        """
        loader_died = isinstance(error, RuntimeError | InputError) and WORKER_DIED in str(error)
        if loader_died and not self.terminated:
            time.sleep(SIGNAL_WAIT_S)
        self._signals.__exit__()
        received = self._signals.received
        if received is not None and (loader_died or isinstance(error, RuntimeError)):  # also of another rank
            raise StoppedError(received, f", and with it: {str(error).splitlines()[0]}") from error

    def check(self) -> None:
        """Raise StoppedError if a signal was received; call it between steps."""
        self._signals.check()

    def after_epoch(self) -> bool:
        """Whether to stop: by a callback or a stop file, which is removed, so that a resumed run continues."""
        return self._remove_file("stopping after this epoch") or self.requested

    def _remove_file(self, message: str) -> bool:
        try:
            self.file.unlink()
        except OSError:
            return False
        LOGGER.info(f"{self.file}: {message}")
        return True
