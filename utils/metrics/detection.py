"""Precision, recall, mAP and confusion of a detector over a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils import plots
from utils.core.distributed import in_turns
from utils.core.types import Batch, EvalResult, Prediction
from utils.metrics.ap import APResult, average_precision, match_overlaps
from utils.metrics.confusion import ConfusionMatrix
from utils.ops.boxes import box_iou_matrix, undo_letterbox, xywh_to_xyxy

IOU_THRESHOLDS = torch.linspace(0.5, 0.95, 10)
_NO_MATCHES = np.zeros((0, len(IOU_THRESHOLDS)), bool)
MAP50_WEIGHT, MAP_WEIGHT = 0.1, 0.9  # fitness
METRICS = ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")
HEADINGS = ("P", "R", "mAP50", "mAP50-95")
NAME_WIDTH, CELL = 22, 11  # characters of the table's first column and of the others


def labels_of(batch: Batch, image: int) -> Tensor:
    """(m, 5) class, x1, y1, x2, y2 in pixels of the network input, of one image of a batch."""
    rows = batch.targets[batch.targets[:, 0] == image, 1:].clone()
    height, width = batch.images.shape[2:]
    rows[:, 1:] = xywh_to_xyxy(rows[:, 1:] * rows.new_tensor([width, height, width, height]))
    return rows


def short_name(name: str) -> str:
    """A class name that fits into the first column."""
    return name if len(name) < NAME_WIDTH else name[: NAME_WIDTH - 2] + "…"


@dataclass(frozen=True)
class Kind:
    """One way in which detections overlap labels.

    Attributes:
        suffix: behind the names of its metrics.
        prefix: before the names of its curve files.
    """

    suffix: str = ""
    prefix: str = ""


class DetectionEvaluator:
    """Collects detections of a split, matched with the labels in pixels of the original images.

    Args:
        names: class names by index.
        per_class: whether the table has a line for each class.

    Attributes:
        kinds: what is measured, one after the other; the fitness is their sum.
    """

    kinds: tuple[Kind, ...] = (Kind(),)

    def __init__(self, names: Mapping[int, str], *, per_class: bool = False) -> None:
        self.names, self.per_class = dict(names), per_class
        self.confusion = ConfusionMatrix(len(names))
        self.images = 0
        self._batches: list[int] = []  # images of each
        self._matches: list[list[np.ndarray]] = [[] for _ in self.kinds]  # (n, 10) bool an image, for each kind
        self._detections: list[np.ndarray] = []  # (n, 2) score, class
        self._labels: list[np.ndarray] = []  # (m,) class
        self.results: list[APResult] = []

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Take in the predictions of a batch (boxes in pixels of the network input, on the CPU)."""
        self._batches.append(len(predictions))
        for number, (prediction, letterbox) in enumerate(zip(predictions, batch.letterboxes, strict=True)):
            assert prediction.boxes is not None and letterbox is not None
            detections = undo_letterbox(prediction.boxes, letterbox)
            labels = labels_of(batch, number)
            labels[:, 1:] = undo_letterbox(labels[:, 1:], letterbox)
            found, known = detections.numpy(), labels.numpy()
            overlaps = self.overlaps(prediction, batch, number, found, known)
            for matches, matrix in zip(self._matches, overlaps, strict=True):
                matches.append(match_overlaps(matrix, found, known, IOU_THRESHOLDS))
            self._detections.append(found[:, 4:6])
            self._labels.append(known[:, 0])
            self.confusion.update(detections, labels)
            self.images += 1

    def state(self) -> dict[str, np.ndarray]:
        """What was taken in, as arrays: of every batch the images, of every image the rows, and the rows."""
        return {
            "batches": np.array(self._batches, np.int64),
            "detections_of": np.array([len(rows) for rows in self._detections], np.int64),
            "labels_of": np.array([len(rows) for rows in self._labels], np.int64),
            "detections": np.concatenate([np.zeros((0, 2), np.float32), *self._detections]),
            "labels": np.concatenate([np.zeros(0, np.float32), *self._labels]),
            "confusion": self.confusion.matrix,
            **{f"matches{i}": np.concatenate([_NO_MATCHES, *matches]) for i, matches in enumerate(self._matches)},
        }

    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Have taken in what the states hold, in the order of one process (see `Evaluator`)."""
        order = in_turns([state["batches"] for state in states])  # of the images

        def images(name: str, counts: str) -> list[np.ndarray]:
            parts = [part for s in states for part in np.split(s[name], np.cumsum(s[counts])[:-1])[: len(s[counts])]]
            return [parts[i] for i in order]

        self._detections = images("detections", "detections_of")
        self._labels = images("labels", "labels_of")
        self._matches = [images(f"matches{i}", "detections_of") for i in range(len(self.kinds))]
        self._batches = [len(order)]
        self.images = len(order)
        self.confusion.matrix = np.sum([state["confusion"] for state in states], axis=0)

    def overlaps(
        self, prediction: Prediction, batch: Batch, number: int, found: np.ndarray, known: np.ndarray
    ) -> Sequence[np.ndarray]:
        """(n, m) IoU of the detections and labels of image `number`, for each kind.

        Args:
            found: (n, 6) x1, y1, x2, y2, score, class in pixels of the original image.
            known: (m, 5) class, x1, y1, x2, y2.
        """
        return (box_iou_matrix(found[:, :4], known[:, 1:5]),)

    def compute(self) -> EvalResult:
        """Metrics of everything taken in so far."""
        detections = np.concatenate(self._detections) if self._detections else np.zeros((0, 2), np.float32)
        labels = np.concatenate(self._labels) if self._labels else np.zeros(0, np.float32)
        self.results = [
            average_precision(np.concatenate([_NO_MATCHES, *matches]), detections[:, 0], detections[:, 1], labels)
            for matches in self._matches
        ]
        means = [_means(result) for result in self.results]
        per_class = [_map_of_classes(result, len(self.names)) for result in self.results]
        return EvalResult(
            metrics={
                f"metrics/{name}{kind.suffix}": value
                for kind, values in zip(self.kinds, means, strict=True)
                for name, value in zip(METRICS, values, strict=True)
            },
            fitness=sum(MAP50_WEIGHT * values[2] + MAP_WEIGHT * values[3] for values in means),
            per_class=np.mean(per_class, axis=0),
            table=self._table(means, labels),
        )

    def plot(self, save_dir: Path) -> None:
        """Curves and confusion matrix."""
        assert self.results, "compute() comes first"
        for kind, result in zip(self.kinds, self.results, strict=True):
            plots.plot_curves(result, self.names, save_dir, prefix=kind.prefix)
        plots.plot_confusion_matrix(self.confusion.matrix, self.names, save_dir / "confusion_matrix.png")

    def _table(self, means: Sequence[Sequence[float]], labels: np.ndarray) -> str:
        """The lines a user reads: all classes, then each."""
        columns = [(f"{name}{kind.suffix}", CELL + len(kind.suffix)) for kind in self.kinds for name in HEADINGS]
        heading = "".join(f"{name:>{width}}" for name, width in columns)
        lines = [f"{'Class':>{NAME_WIDTH}}{'Images':>{CELL}}{'Instances':>{CELL}}{heading}"]
        rows: list[tuple[str, int, Sequence[float]]] = [("all", len(labels), [v for values in means for v in values])]
        if self.per_class and len(self.names) > 1:
            classes, counts = np.unique(labels, return_counts=True)
            numbers = np.concatenate([_by_class(result) for result in self.results], axis=1).tolist()
            rows += [(self.names[int(c)], int(n), v) for c, n, v in zip(classes, counts, numbers, strict=True)]
        for name, instances, values in rows:
            cells = "".join(f"{value:>{width}.3g}" for value, (_, width) in zip(values, columns, strict=True))
            lines.append(f"{short_name(name):>{NAME_WIDTH}}{self.images:>{CELL}}{instances:>{CELL}}{cells}")
        if not len(labels):
            lines.append("no labels in this split: precision, recall and mAP cannot be measured")
        return "\n".join(lines)


def _by_class(result: APResult) -> np.ndarray:
    """(k, 4) precision, recall, mAP50 and mAP50-95 of the classes that have labels."""
    return np.stack([result.p, result.r, result.ap50, result.ap_mean], axis=1)


def _means(result: APResult) -> list[float]:
    """The means over those classes; zeros where there are none."""
    numbers = _by_class(result)
    return numbers.mean(axis=0).tolist() if len(numbers) else [0.0] * len(METRICS)


def _map_of_classes(result: APResult, num_classes: int) -> np.ndarray:
    """(num_classes,) mAP50-95, for classes without labels the mean of the others."""
    values = np.full(num_classes, _means(result)[3])
    values[result.classes] = result.ap_mean
    return values
