"""Prediction files of val.py for boxes: a text file per image, COCO JSON of a split."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.core.distributed import all_gather_bytes, compute_interleaved_order, get_world_size, is_main_process
from utils.core.errors import InputError
from utils.core.files import UniqueNames, atomic_write
from utils.core.logging import LOGGER
from utils.core.types import Batch, Letterbox, Prediction
from utils.datasets.index.image_index import ImageIndex
from utils.metrics.coco import IoUType, evaluate_coco, index_to_coco, predictions_to_coco
from utils.metrics.detection import get_image_labels
from utils.ops.boxes import box_iou_matrix, undo_letterbox, xyxy_to_xywhn

Row = tuple[float, Sequence[float], float]  # class, coordinates, score


class BoxTextWriter:
    """Writes `<stem>.txt` per image with lines class, x, y, w, h, normalized, and optionally score.

    Args:
        folder: output folder.
        with_score: append the score to each line.
        hybrid_iou: also write the labels, with score 1, instead of the predictions of their class with a higher IoU;
            metrics are not affected. None for predictions only.
    """

    def __init__(self, folder: Path, *, with_score: bool, hybrid_iou: float | None = None) -> None:
        self.folder, self.with_score, self.hybrid_iou = folder, with_score, hybrid_iou
        self._names = UniqueNames()
        folder.mkdir(parents=True, exist_ok=True)

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        for number, prediction in enumerate(predictions):
            path = batch.paths[number]
            name = self._names.assign(path, Path(path).stem, ".txt")
            lines = [self._format_line(*row) for row in self.rows(prediction, batch, number)]
            try:
                (self.folder / name).write_text("".join(lines), encoding="utf-8")
            except FileNotFoundError as error:
                raise InputError(f"{self.folder}: removed during the run, its results are lost; run again") from error

    def close(self) -> None:
        """Nothing to close."""

    def rows(self, prediction: Prediction, batch: Batch, number: int) -> Iterator[Row]:
        """Class, coordinates and score of each line of image `number`."""
        letterbox, boxes = batch.letterboxes[number], prediction.boxes
        assert letterbox is not None and boxes is not None
        if self.hybrid_iou is not None:
            boxes = merge_labels(boxes, get_image_labels(batch, number), self.hybrid_iou)
        boxes_xywhn = xyxy_to_xywhn(undo_letterbox(boxes, letterbox)[:, :4], letterbox.original_hw)
        yield from zip(boxes[:, 5].tolist(), boxes_xywhn.tolist(), boxes[:, 4].tolist(), strict=True)

    def _format_line(self, label: float, coordinates: Sequence[float], score: float) -> str:
        values = (label, *coordinates, score) if self.with_score else (label, *coordinates)
        return " ".join(f"{value:g}" for value in values) + "\n"


def merge_labels(detections: Tensor, labels: Tensor, iou_thres: float) -> Tensor:
    """Labels as detections (m, 6) of score 1, and the detections that `select_unlabeled` selects (same arguments)."""
    label_rows = torch.cat([labels[:, 1:], torch.ones(len(labels), 1), labels[:, :1]], dim=1)
    return torch.cat([label_rows, detections[select_unlabeled(detections, labels, iou_thres)]])


def select_unlabeled(detections: Tensor, labels: Tensor, iou_thres: float) -> Tensor:
    """Mask (n,) bool of the detections that match no label.

    Args:
        detections: (n, 6) x1, y1, x2, y2, score, class.
        labels: (m, 5) class, x1, y1, x2, y2 in the same frame.
        iou_thres: a detection matches a label of its class with a higher IoU.
    """
    ious = box_iou_matrix(detections[:, :4], labels[:, 1:])  # (n, m)
    return ~((ious > iou_thres) & (detections[:, 5:6] == labels[:, 0])).any(dim=1)


class CocoJsonWriter:
    """Writes all predictions to a COCO JSON file and logs COCO metrics.

    Args:
        index: images and labels of the split, for the ground truth.
        file: JSON file to write.
        coco_ids: use the category ids 1-90 of the COCO data set.
    """

    iou_types: tuple[IoUType, ...] = ("bbox",)

    def __init__(self, index: ImageIndex, file: Path, *, coco_ids: bool = False) -> None:
        self.index, self.file, self.coco_ids = index, file, coco_ids
        self.items: list[dict[str, Any]] = []
        self._counts: list[int] = []  # items of each batch

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        num_items = len(self.items)
        for prediction, path, letterbox in zip(predictions, batch.paths, batch.letterboxes, strict=True):
            assert letterbox is not None
            self.items += self.to_items(prediction, path, letterbox)
        self._counts.append(len(self.items) - num_items)

    def to_items(self, prediction: Prediction, path: str, letterbox: Letterbox) -> list[dict[str, Any]]:
        """Items of one image."""
        assert prediction.boxes is not None
        return predictions_to_coco(undo_letterbox(prediction.boxes, letterbox), path, coco_ids=self.coco_ids)

    def close(self) -> None:
        """Write the file and log the COCO metrics; the main process does so for all processes."""
        if get_world_size() > 1:
            parts = [json.loads(part) for part in all_gather_bytes(json.dumps([self._counts, self.items]).encode())]
            order = compute_interleaved_order([np.array(counts, np.int64) for counts, _ in parts])
            items = [item for _, rank_items in parts for item in rank_items]
            self.items = [items[i] for i in order]
        if not is_main_process():
            return
        with atomic_write(self.file) as temporary:
            temporary.write_text(json.dumps(self.items), encoding="utf-8")
        ground_truth = index_to_coco(self.index, coco_ids=self.coco_ids, masks="segm" in self.iou_types)
        for iou_type in self.iou_types:
            LOGGER.info(evaluate_coco(ground_truth, self.items, iou_type=iou_type).summary)
