"""Which classes a detector takes for which."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from utils.metrics.arrays import as_array
from utils.ops.boxes import box_iou_matrix


class ConfusionMatrix:
    """Counts of predicted against true class over images, with background as an extra class.

    Classes play no part in matching: of the detections above the score threshold each stands for the label that it
    overlaps best, if by more than the IoU threshold, and a label goes to the detection of highest IoU. Labels left
    over count as taken for background, detections left over as made of background, in empty images too.

    Args:
        num_classes: nc.
        conf: score that a detection must exceed.
        iou_thres: overlap that a match must exceed.

    Attributes:
        matrix: (nc + 1, nc + 1) float64, rows predicted, columns true, the last of each is background.
    """

    def __init__(self, num_classes: int, conf: float = 0.25, iou_thres: float = 0.45) -> None:
        self.num_classes, self.conf, self.iou_thres = num_classes, conf, iou_thres
        self.matrix = np.zeros((num_classes + 1, num_classes + 1))

    def update(self, detections: np.ndarray | Tensor | None, labels: np.ndarray | Tensor) -> None:
        """Count one image.

        Args:
            detections: (n, 6+) x1, y1, x2, y2, score, class; None is as good as none.
            labels: (m, 5) class, x1, y1, x2, y2 in the same frame.
        """
        known = as_array(labels)
        found = np.zeros((0, 6), known.dtype) if detections is None else as_array(detections)
        found = found[found[:, 4] > self.conf]
        predicted, true = found[:, 5].astype(np.int64), known[:, 0].astype(np.int64)
        detection, label = self._match(found, known)
        background = self.num_classes
        alone, missed = np.delete(predicted, detection), np.delete(true, label)
        rows = np.concatenate((predicted[detection], alone, np.full_like(missed, background)))
        columns = np.concatenate((true[label], np.full_like(alone, background), missed))
        np.add.at(self.matrix, (rows, columns), 1)

    def _match(self, found: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of detections and the rows of their labels."""
        if not len(found) or not len(known):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        overlaps = box_iou_matrix(found[:, :4], known[:, 1:5])  # (n, m)
        label = overlaps.argmax(axis=1)
        best = overlaps[np.arange(len(found)), label]
        order = np.lexsort((-best, label))  # label by label, best overlap first
        order = order[best[order] > self.iou_thres]
        taken, first = np.unique(label[order], return_index=True)
        return order[first], taken

    @property
    def true_positives(self) -> np.ndarray:
        """(nc,) detections of the right class."""
        return self.matrix.diagonal()[:-1].copy()

    @property
    def false_positives(self) -> np.ndarray:
        """(nc,) detections of a wrong class or of background."""
        return self.matrix.sum(axis=1)[:-1] - self.true_positives

    def normalized(self) -> np.ndarray:
        """Shares of each true class: columns sum to 1, or to 0 for a class that never came up."""
        return self.matrix / np.maximum(self.matrix.sum(axis=0, keepdims=True), 1)
