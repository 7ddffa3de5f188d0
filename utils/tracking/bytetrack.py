"""ByteTrack (Zhang et al. 2022, arXiv:2110.06864): boxes of low score continue tracks, too."""

from __future__ import annotations

import numpy as np

from utils.tracking.association import assign
from utils.tracking.base import NO_TRACK, Tracker

MIN_IOU_HIGH, MIN_IOU_LOW = 0.1, 0.5  # of the first and the second association


class ByteTrack(Tracker):
    """Associates boxes of high score with all tracks, then those of low score with the tracks that remain."""

    def _associate(self, boxes: np.ndarray) -> np.ndarray:
        tracks = np.full(len(boxes), NO_TRACK, np.int64)
        scores = boxes[:, 4]
        high = np.flatnonzero(scores >= self.settings.high)
        low = np.flatnonzero((scores >= self.settings.low) & (scores < self.settings.high))
        rest, high = self._match(np.arange(len(self)), high, boxes, tracks, MIN_IOU_HIGH)
        self._match(rest, low, boxes, tracks, MIN_IOU_LOW)
        tracks[high] = self._start(boxes[high])
        return tracks

    def _match(
        self, candidates: np.ndarray, numbers: np.ndarray, boxes: np.ndarray, tracks: np.ndarray, min_iou: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Match some tracks and boxes, write them into `tracks`; returns the tracks and the boxes that remain."""
        if not len(candidates) or not len(numbers):
            return candidates, numbers
        rows, columns = assign(self._compare(candidates, boxes[numbers]), min_iou)
        tracks[numbers[columns]] = candidates[rows]
        self._continue(candidates[rows], boxes[numbers[columns]])
        return np.delete(candidates, rows), np.delete(numbers, columns)
