"""Prediction files of val.py for instance masks: polygons as text, COCO JSON with RLE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.types import Batch, Letterbox, Prediction
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.labels import box_to_polygon
from utils.metrics.detection import get_image_labels
from utils.metrics.prediction_files import BoxTextWriter, CocoJsonWriter, Row, select_unlabeled
from utils.ops.masks import ring_area


class PolygonTextWriter(BoxTextWriter):
    """Writes `<stem>.txt` per image with lines class, x1, y1, x2, y2, ..., normalized, and optionally score.

    The polygon is the outline of the largest part of an object; for an object without pixels, its box.

    Args:
        index: images and labels of the split, for `hybrid_iou`.
        folder, with_score, hybrid_iou: as for `BoxTextWriter`.
    """

    def __init__(self, folder: Path, index: ImageIndex, *, with_score: bool, hybrid_iou: float | None = None) -> None:
        super().__init__(folder, with_score=with_score, hybrid_iou=hybrid_iou)
        self.index = index
        self._positions = {path: i for i, path in enumerate(index.paths)}

    def rows(self, prediction: Prediction, batch: Batch, number: int) -> Iterator[Row]:
        """Class, outline and score of each line of image `number`."""
        letterbox, boxes, masks = batch.letterboxes[number], prediction.boxes, prediction.masks
        assert letterbox is not None and boxes is not None and masks is not None
        if self.hybrid_iou is not None:
            yield from self._label_rows(batch.paths[number])
            is_unlabeled = select_unlabeled(boxes, get_image_labels(batch, number), self.hybrid_iou)
            boxes, masks = boxes[is_unlabeled], masks.select(is_unlabeled)
        size_wh = np.array(letterbox.original_hw[::-1], np.float32)
        outlines = masks.to_original(letterbox).outlines()
        for ring, (score, label) in zip(outlines, boxes[:, 4:6].tolist(), strict=True):
            yield label, (ring / size_wh).ravel().tolist(), score

    def _label_rows(self, path: str) -> Iterator[Row]:
        classes, boxes, polygons = self.index.labels(self._positions[path])
        for label, box, rings in zip(classes.tolist(), boxes, polygons or [[]] * len(boxes), strict=True):
            yield label, max(rings, key=ring_area, default=box_to_polygon(box)).ravel().tolist(), 1.0


class MaskCocoJsonWriter(CocoJsonWriter):
    """`CocoJsonWriter` with masks as RLE; logs the metrics of boxes and masks."""

    iou_types = ("bbox", "segm")

    def to_items(self, prediction: Prediction, path: str, letterbox: Letterbox) -> list[dict[str, Any]]:
        assert prediction.masks is not None
        rles = prediction.masks.to_original(letterbox).rles()
        items = super().to_items(prediction, path, letterbox)
        return [item | {"segmentation": rle} for item, rle in zip(items, rles, strict=True)]
