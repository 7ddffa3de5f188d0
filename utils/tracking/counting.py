"""Counting of tracks that cross a line or enter a zone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping

import cv2
import numpy as np


class TrackCounter(ABC):
    """Counts tracks by class as they move; only tracks of the present frame are remembered.

    Attributes:
        points: (k, 2) of the line or zone in pixels.
        ins, outs: number of tracks by class.
    """

    title: str

    def __init__(self, points: np.ndarray) -> None:
        self.points = np.asarray(points, np.float64).reshape(-1, 2)
        self.ins: Counter[int] = Counter()
        self.outs: Counter[int] = Counter()
        self._centers: dict[int, np.ndarray] = {}

    def update(self, centers: Mapping[int, np.ndarray], classes: Mapping[int, int], alive: set[int]) -> None:
        """Count what moved since the last frame.

        Args:
            centers: (2,) of the tracks that this frame shows, by id.
            classes: of these tracks.
            alive: ids that may come back; all others are forgotten.
        """
        for number, center in centers.items():
            if (before := self._centers.get(number)) is not None:
                if direction := self._compare(before, center):
                    (self.ins if direction > 0 else self.outs)[classes[number]] += 1
            elif self._starts_inside(center):
                self.ins[classes[number]] += 1
            self._centers[number] = center
        self._centers = {number: center for number, center in self._centers.items() if number in alive}

    @property
    def totals(self) -> tuple[int, int]:
        """Tracks that went in, and out."""
        return self.ins.total(), self.outs.total()

    def _starts_inside(self, center: np.ndarray) -> bool:
        """Whether a new track counts at once."""
        return False

    @abstractmethod
    def _compare(self, before: np.ndarray, after: np.ndarray) -> int:
        """1 if a move from one point to another goes in, -1 if out, 0 for neither."""


class LineCounter(TrackCounter):
    """Tracks whose center crosses the line from the first to the second point.

    In is from its left to its right, seen in its direction on the screen.
    """

    title = "line"

    def _compare(self, before: np.ndarray, after: np.ndarray) -> int:
        start, end = self.points
        side_before, side_after = _cross(end - start, before - start), _cross(end - start, after - start)
        if (side_before < 0) == (side_after < 0):
            return 0
        path = after - before
        meets = (_cross(path, start - before) < 0) != (_cross(path, end - before) < 0)
        return (1 if side_after >= 0 else -1) if meets else 0


class ZoneCounter(TrackCounter):
    """Tracks whose center enters or leaves a polygon; one that starts inside has entered."""

    title = "zone"

    def _starts_inside(self, center: np.ndarray) -> bool:
        return self._contains(center)

    def _compare(self, before: np.ndarray, after: np.ndarray) -> int:
        return int(self._contains(after)) - int(self._contains(before))

    def _contains(self, point: np.ndarray) -> bool:
        outline = self.points.astype(np.float32).reshape(-1, 1, 2)
        return cv2.pointPolygonTest(outline, (float(point[0]), float(point[1])), False) >= 0


def _cross(a: np.ndarray, b: np.ndarray) -> float:
    return float(a[0] * b[1] - a[1] * b[0])
