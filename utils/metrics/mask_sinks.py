"""Files that val.py writes of an instance segmenter's predictions: polygons as text, COCO JSON with run lengths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.types import Batch, Letterbox, Prediction
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.labels import box_corners
from utils.metrics.detection import labels_of
from utils.metrics.sinks import CocoSink, Row, TextSink, shows_no_label
from utils.ops.masks import ring_area


class PolygonSink(TextSink):
    """Writes `<stem>.txt` for each image: class, x1, y1, x2, y2, ... over the original size, the score if asked.

    A line holds one ring: the outline of an object's largest part; of an object without pixels, its box.

    Args:
        index: the split's images and labels, which `hybrid_iou` writes too.
        folder, with_score, hybrid_iou: as for `TextSink`.
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
            chosen = shows_no_label(boxes, labels_of(batch, number), self.hybrid_iou)
            boxes, masks = boxes[chosen], masks.select(chosen)
        size_wh = np.array(letterbox.original_hw[::-1], np.float32)
        outlines = masks.in_original(letterbox).outlines()
        for ring, (score, label) in zip(outlines, boxes[:, 4:6].tolist(), strict=True):
            yield label, (ring / size_wh).ravel().tolist(), score

    def _label_rows(self, path: str) -> Iterator[Row]:
        classes, boxes, polygons = self.index.labels(self._positions[path])
        for label, box, rings in zip(classes.tolist(), boxes, polygons or [[]] * len(boxes), strict=True):
            yield label, max(rings, key=ring_area, default=box_corners(box)).ravel().tolist(), 1.0


class MaskCocoSink(CocoSink):
    """As `CocoSink`, with the masks as run-length codes, measured beside the boxes."""

    measured = ("bbox", "segm")

    def items_of(self, prediction: Prediction, path: str, letterbox: Letterbox) -> list[dict[str, Any]]:
        """What the file holds of one image."""
        assert prediction.masks is not None
        codes = prediction.masks.in_original(letterbox).rles()
        items = super().items_of(prediction, path, letterbox)
        return [item | {"segmentation": code} for item, code in zip(items, codes, strict=True)]
