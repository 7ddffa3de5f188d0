"""Semantic segmentation metrics: mIoU, class IoU, pixel accuracy, confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils import plots
from utils.core.types import Batch, EvalResult, Prediction
from utils.imaging.semantic_classes import SemanticClasses
from utils.metrics.detection import NAME_WIDTH, shorten_name

NUM_VALUES = 256  # of a semantic mask


def count_confusion(predicted: Tensor, true: Tensor, num_classes: int) -> Tensor:
    """Confusion matrix (num_classes, num_classes) int64 of pixels, rows predicted, columns true.

    Args:
        predicted: integers of any shape.
        true: uint8 of the same shape, on the same device; values from `num_classes` on are ignored.
    """
    # one number per pair of classes; 16 bits suffice for 128 classes and are counted faster
    dtype = torch.int16 if num_classes <= 128 else torch.int32
    pairs = true.reshape(-1).to(dtype) * num_classes + predicted.reshape(-1).to(dtype)
    counts = torch.bincount(pairs, minlength=NUM_VALUES * num_classes)[: num_classes**2]
    return counts.view(num_classes, num_classes).T


def compute_class_iou(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU (n,) of each class, and whether (n,) labels or predictions have it; 0 if not."""
    intersection = confusion.diagonal()
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - intersection
    return intersection / np.maximum(union, 1), union > 0


class SemanticEvaluator:
    """mIoU and pixel accuracy over a split.

    Masks are compared at the original size if the batch has these, else at the size of the network input; predictions
    must have the same size. The mean omits classes that neither labels nor predictions have.

    Args:
        classes: names and ignored value.
        per_class: add a line for each class to the table.

    Attributes:
        confusion: (n, n) int64 pixels, rows predicted, columns true.
    """

    def __init__(self, classes: SemanticClasses, *, per_class: bool = True) -> None:
        self.classes, self.per_class = classes, per_class
        self.confusion = np.zeros((len(classes), len(classes)), np.int64)

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Add the predictions of a batch; pixels are counted on their device."""
        true_masks = batch.semantic_masks if batch.original_masks is None else batch.original_masks
        assert true_masks is not None
        counts: Tensor | None = None
        for prediction, true in zip(predictions, true_masks, strict=True):
            predicted = prediction.semantic_mask
            assert predicted is not None
            image_counts = count_confusion(predicted, true.to(predicted.device), len(self.classes))
            counts = image_counts if counts is None else counts + image_counts
        if counts is not None:
            self.confusion += counts.cpu().numpy()

    def state(self) -> dict[str, np.ndarray]:
        return {"confusion": self.confusion}

    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.confusion = np.sum([state["confusion"] for state in states], axis=0)

    def compute(self) -> EvalResult:
        """Metrics of all batches; 0 without any."""
        iou, present = compute_class_iou(self.confusion)
        miou = float(iou[present].mean()) if present.any() else 0.0
        accuracy = float(self.confusion.trace() / max(int(self.confusion.sum()), 1))
        return EvalResult(
            metrics={"metrics/mIoU": miou, "metrics/pixel_accuracy": accuracy},
            fitness=miou,
            per_class=np.where(present, iou, miou),
            table=self._table(miou, accuracy, iou, present),
            details={"confusion": self.confusion.copy(), "iou": iou, "present": present},
        )

    def plot(self, save_dir: Path) -> None:
        file = save_dir / "semantic_confusion_matrix.png"
        plots.plot_confusion_matrix(self.confusion.astype(np.float64), self.classes.names, file, background=False)
        iou, present = compute_class_iou(self.confusion)
        classes = np.flatnonzero(present)
        names = [self.classes.names[int(c)] for c in classes]
        colors = [self.classes.palette[int(c)] for c in classes]
        plots.plot_class_bars(iou[classes], names, colors, "IoU", save_dir / "semantic_iou.png")

    def _table(self, miou: float, accuracy: float, iou: np.ndarray, present: np.ndarray) -> str:
        """Table of all classes, then of each class with pixels; the accuracy of a class is its recall."""
        heading = ("Class", "Pixels", "Accuracy", "IoU")
        lines = [f"{heading[0]:>{NAME_WIDTH}}" + "".join(f"{name:>14}" for name in heading[1:])]
        pixels = self.confusion.sum(axis=0)
        rows = [("all", int(pixels.sum()), accuracy, miou)]
        if self.per_class:
            recall = self.confusion.diagonal() / np.maximum(pixels, 1)
            rows += [
                (self.classes.names[c], int(pixels[c]), float(recall[c]), float(iou[c]))
                for c in np.flatnonzero(present).tolist()
            ]
        lines += [f"{shorten_name(name):>{NAME_WIDTH}}{count:>14}{a:>14.3g}{b:>14.3g}" for name, count, a, b in rows]
        return "\n".join(lines)
