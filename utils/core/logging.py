"""One logger for all commands: plain lines on standard error, and in the log file of a training run."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

LOGGER = logging.getLogger("openyolov5")

# `extra` of messages that only one kind of reader wants; without it a message is for all
WATCHED = {"watched": True}  # a terminal, where bars move
UNWATCHED = {"watched": False}  # files and pipes, read later


class Audience(logging.Filter):
    """Passes the messages that are meant for this kind of reader."""

    def __init__(self, *, watched: bool) -> None:
        super().__init__()
        self.watched = watched

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is for all or for this reader."""
        return getattr(record, "watched", self.watched) == self.watched


def setup_logging(*, verbose: bool = True) -> None:
    """Send LOGGER to standard error; called by main(), never on import. YOLOv5_VERBOSE=false leaves warnings only."""
    verbose = verbose and os.getenv("YOLOv5_VERBOSE", "true").lower() != "false"
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(Audience(watched=sys.stderr.isatty()))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO if verbose else logging.WARNING)
    LOGGER.propagate = False


def hidden_bar(shown: bool) -> bool | None:
    """`disable` of a tqdm bar, which is shown on a terminal only: a file would keep its control characters."""
    return None if shown else True


class RunLog(logging.Handler):
    """Writes what LOGGER says within a `with` block into a file, each message with its time.

    Messages are kept until `log_to` names the file: a run speaks before it has a folder. A file that cannot be written
    (any more) is given up with one warning: the run is worth more than its log.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        self.addFilter(Audience(watched=False))
        self._waiting: list[logging.LogRecord] = []
        self._file: TextIO | None = None
        self._path: Path | None = None

    def __enter__(self) -> RunLog:
        LOGGER.addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note what ended the run, if it was an error, and close the file."""
        if kind is not None:
            text = f"ended by {kind.__name__}: {error}"
            self.handle(logging.LogRecord(LOGGER.name, logging.ERROR, "", 0, text, None, None))
        LOGGER.removeHandler(self)
        self.close()

    def open(self, path: Path, *, append: bool) -> None:
        """Write to `path` from now on, what was said before included."""
        if self._path == path:
            return  # a run that starts anew within the block
        self._path = path
        try:
            self._file = path.open("a" if append else "w", encoding="utf-8")
        except OSError as error:
            self._give_up(error)
        waiting, self._waiting = self._waiting, []
        for record in waiting:
            self.emit(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message without the blank lines that part it from others on a screen."""
        if self._file is None:
            if self._path is None:
                self._waiting.append(record)
            return
        record = logging.makeLogRecord({**vars(record), "msg": record.getMessage().strip("\n"), "args": None})
        try:
            self._file.write(self.format(record) + "\n")
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.close()
        LOGGER.warning(f"WARNING {self._path}: cannot be written ({error.strerror}); the run goes on without its log")

    def close(self) -> None:
        """Close the file, if one is open."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # what could not be written was told when it was tried
                file.close()
        super().close()


def log_to(path: Path, *, append: bool) -> None:
    """Name the file of the `RunLog` that is listening, if one is; `append` to an earlier one of the same run."""
    for handler in LOGGER.handlers:
        if isinstance(handler, RunLog):
            handler.open(path, append=append)
