"""Classification metrics: top-1 and top-5 accuracy, confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils import plots
from utils.core.types import Batch, EvalResult, Prediction
from utils.metrics.arrays import to_numpy
from utils.metrics.detection import NAME_WIDTH, shorten_name

TOP_K = 5


def compute_label_ranks(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rank (B,) of the true class, from 0, by falling probability (B, nc), then by class number; NaN ranks last."""
    true_probs = np.take_along_axis(probs, labels[:, None], axis=1)
    is_lower_class = np.arange(probs.shape[1]) < labels[:, None]
    ranks = ((probs > true_probs) | ((probs == true_probs) & is_lower_class)).sum(axis=1)
    return np.where(np.isfinite(true_probs[:, 0]), ranks, probs.shape[1])


class ClassificationEvaluator:
    """Accuracy over a split.

    An image is correct in the top k if fewer than k classes rank before its true class (see `compute_label_ranks`).

    Args:
        names: class names by number.
        per_class: add a line for each class to the table.

    Attributes:
        confusion: (nc, nc) counts, rows predicted, columns true.
    """

    def __init__(self, names: Mapping[int, str], *, per_class: bool = False) -> None:
        self.names, self.per_class = dict(names), per_class
        count = len(self.names)
        self.confusion = np.zeros((count, count))
        self._correct = np.zeros((2, count))  # of each class: top 1, top 5
        self._images = np.zeros(count)

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        assert batch.labels is not None
        labels = batch.labels.numpy()
        probs = np.stack([to_numpy(prediction.probs) for prediction in predictions])  # (B, nc)
        ranks = compute_label_ranks(probs, labels)
        np.add.at(self._images, labels, 1)
        np.add.at(self._correct[0], labels, ranks < 1)
        np.add.at(self._correct[1], labels, ranks < TOP_K)
        np.add.at(self.confusion, (probs.argmax(axis=1), labels), 1)

    def state(self) -> dict[str, np.ndarray]:
        return {"confusion": self.confusion, "correct": self._correct, "images": self._images}

    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.confusion, self._correct, self._images = (
            np.sum([state[name] for state in states], axis=0) for name in ("confusion", "correct", "images")
        )

    def compute(self) -> EvalResult:
        total = max(self._images.sum(), 1)
        top1, top5 = (float(correct.sum() / total) for correct in self._correct)
        accuracy = self._correct / np.maximum(self._images, 1)
        return EvalResult(
            metrics={"metrics/accuracy_top1": top1, "metrics/accuracy_top5": top5},
            fitness=top1,
            per_class=np.where(self._images > 0, accuracy[0], top1),
            table=self._table(top1, top5, accuracy),
            details={"confusion": self.confusion.copy()},
        )

    def plot(self, save_dir: Path) -> None:
        plots.plot_confusion_matrix(self.confusion, self.names, save_dir / "confusion_matrix.png", background=False)

    def _table(self, top1: float, top5: float, accuracy: np.ndarray) -> str:
        """Table of all classes, then of each class with images."""
        heading = ("Class", "Images", "top1_acc", "top5_acc")
        lines = [f"{heading[0]:>{NAME_WIDTH}}" + "".join(f"{name:>11}" for name in heading[1:])]
        rows = [("all", int(self._images.sum()), top1, top5)]
        if self.per_class:
            present = np.flatnonzero(self._images).tolist()
            rows += [(self.names[c], int(self._images[c]), *accuracy[:, c].tolist()) for c in present]
        lines += [f"{shorten_name(name):>{NAME_WIDTH}}{count:>11}{a:>11.3g}{b:>11.3g}" for name, count, a, b in rows]
        return "\n".join(lines)
