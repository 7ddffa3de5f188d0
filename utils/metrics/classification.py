"""Accuracy of a classifier over a split, per class too, and which classes it takes for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils import plots
from utils.core.types import Batch, EvalResult, Prediction
from utils.metrics.arrays import as_array
from utils.metrics.detection import NAME_WIDTH, short_name

TOP = 5


def ranks_of(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(B,) how many classes come before the true one, by falling probability (B, nc), then by class number.

    An image whose probability is not a number ranks last.
    """
    own = np.take_along_axis(probs, labels[:, None], axis=1)
    earlier = np.arange(probs.shape[1]) < labels[:, None]
    ranks = ((probs > own) | ((probs == own) & earlier)).sum(axis=1)
    return np.where(np.isfinite(own[:, 0]), ranks, probs.shape[1])


class ClassificationEvaluator:
    """Collects the probabilities of a split.

    An image counts as right in the top k if fewer than k classes score higher than its own; of equal scores the
    lower class number comes first.

    Args:
        names: class names by number.
        per_class: whether the table has a line for each class.

    Attributes:
        confusion: (nc, nc) counts, rows predicted, columns true.
    """

    def __init__(self, names: Mapping[int, str], *, per_class: bool = False) -> None:
        self.names, self.per_class = dict(names), per_class
        count = len(self.names)
        self.confusion = np.zeros((count, count))
        self._right = np.zeros((2, count))  # of each class: right at first, right among the first five
        self._images = np.zeros(count)

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Take in the predictions of a batch."""
        assert batch.labels is not None
        labels = batch.labels.numpy()
        probs = np.stack([as_array(prediction.probs) for prediction in predictions])  # (B, nc)
        ranks = ranks_of(probs, labels)
        np.add.at(self._images, labels, 1)
        np.add.at(self._right[0], labels, ranks < 1)
        np.add.at(self._right[1], labels, ranks < TOP)
        np.add.at(self.confusion, (probs.argmax(axis=1), labels), 1)

    def state(self) -> dict[str, np.ndarray]:
        """The counts so far."""
        return {"confusion": self.confusion, "right": self._right, "images": self._images}

    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Take the sums of several states for one's own."""
        self.confusion, self._right, self._images = (
            np.sum([state[name] for state in states], axis=0) for name in ("confusion", "right", "images")
        )

    def compute(self) -> EvalResult:
        """Metrics of everything taken in so far."""
        total = max(self._images.sum(), 1)
        top1, top5 = (float(right.sum() / total) for right in self._right)
        shares = self._right / np.maximum(self._images, 1)
        return EvalResult(
            metrics={"metrics/accuracy_top1": top1, "metrics/accuracy_top5": top5},
            fitness=top1,
            per_class=np.where(self._images > 0, shares[0], top1),
            table=self._table(top1, top5, shares),
            details={"confusion": self.confusion.copy()},
        )

    def plot(self, save_dir: Path) -> None:
        """Confusion matrix."""
        plots.plot_confusion_matrix(self.confusion, self.names, save_dir / "confusion_matrix.png", background=False)

    def _table(self, top1: float, top5: float, shares: np.ndarray) -> str:
        """The lines a user reads: all classes, then each that has images."""
        heading = ("Class", "Images", "top1_acc", "top5_acc")
        lines = [f"{heading[0]:>{NAME_WIDTH}}" + "".join(f"{name:>11}" for name in heading[1:])]
        rows = [("all", int(self._images.sum()), top1, top5)]
        if self.per_class:
            present = np.flatnonzero(self._images).tolist()
            rows += [(self.names[c], int(self._images[c]), *shares[:, c].tolist()) for c in present]
        lines += [f"{short_name(name):>{NAME_WIDTH}}{count:>11}{a:>11.3g}{b:>11.3g}" for name, count, a, b in rows]
        return "\n".join(lines)
