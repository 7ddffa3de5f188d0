"""Assignment of detections to tracks."""

from __future__ import annotations

import numpy as np

from utils.ops.boxes import box_iou_matrix

Pairs = tuple[np.ndarray, np.ndarray]  # positions of tracks and of detections, pair by pair


def assign(similarity: np.ndarray, threshold: float, gate: np.ndarray | None = None) -> Pairs:
    """The pairs of rows and columns with the greatest sum of similarities.

    Args:
        similarity: (n, m).
        threshold: pairs below it in `gate` are not made.
        gate: (n, m); None for `similarity`.
    """
    allowed = (similarity if gate is None else gate) >= threshold
    rows, columns = np.nonzero(allowed)
    if len(rows) and (allowed.sum(axis=0) <= 1).all() and (allowed.sum(axis=1) <= 1).all():
        return rows, columns  # nothing to choose
    if not len(rows):
        return rows, columns
    from scipy.optimize import linear_sum_assignment  # takes a fifth of a second to import

    rows, columns = linear_sum_assignment(np.where(allowed, similarity, -1e3), maximize=True)
    keep = allowed[rows, columns]
    return rows[keep], columns[keep]


def compute_similarity(
    track_boxes: np.ndarray, track_classes: np.ndarray, boxes: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """IoU (n, m) of boxes xyxy; -1 for different classes."""
    iou = box_iou_matrix(track_boxes, boxes)
    return np.where(track_classes[:, None] == classes[None], iou, -1.0)
