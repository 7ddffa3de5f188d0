"""Average precision (AP): match detections with labels, compute precision-recall curves."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from torch import Tensor

from utils.metrics.arrays import to_numpy

RECALL_POINTS = np.linspace(0, 1, 101)
SCORE_GRID = np.linspace(0, 1, 1000)
SMOOTHING = 0.1  # fraction of the score grid in the window that smooths the mean F1
EPS = 1e-16


def match_iou_matrix(
    ious: np.ndarray, detections: np.ndarray, labels: np.ndarray, iou_thresholds: np.ndarray | Tensor
) -> np.ndarray:
    """True positives (n, T) of one image at each threshold of the IoU of boxes or masks.

    A detection can only match the label of its class with which it has the highest IoU. Of the detections that reach
    the threshold with the same label, the one with the highest score is a true positive.

    Args:
        ious: (n, m) IoU of detections and labels.
        detections: (n, 6+), score and class in columns 4 and 5.
        labels: (m, 1+), class in column 0.
        iou_thresholds: (T,).

    Returns:
        (n, T) bool, rows as in `detections`.
    """
    thresholds = to_numpy(iou_thresholds)
    correct = np.zeros((len(detections), len(thresholds)), dtype=bool)
    if not len(detections) or not len(labels):
        return correct
    ious = np.where(detections[:, 5:6] == labels[None, :, 0], ious, -1)
    label = ious.argmax(axis=1)
    best_iou = ious[np.arange(len(detections)), label]

    order = np.lexsort((-detections[:, 4], label))  # by label, then by falling score
    is_match = best_iou[order, None] >= thresholds  # (n, T)
    count = is_match.cumsum(axis=0)
    starts = np.searchsorted(label[order], label[order])  # first row of each row's label
    count_before = np.vstack((np.zeros_like(count[:1]), count))[starts]
    correct[order] = is_match & (count - count_before == 1)  # the first match of each label
    return correct


@dataclass
class APResult:
    """Metrics of the k classes with labels, ordered by class number; values are not clipped.

    Attributes:
        classes: (k,) class numbers.
        p, r, f1: (k,) precision, recall and F1 at IoU 0.5 and `score`.
        tp, fp: (k,) numbers of true and false positives at `score`.
        ap: (k, T) average precision per IoU threshold.
        score: the score with the highest smoothed mean F1.
    """

    classes: np.ndarray
    p: np.ndarray
    r: np.ndarray
    f1: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    ap: np.ndarray
    score: float = 0.0
    _ranked: list[_RankedClass] = field(default_factory=list, repr=False)

    @property
    def ap50(self) -> np.ndarray:
        """AP (k,) at the first threshold."""
        return self.ap[:, 0]

    @property
    def ap_mean(self) -> np.ndarray:
        """Mean AP (k,) over the thresholds: AP50-95 for the ten of COCO."""
        return self.ap.mean(axis=1) if len(self.ap) else np.zeros(0)

    @cached_property
    def curves(self) -> Curves:
        """Curves at IoU 0.5 for plots, computed on first use."""
        precision = np.array([ranked.precision_over_recall() for ranked in self._ranked]).reshape(-1, len(SCORE_GRID))
        p, r = _compute_score_curves(self._ranked)
        return Curves(SCORE_GRID, p, r, _f1(p, r), precision)


@dataclass(frozen=True)
class Curves:
    """Curves for plots at IoU 0.5, one row per class.

    Attributes:
        grid: (1000,) from 0 to 1: scores of `p`, `r`, `f1`, recalls of `precision_over_recall`.
        p, r, f1: (k, 1000) over the score.
        precision_over_recall: (k, 1000) precision envelope over the recall.
    """

    grid: np.ndarray
    p: np.ndarray
    r: np.ndarray
    f1: np.ndarray
    precision_over_recall: np.ndarray


def average_precision(
    tp: np.ndarray | Tensor,
    conf: np.ndarray | Tensor,
    pred_cls: np.ndarray | Tensor,
    target_cls: np.ndarray | Tensor,
) -> APResult:
    """Precision, recall and AP of a split.

    AP is the area under the precision envelope, sampled at 101 recalls and interpolated linearly.

    Args:
        tp: (n, T) bool from `match_iou_matrix`, all images concatenated.
        conf: (n,) scores.
        pred_cls: (n,) classes of the detections.
        target_cls: (m,) classes of all labels; the result omits classes without labels.
    """
    correct, scores, pred_classes, label_classes = (to_numpy(values) for values in (tp, conf, pred_cls, target_cls))
    classes, num_labels = np.unique(label_classes, return_counts=True)
    order = np.argsort(-scores, kind="stable")
    order = order[np.argsort(pred_classes[order], kind="stable")]  # by class, then by falling score
    bounds = np.searchsorted(pred_classes[order], (classes, classes + 1))  # (2, k)
    ranked = [
        _RankedClass(correct[order[first:last]], scores[order[first:last]], int(labels))
        for first, last, labels in zip(*bounds, num_labels, strict=True)
    ]
    ap = np.array([one.average_precision() for one in ranked]).reshape(len(ranked), correct.shape[1])
    p, r = _compute_score_curves(ranked)
    f1 = _f1(p, r)
    best = int(smooth_curve(f1.mean(axis=0)).argmax()) if len(ranked) else 0
    p, r, f1 = p[:, best], r[:, best], f1[:, best]
    true_positives = (r * num_labels).round()
    false_positives = (true_positives / (p + EPS) - true_positives).round()
    return APResult(
        classes.astype(np.int64), p, r, f1, true_positives, false_positives, ap, float(SCORE_GRID[best]), ranked
    )


class _RankedClass:
    """Precision and recall of one class over its ranked detections.

    Args:
        correct: (n, T) bool.
        scores: (n,), falling.
        num_labels: number of labels of the class, at least 1.
    """

    def __init__(self, correct: np.ndarray, scores: np.ndarray, num_labels: int) -> None:
        true_positives = correct.cumsum(axis=0)
        self.scores = scores
        self.recall = true_positives / (num_labels + EPS)  # (n, T)
        self.precision = true_positives / np.arange(1, len(correct) + 1)[:, None]

    def average_precision(self) -> np.ndarray:
        """AP (T,): area under the precision envelope."""
        num_thresholds = self.recall.shape[1]
        if not len(self.scores):
            return np.zeros(num_thresholds)
        precision = [np.interp(RECALL_POINTS, *self._envelope(t)) for t in range(num_thresholds)]
        return np.trapezoid(precision, RECALL_POINTS, axis=1)

    def precision_over_recall(self) -> np.ndarray:
        """Precision envelope (1000,) over the recall at the first threshold."""
        return np.interp(SCORE_GRID, *self._envelope(0)) if len(self.scores) else np.zeros_like(SCORE_GRID)

    def compute_score_curves(self) -> tuple[np.ndarray, np.ndarray]:
        """Precision and recall (1000,) of the detections above each score, at the first threshold."""
        if not len(self.scores):
            return np.zeros_like(SCORE_GRID), np.zeros_like(SCORE_GRID)
        x, xp = -SCORE_GRID, -self.scores  # np.interp needs rising x
        return np.interp(x, xp, self.precision[:, 0], left=1), np.interp(x, xp, self.recall[:, 0], left=0)

    def _envelope(self, threshold: int) -> tuple[np.ndarray, np.ndarray]:
        return compute_envelope(self.recall[:, threshold], self.precision[:, threshold])


def compute_envelope(recall: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall from 0 to 1 (n + 2,), and the highest precision at that recall or above, of curves (n,)."""
    recall = np.concatenate(([0.0], recall, [1.0]))
    precision = np.concatenate(([1.0], precision, [0.0]))
    return recall, np.maximum.accumulate(precision[::-1])[::-1]


def _compute_score_curves(ranked: list[_RankedClass]) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall (k, 1000) of all classes over the score grid."""
    curves = np.array([one.compute_score_curves() for one in ranked]).reshape(len(ranked), 2, len(SCORE_GRID))
    return curves[:, 0], curves[:, 1]


def _f1(p: np.ndarray, r: np.ndarray) -> np.ndarray:
    return 2 * p * r / (p + r + EPS)


def smooth_curve(values: np.ndarray, fraction: float = SMOOTHING) -> np.ndarray:
    """Moving average (n,) over a `fraction` of the values (n,), which are padded with those at the ends."""
    half = round(len(values) * fraction / 2)
    window = np.full(2 * half + 1, 1 / (2 * half + 1))
    return np.convolve(np.pad(values, half, mode="edge"), window, mode="valid")
