"""Precision, recall, mAP and confusion of a detector over a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils import plots
from utils.boxes import undo_letterbox, xywh_to_xyxy
from utils.metrics.ap import APResult, average_precision, match_detections
from utils.metrics.confusion import ConfusionMatrix
from utils.types import Batch, EvalResult, Prediction

IOU_THRESHOLDS = torch.linspace(0.5, 0.95, 10)
MAP50_WEIGHT, MAP_WEIGHT = 0.1, 0.9  # fitness
NAME_WIDTH = 22  # characters of the table's first column


def labels_of(batch: Batch, image: int) -> Tensor:
    """(m, 5) class, x1, y1, x2, y2 in pixels of the network input, of one picture of a batch."""
    rows = batch.targets[batch.targets[:, 0] == image, 1:].clone()
    height, width = batch.images.shape[2:]
    rows[:, 1:] = xywh_to_xyxy(rows[:, 1:] * rows.new_tensor([width, height, width, height]))
    return rows


class DetectionEvaluator:
    """Collects detections of a split, matched with the labels in pixels of the original pictures.

    Args:
        names: class names by index.
        per_class: whether the table has a line for each class.
    """

    def __init__(self, names: Mapping[int, str], *, per_class: bool = False) -> None:
        self.names, self.per_class = dict(names), per_class
        self.confusion = ConfusionMatrix(len(names))
        self.images = 0
        self._matches: list[np.ndarray] = []  # (n, 10) bool a picture
        self._detections: list[np.ndarray] = []  # (n, 2) score, class
        self._labels: list[np.ndarray] = []  # (m,) class
        self.result: APResult | None = None

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Take in the predictions of a batch (boxes in pixels of the network input, on the CPU)."""
        for number, (prediction, letterbox) in enumerate(zip(predictions, batch.letterboxes, strict=True)):
            assert prediction.boxes is not None and letterbox is not None
            detections = undo_letterbox(prediction.boxes, letterbox)
            labels = labels_of(batch, number)
            labels[:, 1:] = undo_letterbox(labels[:, 1:], letterbox)
            self._matches.append(np.asarray(match_detections(detections, labels, IOU_THRESHOLDS)))
            self._detections.append(detections[:, 4:6].numpy())
            self._labels.append(labels[:, 0].numpy())
            self.confusion.update(detections, labels)
            self.images += 1

    def compute(self) -> EvalResult:
        """Metrics of everything taken in so far."""
        matches = np.concatenate(self._matches) if self._matches else np.zeros((0, len(IOU_THRESHOLDS)), bool)
        detections = np.concatenate(self._detections) if self._detections else np.zeros((0, 2), np.float32)
        labels = np.concatenate(self._labels) if self._labels else np.zeros(0, np.float32)
        self.result = result = average_precision(matches, detections[:, 0], detections[:, 1], labels)
        means = [float(v.mean()) if len(v) else 0.0 for v in (result.p, result.r, result.ap50, result.ap_mean)]
        names = ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")
        per_class = np.full(len(self.names), means[3])
        per_class[result.classes] = result.ap_mean
        return EvalResult(
            metrics={f"metrics/{name}": value for name, value in zip(names, means, strict=True)},
            fitness=MAP50_WEIGHT * means[2] + MAP_WEIGHT * means[3],
            per_class=per_class,
            table=self._table(result, means, labels),
        )

    def plot(self, save_dir: Path) -> None:
        """Curves and confusion matrix."""
        assert self.result is not None, "compute() comes first"
        plots.plot_curves(self.result, self.names, save_dir)
        plots.plot_confusion_matrix(self.confusion.matrix, self.names, save_dir / "confusion_matrix.png")

    def _table(self, result: APResult, means: Sequence[float], labels: np.ndarray) -> str:
        """The lines a user reads: all classes, then each."""
        heading = ("Class", "Images", "Instances", "P", "R", "mAP50", "mAP50-95")
        lines = [f"{heading[0]:>{NAME_WIDTH}}" + "".join(f"{name:>11}" for name in heading[1:])]
        rows: list[tuple[str, int, Sequence[float]]] = [("all", len(labels), means)]
        if self.per_class and len(self.names) > 1:
            counts = {int(c): int(n) for c, n in zip(*np.unique(labels, return_counts=True), strict=True)}
            columns = zip(result.classes, result.p, result.r, result.ap50, result.ap_mean, strict=True)
            rows += [(self.names[int(c)], counts[int(c)], values) for c, *values in columns]
        for name, instances, values in rows:
            name = name if len(name) < NAME_WIDTH else name[: NAME_WIDTH - 2] + "…"
            numbers = "".join(f"{value:>11.3g}" for value in values)
            lines.append(f"{name:>{NAME_WIDTH}}{self.images:>11}{instances:>11}{numbers}")
        if not len(labels):
            lines.append("no labels in this split: precision, recall and mAP cannot be measured")
        return "\n".join(lines)
