"""What a run keeps of its numbers in its own folder: results.csv, results.png, a line an epoch in its log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from utils.core.errors import InputError
from utils.core.logging import LOGGER, UNWATCHED
from utils.core.results_csv import Row, format_table, number_row, read_rows
from utils.plots.results import plot_results

IMAGE_SHARE = 0.05  # of a run's time that drawing results.png may take
FIRST_IMAGE_S = 5.0  # seconds of training before it is drawn at all


class CSVLogger:
    """Keeps results.csv: every epoch once, whatever was stopped, resumed or started anew.

    The file is written whole to a temporary name and renamed, so a kill leaves the old or the new one. Logging an
    epoch drops rows of that epoch and later ones: a resumed run continues its file, a fresh run replaces it. A file
    that cannot be replaced (a full disk, a spreadsheet program that holds it) is told once and tried again each epoch.

    Args:
        file: where the table goes; its folder is made if need be.
        width: characters of a column, 20 for detection, 23 for segmentation and classification.
    """

    def __init__(self, file: str | Path, *, width: int = 20) -> None:
        self.file, self.width = Path(file), width
        self._rows: list[Row] | None = None
        self._warned = False

    def on_fit_epoch_end(self, *, epoch: int, metrics: Mapping[str, float], **_: Any) -> None:
        """Write the row of `epoch` (from 0) and of all epochs before it."""
        if self._rows is None:
            self._rows = self._earlier_rows()
        self._rows = [row for row in self._rows if float(row["epoch"]) < epoch]
        self._rows.append(number_row(epoch, metrics))
        try:
            self._write(format_table(self._rows, width=self.width))
        except OSError as error:
            if not self._warned:
                LOGGER.warning(f"WARNING {self.file}: cannot be written ({error.strerror}); tried again each epoch")
            self._warned = True

    def _write(self, table: str) -> None:
        partial = self.file.with_name(f"{self.file.name}.partial")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(table, encoding="utf-8")
            partial.replace(self.file)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def _earlier_rows(self) -> list[Row]:
        if not self.file.exists():
            return []
        try:
            return read_rows(self.file)
        except InputError as error:
            LOGGER.warning(f"{error}; it will be written anew")
            return []


class EpochLines:
    """Says each epoch's numbers in one plain line, for files and pipes: a terminal has bars and tables instead.

    Args:
        epochs: of the whole run.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._started = perf_counter()

    def on_train_epoch_start(self, **_: Any) -> None:
        """Start the clock."""
        self._started = perf_counter()

    def on_fit_epoch_end(self, *, epoch: int, metrics: Mapping[str, float], **_: Any) -> None:
        """Write the line."""
        line = epoch_line(metrics)
        seconds = perf_counter() - self._started
        LOGGER.info(f"epoch {epoch}/{self.epochs - 1}: {line} | {seconds:.1f} s", extra=UNWATCHED)


def epoch_line(metrics: Mapping[str, float]) -> str:
    """Losses and metrics in the order of results.csv, parts by their groups; learning rates are left to the table."""
    parts: dict[str, list[str]] = {}
    for name, value in metrics.items():
        group, _, short = name.partition("/")
        if group not in ("x", "lr"):
            parts.setdefault(group, []).append(f"{short} {float(value):.4g}")
    return " | ".join(f"{group}: {', '.join(numbers)}" for group, numbers in parts.items())


class ResultsImage:
    """Keeps results.png up to date: every epoch where epochs are long, else as often as costs little of the time.

    Args:
        table: results.csv, written before this listener hears of the epoch.
    """

    def __init__(self, table: str | Path) -> None:
        self.table = Path(table)
        self._due = perf_counter() + FIRST_IMAGE_S
        self._warned = False

    def on_fit_epoch_end(self, **_: Any) -> None:
        """Draw the image, if it is time to; who looks at it sees the old one until the new one is whole."""
        started = perf_counter()
        if started < self._due:
            return
        partial = self.table.with_name(".results.partial.png")
        try:
            plot_results(self.table, partial).replace(self.table.with_name("results.png"))
        except (OSError, InputError) as error:
            if not self._warned:
                LOGGER.warning(f"WARNING results.png is not up to date: {error}")
            self._warned = True
            partial.unlink(missing_ok=True)
        self._due = perf_counter() + (perf_counter() - started) / IMAGE_SHARE
