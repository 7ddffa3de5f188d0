"""What can be done with the predictions of a split, whatever the task, beside measuring them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils.tasks.base import Task
from utils.types import Batch, Prediction


class PlotSink:
    """Draws the first batches twice: with their labels and with the predictions."""

    def __init__(self, task: Task, save_dir: Path, count: int = 3) -> None:
        self.task, self.save_dir, self.count, self.seen = task, save_dir, count, 0

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Draw the batch if it is one of the first."""
        if self.seen < self.count:
            stem = self.save_dir / f"val_batch{self.seen}"
            self.task.plot_batch(batch, stem.with_name(f"{stem.name}_labels.jpg"))
            self.task.plot_batch(batch, stem.with_name(f"{stem.name}_pred.jpg"), predictions)
        self.seen += 1

    def close(self) -> None:
        """Nothing is left to draw."""
