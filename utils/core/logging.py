"""Logging: one logger for all commands, with plain lines on standard error and in the log file of a run."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

LOGGER = logging.getLogger("openyolov5")

# `extra` of messages for one kind of output only
TERMINAL_ONLY = {"terminal": True}
FILE_ONLY = {"terminal": False}  # files and pipes


def setup_logging(*, verbose: bool = True) -> None:
    """Log to standard error; for main(), never on import. YOLOv5_VERBOSE=false leaves warnings only."""
    verbose = verbose and os.getenv("YOLOv5_VERBOSE", "true").lower() != "false"
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    terminal = sys.stderr.isatty()
    handler.addFilter(lambda record: getattr(record, "terminal", terminal) == terminal)
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO if verbose else logging.WARNING)
    LOGGER.propagate = False


def get_tqdm_disable(progress: bool) -> bool | None:
    """The value for `disable` of a tqdm bar, which is shown on a terminal only."""
    return None if progress else True


class RunLog(logging.Handler):
    """Writes the messages of LOGGER to a file, with their times, within a `with` block.

    Messages are buffered until `open_run_log` names the file, because a run logs before it has a folder. If the file
    cannot be written, the run continues without it after one warning.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        self.addFilter(lambda record: not getattr(record, "terminal", False))
        self._buffer: list[logging.LogRecord] = []
        self._file: TextIO | None = None
        self._path: Path | None = None

    def __enter__(self) -> RunLog:
        LOGGER.addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Log the error that ended the run, if any, and close the file."""
        if kind is not None:
            text = f"ended by {kind.__name__}: {error}"
            self.handle(logging.LogRecord(LOGGER.name, logging.ERROR, "", 0, text, None, None))
        LOGGER.removeHandler(self)
        self.close()

    def open(self, path: Path, *, append: bool) -> None:
        """Write to `path`, starting with the buffered messages."""
        if self._path == path and path.exists():
            return  # the run restarts within the block
        self.close()
        self._path = path
        try:
            self._file = path.open("a" if append else "w", encoding="utf-8")
        except OSError as error:
            self._give_up(error)
        buffer, self._buffer = self._buffer, []
        for record in buffer:
            self.emit(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message without blank lines around it."""
        if self._file is None:
            if self._path is None:
                self._buffer.append(record)
            return
        record = logging.makeLogRecord({**vars(record), "msg": record.getMessage().strip("\n"), "args": None})
        try:
            self._file.write(self.format(record) + "\n")
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.close()
        LOGGER.warning(f"WARNING {self._path}: cannot be written ({error.strerror}); the run continues without it")

    def close(self) -> None:
        """Close the file, if one is open."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # the failed write has been reported
                file.close()
        super().close()


def open_run_log(path: Path, *, append: bool) -> None:
    """Set the file of the active `RunLog`, if any; `append` to the log of an earlier part of the run."""
    for handler in LOGGER.handlers:
        if isinstance(handler, RunLog):
            handler.open(path, append=append)
