"""Loggers of the run folder: results.csv, results.png, a line per epoch in train.log."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from utils.core.errors import InputError
from utils.core.files import atomic_write
from utils.core.logging import FILE_ONLY, LOGGER
from utils.core.results_csv import Row, format_table, load_rows, make_row, set_aside
from utils.plots.results import plot_results

MAX_PLOT_SHARE = 0.05  # of the time of a run that plotting results.png may take
FIRST_PLOT_S = 5.0  # seconds of training before the first plot


class CSVLogger:
    """Writes results.csv, one row per epoch.

    The file is replaced atomically. Logging an epoch drops rows of that epoch and later ones: a resumed run continues
    its file, a new run replaces it. A damaged file is set aside, and its readable rows are kept. If the file cannot be
    written (full disk, locked by a spreadsheet program) there is one warning, and the next epoch tries again.

    Args:
        file: results.csv; its folder is created if missing.
        width: characters per column, 20 for detection, 23 for segmentation and classification.
    """

    def __init__(self, file: str | Path, *, width: int = 20) -> None:
        self.file, self.width = Path(file), width
        self._rows: list[Row] | None = None
        self._warned = False

    def on_fit_epoch_end(self, *, epoch: int, metrics: Mapping[str, float], **_: Any) -> None:
        """Write the rows up to `epoch` (from 0)."""
        row = make_row(epoch, metrics)
        if self._rows is None:
            self._rows = self._read_rows(list(row))
        self._rows = [*(earlier for earlier in self._rows if float(earlier["epoch"]) < epoch), row]
        try:
            with atomic_write(self.file) as temporary:
                temporary.write_text(format_table(self._rows, width=self.width), encoding="utf-8")
        except OSError as error:
            if not self._warned:
                LOGGER.warning(f"WARNING {self.file}: cannot be written ({error.strerror}); trying again each epoch")
            self._warned = True

    def _read_rows(self, columns: list[str]) -> list[Row]:
        if not self.file.is_file():
            return []
        try:
            rows, problem = load_rows(self.file, columns)
        except InputError as error:
            rows, problem = [], str(error)
        if problem:
            set_aside(self.file, problem)
        return rows


class EpochLogger:
    """Logs one line per epoch to files and pipes; terminals have progress bars and tables instead."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_start(self, **_: Any) -> None:
        self._started = perf_counter()

    def on_fit_epoch_end(self, *, epoch: int, metrics: Mapping[str, float], **_: Any) -> None:
        line = format_epoch(metrics)
        seconds = perf_counter() - self._started
        LOGGER.info(f"epoch {epoch}/{self.epochs - 1}: {line} | {seconds:.1f} s", extra=FILE_ONLY)


def format_epoch(metrics: Mapping[str, float]) -> str:
    """Losses and metrics grouped as in results.csv, without learning rates."""
    parts: dict[str, list[str]] = {}
    for name, value in metrics.items():
        group, _, short = name.partition("/")
        if group not in ("x", "lr"):
            parts.setdefault(group, []).append(f"{short} {float(value):.4g}")
    return " | ".join(f"{group}: {', '.join(numbers)}" for group, numbers in parts.items())


class ResultsPlotter:
    """Plots results.png, every epoch unless that takes more than a small share of the training time.

    Args:
        csv: results.csv, written by an earlier callback.
    """

    def __init__(self, csv: str | Path) -> None:
        self.csv = Path(csv)
        self._partial = self.csv.with_name(".results.partial.png")
        self._due = perf_counter() + FIRST_PLOT_S
        self._warned = False
        with suppress(OSError):
            self._partial.unlink()  # of a killed run

    def on_fit_epoch_end(self, **_: Any) -> None:
        """Plot if due."""
        started = perf_counter()
        if started >= self._due:
            self.plot()
            self._due = perf_counter() + (perf_counter() - started) / MAX_PLOT_SHARE

    def plot(self) -> None:
        """Plot now; results.png is replaced atomically. The first failure is a warning."""
        try:
            plot_results(self.csv, self._partial).replace(self.csv.with_name("results.png"))
        except (OSError, InputError) as error:
            if not self._warned:
                LOGGER.warning(f"WARNING results.png is not up to date: {error}")
            self._warned = True
            with suppress(OSError):
                self._partial.unlink()
