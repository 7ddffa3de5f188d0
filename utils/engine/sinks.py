"""What val.py can do with the predictions of a split beside measuring them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.boxes import xyxy_to_xywhn
from utils.datasets.index import ImageIndex
from utils.logging import LOGGER
from utils.metrics.coco import evaluate_coco, index_to_coco, predictions_to_coco
from utils.metrics.detection import labels_of, to_original
from utils.tasks.base import Task
from utils.types import Batch, Prediction


class TextSink:
    """Writes `<stem>.txt` for each picture: class, x, y, w, h over the original size, and the score if asked.

    Args:
        folder: where the files go.
        with_score: append the score to each line.
        hybrid: write the labels (score 1) before the predictions.
    """

    def __init__(self, folder: Path, *, with_score: bool, hybrid: bool = False) -> None:
        self.folder, self.with_score, self.hybrid = folder, with_score, hybrid
        folder.mkdir(parents=True, exist_ok=True)

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Write the files of a batch."""
        for number, prediction in enumerate(predictions):
            letterbox, rows = batch.letterboxes[number], prediction.boxes
            assert letterbox is not None and rows is not None
            rows = to_original(rows.cpu(), letterbox)
            if self.hybrid:
                labels = labels_of(batch, number)
                known = torch.cat([labels[:, 1:], torch.ones(len(labels), 1), labels[:, :1]], dim=1)
                rows = torch.cat([to_original(known, letterbox), rows])
            lines = [self._line(row) for row in self._normalised(rows, letterbox.original_hw)]
            (self.folder / f"{Path(batch.paths[number]).stem}.txt").write_text("".join(lines), encoding="utf-8")

    def close(self) -> None:
        """Nothing is left to write."""

    def _normalised(self, rows: Tensor, size_hw: tuple[int, int]) -> list[list[float]]:
        """Rows of class, x, y, w, h, score."""
        return torch.cat([rows[:, 5:6], xyxy_to_xywhn(rows[:, :4], size_hw), rows[:, 4:5]], dim=1).tolist()

    def _line(self, row: list[float]) -> str:
        return " ".join(f"{value:g}" for value in (row if self.with_score else row[:5])) + "\n"


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


class CocoSink:
    """Writes all predictions as COCO JSON and measures them with COCO's own metrics.

    Args:
        index: the split's pictures and labels, turned into COCO ground truth.
        file: the JSON to write.
        coco_ids: number the classes 1-90 as the COCO set does.
    """

    def __init__(self, index: ImageIndex, file: Path, *, coco_ids: bool = False) -> None:
        self.index, self.file, self.coco_ids = index, file, coco_ids
        self.items: list[dict[str, Any]] = []

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Collect a batch."""
        for prediction, path, letterbox in zip(predictions, batch.paths, batch.letterboxes, strict=True):
            assert letterbox is not None and prediction.boxes is not None
            rows = to_original(prediction.boxes.cpu(), letterbox)
            self.items += predictions_to_coco(rows, path, coco_ids=self.coco_ids)

    def close(self) -> None:
        """Write the file and print COCO's summary."""
        self.file.write_text(json.dumps(self.items), encoding="utf-8")
        LOGGER.info(evaluate_coco(index_to_coco(self.index, coco_ids=self.coco_ids), self.items).summary)
