"""Detection metrics: precision, recall, mAP, confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils import plots
from utils.core.distributed import compute_interleaved_order
from utils.core.types import Batch, EvalResult, Prediction
from utils.metrics.ap import APResult, average_precision, match_iou_matrix
from utils.metrics.confusion import ConfusionMatrix
from utils.ops.boxes import box_iou_matrix, undo_letterbox, xywh_to_xyxy

IOU_THRESHOLDS = torch.linspace(0.5, 0.95, 10)
_NO_MATCHES = np.zeros((0, len(IOU_THRESHOLDS)), bool)
MAP50_WEIGHT, MAP_WEIGHT = 0.1, 0.9  # fitness
METRICS = ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")
HEADINGS = ("P", "R", "mAP50", "mAP50-95")
NAME_WIDTH, CELL_WIDTH = 22, 11  # characters of the first and the other columns of a table


def get_image_labels(batch: Batch, image: int) -> Tensor:
    """Labels (m, 5) class, x1, y1, x2, y2 of one image of a batch, in pixels of the network input."""
    rows = batch.targets[batch.targets[:, 0] == image, 1:].clone()
    height, width = batch.images.shape[2:]
    rows[:, 1:] = xywh_to_xyxy(rows[:, 1:] * rows.new_tensor([width, height, width, height]))
    return rows


def shorten_name(name: str) -> str:
    """Truncate a class name to the first column."""
    return name if len(name) < NAME_WIDTH else name[: NAME_WIDTH - 2] + "…"


@dataclass(frozen=True)
class MetricGroup:
    """Metrics of one type of IoU, such as that of boxes or masks.

    Attributes:
        suffix: appended to the names of the metrics.
        prefix: prepended to the names of the curve plots.
    """

    suffix: str = ""
    prefix: str = ""


class DetectionEvaluator:
    """Precision, recall and mAP of detections over a split, in pixels of the original images.

    Args:
        names: class names by number.
        per_class: add a line for each class to the table.

    Attributes:
        groups: groups of metrics; the fitness is their sum.
    """

    groups: tuple[MetricGroup, ...] = (MetricGroup(),)

    def __init__(self, names: Mapping[int, str], *, per_class: bool = False) -> None:
        self.names, self.per_class = dict(names), per_class
        self.confusion = ConfusionMatrix(len(names))
        self.images = 0
        self._batches: list[int] = []  # images of each batch
        self._matches: list[list[np.ndarray]] = [[] for _ in self.groups]  # (n, 10) bool per image, for each group
        self._detections: list[np.ndarray] = []  # (n, 2) score, class
        self._labels: list[np.ndarray] = []  # (m,) class
        self.results: list[APResult] = []

    def update(self, predictions: Sequence[Prediction], batch: Batch) -> None:
        """Add the predictions of a batch (boxes in pixels of the network input, on the CPU)."""
        self._batches.append(len(predictions))
        for number, (prediction, letterbox) in enumerate(zip(predictions, batch.letterboxes, strict=True)):
            assert prediction.boxes is not None and letterbox is not None
            detections = undo_letterbox(prediction.boxes, letterbox)
            labels = get_image_labels(batch, number)
            labels[:, 1:] = undo_letterbox(labels[:, 1:], letterbox)
            ious = self.compute_ious(prediction, batch, number, detections.numpy(), labels.numpy())
            for matches, iou_matrix in zip(self._matches, ious, strict=True):
                matches.append(match_iou_matrix(iou_matrix, detections.numpy(), labels.numpy(), IOU_THRESHOLDS))
            self._detections.append(detections.numpy()[:, 4:6])
            self._labels.append(labels.numpy()[:, 0])
            self.confusion.update(detections, labels)
            self.images += 1

    def state(self) -> dict[str, np.ndarray]:
        """The collected data as arrays: images per batch, rows per image, and the rows."""
        return {
            "batches": np.array(self._batches, np.int64),
            "num_detections": np.array([len(rows) for rows in self._detections], np.int64),
            "num_labels": np.array([len(rows) for rows in self._labels], np.int64),
            "detections": np.concatenate([np.zeros((0, 2), np.float32), *self._detections]),
            "labels": np.concatenate([np.zeros(0, np.float32), *self._labels]),
            "confusion": self.confusion.matrix,
            **{f"matches{i}": np.concatenate([_NO_MATCHES, *matches]) for i, matches in enumerate(self._matches)},
        }

    def merge(self, states: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Replace the data by those of several states, in the order of a single process (see `Evaluator`)."""
        order = compute_interleaved_order([state["batches"] for state in states])  # of the images

        def split_images(name: str, counts: str) -> list[np.ndarray]:
            parts = [part for s in states for part in np.split(s[name], np.cumsum(s[counts])[:-1])[: len(s[counts])]]
            return [parts[i] for i in order]

        self._detections = split_images("detections", "num_detections")
        self._labels = split_images("labels", "num_labels")
        self._matches = [split_images(f"matches{i}", "num_detections") for i in range(len(self.groups))]
        self._batches = [len(order)]
        self.images = len(order)
        self.confusion.matrix = np.sum([state["confusion"] for state in states], axis=0)

    def compute_ious(
        self, prediction: Prediction, batch: Batch, number: int, detections: np.ndarray, labels: np.ndarray
    ) -> Sequence[np.ndarray]:
        """IoU (n, m) of the detections and labels of image `number`, for each group.

        Args:
            detections: (n, 6) x1, y1, x2, y2, score, class in pixels of the original image.
            labels: (m, 5) class, x1, y1, x2, y2.
        """
        return (box_iou_matrix(detections[:, :4], labels[:, 1:5]),)

    def compute(self) -> EvalResult:
        detections = np.concatenate(self._detections) if self._detections else np.zeros((0, 2), np.float32)
        labels = np.concatenate(self._labels) if self._labels else np.zeros(0, np.float32)
        self.results = [
            average_precision(np.concatenate([_NO_MATCHES, *matches]), detections[:, 0], detections[:, 1], labels)
            for matches in self._matches
        ]
        means = [_means(result) for result in self.results]
        per_class = [_fill_map(result, len(self.names)) for result in self.results]
        return EvalResult(
            metrics={
                f"metrics/{name}{group.suffix}": value
                for group, values in zip(self.groups, means, strict=True)
                for name, value in zip(METRICS, values, strict=True)
            },
            fitness=sum(MAP50_WEIGHT * values[2] + MAP_WEIGHT * values[3] for values in means),
            per_class=np.mean(per_class, axis=0),
            table=self._table(means, labels),
        )

    def plot(self, save_dir: Path) -> None:
        assert self.results, "call compute() first"
        for group, result in zip(self.groups, self.results, strict=True):
            plots.plot_curves(result, self.names, save_dir, prefix=group.prefix)
        plots.plot_confusion_matrix(self.confusion.matrix, self.names, save_dir / "confusion_matrix.png")

    def _table(self, means: Sequence[Sequence[float]], labels: np.ndarray) -> str:
        columns = [
            (f"{name}{group.suffix}", CELL_WIDTH + len(group.suffix)) for group in self.groups for name in HEADINGS
        ]
        heading = "".join(f"{name:>{width}}" for name, width in columns)
        lines = [f"{'Class':>{NAME_WIDTH}}{'Images':>{CELL_WIDTH}}{'Instances':>{CELL_WIDTH}}{heading}"]
        rows: list[tuple[str, int, Sequence[float]]] = [("all", len(labels), [v for values in means for v in values])]
        if self.per_class and len(self.names) > 1:
            classes, counts = np.unique(labels, return_counts=True)
            class_values = np.concatenate([_stack_metrics(result) for result in self.results], axis=1).tolist()
            rows += [(self.names[int(c)], int(n), v) for c, n, v in zip(classes, counts, class_values, strict=True)]
        for name, instances, values in rows:
            cells = "".join(f"{value:>{width}.3g}" for value, (_, width) in zip(values, columns, strict=True))
            lines.append(
                f"{shorten_name(name):>{NAME_WIDTH}}{self.images:>{CELL_WIDTH}}{instances:>{CELL_WIDTH}}{cells}"
            )
        if not len(labels):
            lines.append("no labels in this split: precision, recall and mAP are undefined")
        return "\n".join(lines)


def _stack_metrics(result: APResult) -> np.ndarray:
    """Precision, recall, AP50 and AP50-95 (k, 4) of the classes with labels."""
    return np.stack([result.p, result.r, result.ap50, result.ap_mean], axis=1)


def _means(result: APResult) -> list[float]:
    """Means over the classes with labels; zeros without any."""
    values = _stack_metrics(result)
    return values.mean(axis=0).tolist() if len(values) else [0.0] * len(METRICS)


def _fill_map(result: APResult, num_classes: int) -> np.ndarray:
    """AP50-95 (num_classes,), for classes without labels the mean of the others."""
    values = np.full(num_classes, _means(result)[3])
    values[result.classes] = result.ap_mean
    return values
