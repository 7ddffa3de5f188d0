"""Average precision of detections: matching with labels, then precision and recall over the score."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from torch import Tensor

from utils.metrics.arrays import as_array
from utils.ops.boxes import box_iou_matrix

RECALL_POINTS = np.linspace(0, 1, 101)
SCORE_GRID = np.linspace(0, 1, 1000)
SMOOTHING = 0.1  # share of the score grid that the mean F1 is averaged over
EPS = 1e-16


def match_detections(
    detections: np.ndarray | Tensor, labels: np.ndarray | Tensor, iou_thresholds: np.ndarray | Tensor
) -> np.ndarray:
    """Which detections of one image are correct at which IoU threshold of boxes; as `match_overlaps`.

    Args:
        detections: (n, 6+) x1, y1, x2, y2, score, class, in any order.
        labels: (m, 5) class, x1, y1, x2, y2 in the same frame.
        iou_thresholds: (T,).
    """
    found, known = as_array(detections), as_array(labels)
    return match_overlaps(box_iou_matrix(found[:, :4], known[:, 1:5]), found, known, iou_thresholds)


def match_overlaps(
    overlaps: np.ndarray, detections: np.ndarray, labels: np.ndarray, iou_thresholds: np.ndarray | Tensor
) -> np.ndarray:
    """Which detections of one image are correct at which threshold of any measure of overlap.

    A detection stands for the label of its class that it overlaps best, and for no other. Of the detections that
    reach the threshold with the same label, the one of highest score is correct.

    Args:
        overlaps: (n, m) of every detection with every label.
        detections: (n, 6+), score and class in the fifth and sixth column.
        labels: (m, 1+), class in the first column.
        iou_thresholds: (T,).

    Returns:
        (n, T) bool, rows as in `detections`.
    """
    found, known, thresholds = detections, labels, as_array(iou_thresholds)
    correct = np.zeros((len(found), len(thresholds)), dtype=bool)
    if not len(found) or not len(known):
        return correct
    overlaps = np.where(found[:, 5:6] == known[None, :, 0], overlaps, -1)
    label = overlaps.argmax(axis=1)
    best = overlaps[np.arange(len(found)), label]

    order = np.lexsort((-found[:, 4], label))  # label by label, best score first
    reaches = best[order, None] >= thresholds  # (n, T)
    count = reaches.cumsum(axis=0)
    starts = np.searchsorted(label[order], label[order])  # first row of each row's label
    before = np.vstack((np.zeros_like(count[:1]), count))[starts]
    correct[order] = reaches & (count - before == 1)
    return correct


@dataclass
class APResult:
    """Metrics of the k classes that have labels, in order of class number; no value is clipped.

    Attributes:
        classes: (k,) class numbers.
        p, r, f1: (k,) at IoU 0.5 and the score where the smoothed mean F1 of all classes is highest.
        tp, fp: (k,) counts at that score, whole numbers.
        ap: (k, T) average precision per IoU threshold.
        score: the score at which `p`, `r` and `f1` are taken.
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
        """(k,) average precision at the first threshold."""
        return self.ap[:, 0]

    @property
    def ap_mean(self) -> np.ndarray:
        """(k,) mean over the thresholds: AP50-95 with the ten of COCO."""
        return self.ap.mean(axis=1) if len(self.ap) else np.zeros(0)

    @cached_property
    def curves(self) -> Curves:
        """Curves at IoU 0.5 for plots; worked out when first asked for."""
        precision = np.array([ranked.precision_over_recall() for ranked in self._ranked]).reshape(-1, len(SCORE_GRID))
        p, r = _over_scores(self._ranked)
        return Curves(SCORE_GRID, p, r, _f1(p, r), precision)


@dataclass(frozen=True)
class Curves:
    """What is plotted, at IoU 0.5, one row per class.

    Attributes:
        grid: (1000,) from 0 to 1: scores for `p`, `r`, `f1`, recall for `precision_over_recall`.
        p, r, f1: (k, 1000) over the score.
        precision_over_recall: (k, 1000) envelope of the precision over the recall.
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

    AP is the area under the precision envelope, read at 101 recalls and joined by straight lines.

    Args:
        tp: (n, T) bool, what `match_detections` gave for all images.
        conf: (n,) scores.
        pred_cls: (n,) classes of the detections.
        target_cls: (m,) classes of all labels; classes without a label are left out of the result.
    """
    correct, scores, found, known = (as_array(values) for values in (tp, conf, pred_cls, target_cls))
    classes, num_labels = np.unique(known, return_counts=True)
    order = np.argsort(-scores, kind="stable")
    order = order[np.argsort(found[order], kind="stable")]  # class by class, best score first
    bounds = np.searchsorted(found[order], (classes, classes + 1))  # (2, k): classes are whole numbers
    ranked = [
        _RankedClass(correct[order[first:last]], scores[order[first:last]], int(labels))
        for first, last, labels in zip(*bounds, num_labels, strict=True)
    ]
    ap = np.array([one.average_precision() for one in ranked]).reshape(len(ranked), correct.shape[1])
    p, r = _over_scores(ranked)
    f1 = _f1(p, r)
    best = int(_smooth(f1.mean(axis=0)).argmax()) if len(ranked) else 0
    p, r, f1 = p[:, best], r[:, best], f1[:, best]
    true_positives = (r * num_labels).round()
    false_positives = (true_positives / (p + EPS) - true_positives).round()
    return APResult(
        classes.astype(np.int64), p, r, f1, true_positives, false_positives, ap, float(SCORE_GRID[best]), ranked
    )


class _RankedClass:
    """Detections of one class, best first, as cumulated counts.

    Args:
        correct: (n, T) bool.
        scores: (n,) falling.
        num_labels: labels of the class, at least 1.
    """

    def __init__(self, correct: np.ndarray, scores: np.ndarray, num_labels: int) -> None:
        true_positives = correct.cumsum(axis=0)
        self.scores = scores
        self.recall = true_positives / (num_labels + EPS)  # (n, T)
        self.precision = true_positives / np.arange(1, len(correct) + 1)[:, None]

    def average_precision(self) -> np.ndarray:
        """(T,) area under the precision envelope."""
        num_thresholds = self.recall.shape[1]
        if not len(self.scores):
            return np.zeros(num_thresholds)
        heights = [np.interp(RECALL_POINTS, *self._envelope(t)) for t in range(num_thresholds)]
        return np.trapezoid(heights, RECALL_POINTS, axis=1)

    def precision_over_recall(self) -> np.ndarray:
        """(1000,) precision envelope at the first threshold over the recall."""
        return np.interp(SCORE_GRID, *self._envelope(0)) if len(self.scores) else np.zeros_like(SCORE_GRID)

    def over_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Precision and recall at the first threshold, (1000,) each, of the detections above each score."""
        if not len(self.scores):
            return np.zeros_like(SCORE_GRID), np.zeros_like(SCORE_GRID)
        rising = -SCORE_GRID, -self.scores  # np.interp wants rising abscissae
        return np.interp(*rising, self.precision[:, 0], left=1), np.interp(*rising, self.recall[:, 0], left=0)

    def _envelope(self, threshold: int) -> tuple[np.ndarray, np.ndarray]:
        """Recall from 0 to 1 and the best precision at that recall or above."""
        recall = np.concatenate(([0.0], self.recall[:, threshold], [1.0]))
        precision = np.concatenate(([1.0], self.precision[:, threshold], [0.0]))
        return recall, np.maximum.accumulate(precision[::-1])[::-1]


def _over_scores(ranked: list[_RankedClass]) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of all classes over the score grid, (k, 1000) each."""
    both = np.array([one.over_scores() for one in ranked]).reshape(len(ranked), 2, len(SCORE_GRID))
    return both[:, 0], both[:, 1]


def _f1(p: np.ndarray, r: np.ndarray) -> np.ndarray:
    return 2 * p * r / (p + r + EPS)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a window of SMOOTHING of the values, beyond whose ends the last value holds."""
    half = round(len(values) * SMOOTHING / 2)
    window = np.full(2 * half + 1, 1 / (2 * half + 1))
    return np.convolve(np.pad(values, half, mode="edge"), window, mode="valid")
