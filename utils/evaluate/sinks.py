"""Validation plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from utils.core.distributed import get_rank, get_world_size
from utils.core.types import Batch, Prediction
from utils.plots.batches import get_batch_file
from utils.tasks.base import Task


class PlotSink:
    """Plots the first batches of each kind: predictions, and labels if the task has a file for them."""

    def __init__(self, task: Task, save_dir: Path) -> None:
        self.task, self.save_dir = task, save_dir
        self.num_batches: Counter[str] = Counter()

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Plot the batch if it is one of the first of all ranks."""
        files = self.task.val_plots
        number = self.num_batches[batch.kind] * get_world_size() + get_rank()
        if number < len(files):
            labels_file, preds_file = files[number]
            if labels_file:
                self.task.plot_batch(batch, self.save_dir / get_batch_file(labels_file, batch))
            self.task.plot_batch(batch, self.save_dir / get_batch_file(preds_file, batch), predictions)
        self.num_batches[batch.kind] += 1

    def close(self) -> None: ...
