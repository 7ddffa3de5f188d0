"""What can be done with the predictions of a split, whatever the task, beside measuring them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from utils.core.distributed import rank, world_size
from utils.core.types import Batch, Prediction
from utils.tasks.base import Task, image_file


class PlotSink:
    """Draws the first batches of each kind with the predictions, and with labels where the task has files for both."""

    def __init__(self, task: Task, save_dir: Path) -> None:
        self.task, self.save_dir = task, save_dir
        self.seen: Counter[str] = Counter()

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Draw the batch if it is one of the first in the plan that the processes share."""
        files = self.task.traits.val_images
        number = self.seen[batch.kind] * world_size() + rank()
        if number < len(files):
            labelled, predicted = files[number]
            if labelled:
                self.task.plot_batch(batch, self.save_dir / image_file(labelled, batch))
            self.task.plot_batch(batch, self.save_dir / image_file(predicted, batch), predictions)
        self.seen[batch.kind] += 1

    def close(self) -> None:
        """Nothing is left to draw."""
