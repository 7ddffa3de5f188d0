"""Files that val.py writes of a detector's predictions: text for each picture, COCO JSON of a split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.boxes import box_iou_matrix, undo_letterbox, xyxy_to_xywhn
from utils.datasets.index import ImageIndex
from utils.files import UniqueNames
from utils.logging import LOGGER
from utils.metrics.coco import evaluate_coco, index_to_coco, predictions_to_coco
from utils.metrics.detection import labels_of
from utils.types import Batch, Prediction


class TextSink:
    """Writes `<stem>.txt` for each picture: class, x, y, w, h over the original size, and the score if asked.

    Args:
        folder: where the files go.
        with_score: append the score to each line.
        hybrid_iou: write the labels too, with score 1, and leave out predictions of a label's class that overlap it
            by more; what is measured stays the model's own work. None writes predictions only.
    """

    def __init__(self, folder: Path, *, with_score: bool, hybrid_iou: float | None = None) -> None:
        self.folder, self.with_score, self.hybrid_iou = folder, with_score, hybrid_iou
        self._names = UniqueNames()
        folder.mkdir(parents=True, exist_ok=True)

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Write the files of a batch."""
        for number, prediction in enumerate(predictions):
            letterbox, rows = batch.letterboxes[number], prediction.boxes
            assert letterbox is not None and rows is not None
            if self.hybrid_iou is not None:
                rows = join_labels(rows, labels_of(batch, number), self.hybrid_iou)
            rows = undo_letterbox(rows, letterbox)
            lines = [self._line(row) for row in self._normalised(rows, letterbox.original_hw)]
            path = batch.paths[number]
            name = self._names.take(path, Path(path).stem, ".txt")
            (self.folder / name).write_text("".join(lines), encoding="utf-8")

    def close(self) -> None:
        """Nothing is left to write."""

    def _normalised(self, rows: Tensor, size_hw: tuple[int, int]) -> list[list[float]]:
        """Rows of class, x, y, w, h, score."""
        return torch.cat([rows[:, 5:6], xyxy_to_xywhn(rows[:, :4], size_hw), rows[:, 4:5]], dim=1).tolist()

    def _line(self, row: list[float]) -> str:
        return " ".join(f"{value:g}" for value in (row if self.with_score else row[:5])) + "\n"


def join_labels(detections: Tensor, labels: Tensor, iou_thres: float) -> Tensor:
    """Labels as detections of score 1, then the detections that show something else.

    Args:
        detections: (n, 6) x1, y1, x2, y2, score, class.
        labels: (m, 5) class, x1, y1, x2, y2 in the same frame.
        iou_thres: overlap with a label of its class above which a detection is left out.
    """
    known = torch.cat([labels[:, 1:], torch.ones(len(labels), 1), labels[:, :1]], dim=1)
    overlaps = box_iou_matrix(detections[:, :4], known[:, :4])  # (n, m)
    repeats = (overlaps > iou_thres) & (detections[:, 5:6] == known[:, 5])
    return torch.cat([known, detections[~repeats.any(dim=1)]])


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
            rows = undo_letterbox(prediction.boxes, letterbox)
            self.items += predictions_to_coco(rows, path, coco_ids=self.coco_ids)

    def close(self) -> None:
        """Write the file and print COCO's summary."""
        self.file.write_text(json.dumps(self.items), encoding="utf-8")
        LOGGER.info(evaluate_coco(index_to_coco(self.index, coco_ids=self.coco_ids), self.items).summary)
