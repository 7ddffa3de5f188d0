"""Confusion matrix of detections."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from utils.metrics.arrays import to_numpy
from utils.ops.boxes import box_iou_matrix


class ConfusionMatrix:
    """Counts of predicted and true classes, with background as an extra class.

    Matching ignores classes: each detection above the score threshold can match the label with which it has the highest
    IoU, and each label is matched with the detection of highest IoU above the threshold. Unmatched labels count as
    predicted background, unmatched detections as true background.

    Args:
        num_classes: number of classes nc.
        conf: minimum score, exclusive.
        iou_thres: minimum IoU of a match, exclusive.

    Attributes:
        matrix: (nc + 1, nc + 1) float64, rows predicted, columns true, background last.
    """

    def __init__(self, num_classes: int, conf: float = 0.25, iou_thres: float = 0.45) -> None:
        self.num_classes, self.conf, self.iou_thres = num_classes, conf, iou_thres
        self.matrix = np.zeros((num_classes + 1, num_classes + 1))

    def update(self, detections: np.ndarray | Tensor | None, labels: np.ndarray | Tensor) -> None:
        """Count one image.

        Args:
            detections: (n, 6+) x1, y1, x2, y2, score, class; None for no detections.
            labels: (m, 5) class, x1, y1, x2, y2 in the same frame; (m,) classes suffice without detections.
        """
        labels = to_numpy(labels)
        if labels.ndim == 1 and detections is None:
            labels = np.pad(labels[:, None], ((0, 0), (0, 4)))  # without boxes, which nothing is matched with
        detections = np.zeros((0, 6), labels.dtype) if detections is None else to_numpy(detections)
        detections = detections[detections[:, 4] > self.conf]
        pred_classes, true_classes = detections[:, 5].astype(np.int64), labels[:, 0].astype(np.int64)
        matched_preds, matched_labels = self._match(detections, labels)
        background = self.num_classes
        unmatched, missed = np.delete(pred_classes, matched_preds), np.delete(true_classes, matched_labels)
        rows = np.concatenate((pred_classes[matched_preds], unmatched, np.full_like(missed, background)))
        columns = np.concatenate((true_classes[matched_labels], np.full_like(unmatched, background), missed))
        np.add.at(self.matrix, (rows, columns), 1)

    def _match(self, detections: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of matched detections and of their labels."""
        if not len(detections) or not len(labels):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        ious = box_iou_matrix(detections[:, :4], labels[:, 1:5])  # (n, m)
        label = ious.argmax(axis=1)
        best_iou = ious[np.arange(len(detections)), label]
        order = np.lexsort((-best_iou, label))  # by label, then by falling IoU
        order = order[best_iou[order] > self.iou_thres]
        matched_labels, first = np.unique(label[order], return_index=True)
        return order[first], matched_labels

    @property
    def true_positives(self) -> np.ndarray:
        """True positives (nc,)."""
        return self.matrix.diagonal()[:-1].copy()

    @property
    def false_positives(self) -> np.ndarray:
        """False positives (nc,): wrong class or background."""
        return self.matrix.sum(axis=1)[:-1] - self.true_positives

    def normalize(self) -> np.ndarray:
        """Fractions of each true class: columns sum to 1, or to 0 for classes that do not occur."""
        return self.matrix / np.maximum(self.matrix.sum(axis=0, keepdims=True), 1)
