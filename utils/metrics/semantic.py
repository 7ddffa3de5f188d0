"""mIoU, IoU of each class and pixel accuracy of semantic masks over a split, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils import plots
from utils.core.types import Batch, EvalResult, Prediction
from utils.imaging.semantic_classes import SemanticClasses
from utils.metrics.detection import NAME_WIDTH, short_name

VALUES = 256  # that a semantic mask can have


def count_pairs(predicted: Tensor, true: Tensor, num_classes: int) -> Tensor:
    """(num_classes, num_classes) int64 pixels, rows predicted, columns true, on the device of the maps.

    Args:
        predicted: integers of any shape.
        true: uint8 of the same shape; pixels from `num_classes` on are not counted.

    Raises:
        ValueError: the shapes differ.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"semantic masks of {tuple(predicted.shape)} predicted and {tuple(true.shape)} true pixels")
    # one number per pair; 16 bits hold them up to 128 classes, and what is smaller is counted faster
    narrow = torch.int16 if num_classes <= 128 else torch.int32
    pairs = true.reshape(-1).to(narrow) * num_classes + predicted.reshape(-1).to(narrow)
    counts = torch.bincount(pairs, minlength=VALUES * num_classes)[: num_classes**2]
    return counts.view(num_classes, num_classes).T


def iou_of(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) IoU of each class and (n,) bool, whether it has a counted pixel in label or prediction; 0 where not."""
    hits = confusion.diagonal()
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    return hits / np.maximum(union, 1), union > 0


class SemanticEvaluator:
    """Counts the pixels of a split.

    The image's own semantic mask is the measure where the batch has it, else that at the size of the network input; a
    prediction must have its size. A class that neither labels nor predictions have does not enter the mean.

    Args:
        classes: names by number and the value that does not count.
        per_class: whether the table has a line for each class.

    Attributes:
        confusion: (n, n) int64 pixels, rows predicted, columns true.
    """

    def __init__(self, classes: SemanticClasses, *, per_class: bool = True) -> None:
        self.classes, self.per_class = classes, per_class
        self.confusion = np.zeros((len(classes), len(classes)), np.int64)

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Take in the semantic masks of a batch; those on a GPU are counted there."""
        maps = batch.semantic_masks if batch.original_maps is None else batch.original_maps
        assert maps is not None
        counts: Tensor | None = None
        for prediction, true in zip(predictions, maps, strict=True):
            found = prediction.semantic_mask
            assert found is not None
            pairs = count_pairs(found, true.to(found.device), len(self.classes))
            counts = pairs if counts is None else counts + pairs
        if counts is not None:
            self.confusion += counts.cpu().numpy()

    def state(self) -> dict[str, np.ndarray]:
        """The counts so far."""
        return {"confusion": self.confusion}

    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Take the sum of several states for one's own."""
        self.confusion = np.sum([state["confusion"] for state in states], axis=0)

    def compute(self) -> EvalResult:
        """Metrics of everything taken in so far; 0 if that is nothing."""
        iou, present = iou_of(self.confusion)
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
        """Confusion matrix, and the IoU of each class as bars."""
        file = save_dir / "semantic_confusion_matrix.png"
        plots.plot_confusion_matrix(self.confusion.astype(np.float64), self.classes.names, file, background=False)
        iou, present = iou_of(self.confusion)
        shown = np.flatnonzero(present)
        names = [self.classes.names[int(c)] for c in shown]
        colors = [self.classes.palette[int(c)] for c in shown]
        plots.plot_class_bars(iou[shown], names, colors, "IoU", save_dir / "semantic_iou.png")

    def _table(self, miou: float, accuracy: float, iou: np.ndarray, present: np.ndarray) -> str:
        """The lines a user reads: all classes, then each that has pixels; the accuracy of a class is its recall."""
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
        lines += [f"{short_name(name):>{NAME_WIDTH}}{count:>14}{a:>14.3g}{b:>14.3g}" for name, count, a, b in rows]
        return "\n".join(lines)
