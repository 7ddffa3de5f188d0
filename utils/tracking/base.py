"""What trackers share: settings, and the tracks as arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from utils.ops.boxes import xywh_to_xyxy, xyxy_to_xywh
from utils.tracking.association import compute_similarity
from utils.tracking.kalman import BoxFilters

NO_TRACK = -1


@dataclass(frozen=True)
class TrackerSettings:
    """Thresholds of a tracker.

    Attributes:
        high: detections from this score on start and continue tracks.
        low: detections from this score on may continue a track that no other one continues (ByteTrack).
        max_lost: frames that a track survives without a detection.
        min_hits: detections in a row that a track needs to get an id, except in the first frames.
    """

    high: float = 0.25
    low: float = 0.1
    max_lost: int = 30
    min_hits: int = 2


class Tracker(ABC):
    """Tracks boxes over the frames of one source.

    Attributes:
        ids: (t,) of the tracks, positive; 0 until a track is confirmed.
        classes: (t,) class of each track: only detections of the same class continue it.
        lost: (t,) frames since the last detection.
        hits: (t,) detections in a row.
        filters: motion of the tracks, in pixels.
        frame: number of updates. gap: frames between the last two.
    """

    def __init__(self, settings: TrackerSettings = TrackerSettings()) -> None:
        self.settings = settings
        self.frame, self.gap = 0, 1
        self._next_id = 1
        self.ids = np.zeros(0, np.int64)
        self.classes = np.zeros(0)
        self.lost, self.hits = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.filters = BoxFilters.start(np.zeros((0, 4)))

    def __len__(self) -> int:
        return len(self.ids)

    def update(self, boxes: np.ndarray, frames: int = 1) -> np.ndarray:
        """Continue the tracks with the boxes of the next frame.

        Args:
            boxes: (n, 6) x1, y1, x2, y2 in pixels, score, class.
            frames: since the last call; more than one if frames were dropped.

        Returns:
            (n,) int64 id of each box; -1 for boxes that belong to no confirmed track.
        """
        boxes = np.asarray(boxes, np.float64).reshape(-1, 6)
        self.frame, self.gap = self.frame + 1, frames
        if len(self):
            self.filters.predict(frames)
            self.lost += frames
        tracks = self._associate(boxes)  # position of each box's track, or -1
        self._confirm(tracks)
        ids = np.full(len(boxes), NO_TRACK, np.int64)
        matched = tracks >= 0
        ids[matched] = self.ids[tracks[matched]]
        ids[ids == 0] = NO_TRACK
        self._keep((self.lost <= self.settings.max_lost) & ((self.ids > 0) | (self.lost == 0)))
        return ids

    def rescale(self, scale_wh: tuple[float, float]) -> None:
        """Continue in frames of another size."""
        self.filters.rescale(scale_wh)

    @abstractmethod
    def _associate(self, boxes: np.ndarray) -> np.ndarray:
        """Match boxes and tracks, and start new tracks; returns the position (n,) of each box's track, or -1."""

    @property
    def boxes(self) -> np.ndarray:
        """(t, 4) xyxy where the tracks are expected in this frame."""
        return xywh_to_xyxy(self.filters.position)

    def _compare(self, tracks: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Similarity of some tracks, where they are expected, and boxes (m, 6)."""
        return compute_similarity(
            xywh_to_xyxy(self.filters.position[tracks]), self.classes[tracks], boxes[:, :4], boxes[:, 5]
        )

    def _continue(self, tracks: np.ndarray, boxes: np.ndarray) -> None:
        """Correct tracks by their boxes (k, 6)."""
        self.filters.update(tracks, xyxy_to_xywh(boxes[:, :4]))
        self.hits[tracks] = np.where(self.lost[tracks] == self.gap, self.hits[tracks] + 1, 1)
        self.lost[tracks] = 0

    def _start(self, boxes: np.ndarray) -> np.ndarray:
        """Start a track for each box (k, 6); returns their positions."""
        first, count = len(self), len(boxes)
        self.filters.extend(BoxFilters.start(xyxy_to_xywh(boxes[:, :4])))
        self.ids = np.concatenate([self.ids, np.zeros(count, np.int64)])
        self.classes = np.concatenate([self.classes, boxes[:, 5]])
        self.lost = np.concatenate([self.lost, np.zeros(count, np.int64)])
        self.hits = np.concatenate([self.hits, np.ones(count, np.int64)])
        return np.arange(first, first + count)

    def _confirm(self, tracks: np.ndarray) -> None:
        """Give an id to tracks with enough detections in a row, in the order of their boxes."""
        positions = tracks[tracks >= 0]
        early = self.frame <= self.settings.min_hits - 1
        enough = (self.ids[positions] == 0) & (early | (self.hits[positions] >= self.settings.min_hits))
        new = positions[enough]
        self.ids[new] = np.arange(self._next_id, self._next_id + len(new))
        self._next_id += len(new)

    def _keep(self, rows: np.ndarray) -> None:
        """Drop all tracks but those of a bool mask."""
        if rows.all():
            return
        self.ids, self.classes, self.lost, self.hits = (
            values[rows] for values in (self.ids, self.classes, self.lost, self.hits)
        )
        self.filters = self.filters.select(rows)
