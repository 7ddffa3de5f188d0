"""Where a run's numbers are kept: results.csv and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.logging import LOGGER
from utils.results_csv import Row, format_table, number_row, read_results, read_rows

__all__ = ["CSVLogger", "TensorBoardLogger", "read_results"]


class CSVLogger:
    """Keeps results.csv: every epoch once, whatever was stopped, resumed or started anew.

    The file is written whole to a temporary name and renamed, so a kill leaves the old or the new one. Logging an
    epoch drops rows of that epoch and later ones: a resumed run continues its file, a fresh run replaces it.

    Args:
        file: where the table goes; its folder is made if need be.
        width: characters of a column, 20 for detection, 23 for segmentation and classification.
    """

    def __init__(self, file: str | Path, *, width: int = 20) -> None:
        self.file, self.width = Path(file), width
        self._rows: list[Row] | None = None

    def on_fit_epoch_end(self, *, epoch: int, metrics: Mapping[str, float], **_: Any) -> None:
        """Write the row of `epoch` (from 0) and of all epochs before it."""
        if self._rows is None:
            self._rows = self._earlier_rows()
        self._rows = [row for row in self._rows if float(row["epoch"]) < epoch]
        self._rows.append(number_row(epoch, metrics))
        partial = self.file.with_name(f"{self.file.name}.partial")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(format_table(self._rows, width=self.width), encoding="utf-8")
        partial.replace(self.file)

    def _earlier_rows(self) -> list[Row]:
        if not self.file.exists():
            return []
        try:
            return read_rows(self.file)
        except InputError as error:
            LOGGER.warning(f"{error}; it will be written anew")
            return []


class TensorBoardLogger:
    """Scalars per epoch in TensorBoard's event file; does nothing, and says so once, where the package is missing.

    Args:
        save_dir: run folder, which is also what `tensorboard --logdir` is given.
    """

    def __init__(self, save_dir: str | Path) -> None:
        self.save_dir = Path(save_dir)
        self._writer: Any = None
        self._wanted = True

    def on_fit_epoch_end(self, *, epoch: int, metrics: Mapping[str, float], **_: Any) -> None:
        """Log every metric at step `epoch` (from 0)."""
        writer = self._open(epoch)
        if writer is None:
            return
        for name, value in metrics.items():
            writer.add_scalar(name, float(value), epoch)
        writer.flush()  # a kill loses nothing of a finished epoch

    def on_train_end(self, **_: Any) -> None:
        """Close the event file."""
        self.teardown()

    def teardown(self, **_: Any) -> None:
        """Close the event file, if it is open."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, epoch: int) -> Any:
        """The writer, opened at the first epoch logged: what an earlier run logged from there on is hidden."""
        if self._writer is None and self._wanted:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                self._wanted = False
                LOGGER.info(f"No TensorBoard files: {error}. results.csv has the numbers; `pip install tensorboard`")
                return None
            self._writer = SummaryWriter(str(self.save_dir), purge_step=epoch)
        return self._writer
