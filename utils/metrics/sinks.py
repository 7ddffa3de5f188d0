"""Files that val.py writes of a detector's predictions: text for each image, COCO JSON of a split."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.core.distributed import gather_bytes, in_turns, is_main, world_size
from utils.core.files import UniqueNames
from utils.core.logging import LOGGER
from utils.core.types import Batch, Letterbox, Prediction
from utils.datasets.index.image_index import ImageIndex
from utils.metrics.coco import OverlapOf, evaluate_coco, index_to_coco, predictions_to_coco
from utils.metrics.detection import labels_of
from utils.ops.boxes import box_iou_matrix, undo_letterbox, xyxy_to_xywhn

Row = tuple[float, Sequence[float], float]  # class, numbers that say where, score


class TextSink:
    """Writes `<stem>.txt` for each image: class, x, y, w, h over the original size, and the score if asked.

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
            path = batch.paths[number]
            name = self._names.take(path, Path(path).stem, ".txt")
            lines = [self._line(*row) for row in self.rows(prediction, batch, number)]
            (self.folder / name).write_text("".join(lines), encoding="utf-8")

    def close(self) -> None:
        """Nothing is left to write."""

    def rows(self, prediction: Prediction, batch: Batch, number: int) -> Iterator[Row]:
        """Class, place and score of each line of image `number`."""
        letterbox, boxes = batch.letterboxes[number], prediction.boxes
        assert letterbox is not None and boxes is not None
        if self.hybrid_iou is not None:
            boxes = join_labels(boxes, labels_of(batch, number), self.hybrid_iou)
        places = xyxy_to_xywhn(undo_letterbox(boxes, letterbox)[:, :4], letterbox.original_hw)
        yield from zip(boxes[:, 5].tolist(), places.tolist(), boxes[:, 4].tolist(), strict=True)

    def _line(self, label: float, place: Sequence[float], score: float) -> str:
        values = (label, *place, score) if self.with_score else (label, *place)
        return " ".join(f"{value:g}" for value in values) + "\n"


def join_labels(detections: Tensor, labels: Tensor, iou_thres: float) -> Tensor:
    """Labels as detections (m, 6) of score 1, then the detections that `shows_no_label` leaves; arguments as there."""
    known = torch.cat([labels[:, 1:], torch.ones(len(labels), 1), labels[:, :1]], dim=1)
    return torch.cat([known, detections[shows_no_label(detections, labels, iou_thres)]])


def shows_no_label(detections: Tensor, labels: Tensor, iou_thres: float) -> Tensor:
    """(n,) bool: the detections that show something else than the labels.

    Args:
        detections: (n, 6) x1, y1, x2, y2, score, class.
        labels: (m, 5) class, x1, y1, x2, y2 in the same frame.
        iou_thres: overlap with a label of its class above which a detection shows it.
    """
    overlaps = box_iou_matrix(detections[:, :4], labels[:, 1:])  # (n, m)
    return ~((overlaps > iou_thres) & (detections[:, 5:6] == labels[:, 0])).any(dim=1)


class CocoSink:
    """Writes all predictions as COCO JSON and measures them with COCO's own metrics.

    Args:
        index: the split's images and labels, turned into COCO ground truth.
        file: the JSON to write.
        coco_ids: number the classes 1-90 as the COCO set does.
    """

    measured: tuple[OverlapOf, ...] = ("bbox",)

    def __init__(self, index: ImageIndex, file: Path, *, coco_ids: bool = False) -> None:
        self.index, self.file, self.coco_ids = index, file, coco_ids
        self.items: list[dict[str, Any]] = []
        self._counts: list[int] = []  # items of each batch

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Collect a batch."""
        before = len(self.items)
        for prediction, path, letterbox in zip(predictions, batch.paths, batch.letterboxes, strict=True):
            assert letterbox is not None
            self.items += self.items_of(prediction, path, letterbox)
        self._counts.append(len(self.items) - before)

    def items_of(self, prediction: Prediction, path: str, letterbox: Letterbox) -> list[dict[str, Any]]:
        """What the file holds of one image."""
        assert prediction.boxes is not None
        return predictions_to_coco(undo_letterbox(prediction.boxes, letterbox), path, coco_ids=self.coco_ids)

    def close(self) -> None:
        """Write the file and print COCO's summaries; of several processes the main one does, for all."""
        if world_size() > 1:
            parts = [json.loads(part) for part in gather_bytes(json.dumps([self._counts, self.items]).encode())]
            joined = [item for _, items in parts for item in items]
            self.items = [joined[i] for i in in_turns([np.array(counts, np.int64) for counts, _ in parts])]
        if not is_main():
            return
        self.file.write_text(json.dumps(self.items), encoding="utf-8")
        truth = index_to_coco(self.index, coco_ids=self.coco_ids, masks="segm" in self.measured)
        for of in self.measured:
            LOGGER.info(evaluate_coco(truth, self.items, of=of).summary)
