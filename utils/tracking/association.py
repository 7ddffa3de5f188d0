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
    has_choice = (allowed.sum(axis=1)[rows] > 1) | (allowed.sum(axis=0)[columns] > 1)
    if not has_choice.any():
        return rows, columns
    from scipy.optimize import linear_sum_assignment  # takes a fifth of a second to import

    open_rows, open_columns = np.unique(rows[has_choice]), np.unique(columns[has_choice])
    block = np.ix_(open_rows, open_columns)
    picks = linear_sum_assignment(np.where(allowed[block], similarity[block], -1e3), maximize=True)
    keep = allowed[block][picks]
    return (
        np.concatenate([rows[~has_choice], open_rows[picks[0][keep]]]),
        np.concatenate([columns[~has_choice], open_columns[picks[1][keep]]]),
    )


def compute_similarity(
    track_boxes: np.ndarray, track_classes: np.ndarray, boxes: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """IoU (n, m) of boxes xyxy; -1 for different classes."""
    iou = box_iou_matrix(track_boxes, boxes)
    return np.where(track_classes[:, None] == classes[None], iou, -1.0)
