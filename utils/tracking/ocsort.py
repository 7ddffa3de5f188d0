"""OC-SORT (Cao et al. 2023, arXiv:2203.14360): tracks rely on observations while the filter has none."""

from __future__ import annotations

import math

import numpy as np

from utils.ops.boxes import xyxy_to_xywh
from utils.tracking.association import assign, compute_similarity
from utils.tracking.base import NO_TRACK, Tracker, TrackerSettings
from utils.tracking.kalman import BoxFilters

OCSORT_SETTINGS = TrackerSettings(min_hits=3)
MIN_IOU = 0.3
MOMENTUM_WEIGHT = 0.2  # lambda of section 4.2
MOMENTUM_FRAMES = 3  # delta t: the direction of a track is that over so many observations


class OCSort(Tracker):
    """Three ideas over SORT: re-update, momentum and recovery, all from observations (sections 4.1 to 4.3).

    Attributes:
        history: (t, 4, MOMENTUM_FRAMES + 1) the last observations xyxy, newest last; NaN where there is none.
        before_loss: the filters of the tracks at their last observation.
    """

    def __init__(self, settings: TrackerSettings = OCSORT_SETTINGS) -> None:
        super().__init__(settings)
        self.history = np.zeros((0, 4, MOMENTUM_FRAMES + 1))
        self.before_loss = BoxFilters.start(np.zeros((0, 4)))

    def rescale(self, scale_wh: tuple[float, float]) -> None:
        """Continue in frames of another size."""
        super().rescale(scale_wh)
        self.before_loss.rescale(scale_wh)
        self.history = self.history * np.array(scale_wh * 2)[:, None]

    def _associate(self, boxes: np.ndarray) -> np.ndarray:
        tracks = np.full(len(boxes), NO_TRACK, np.int64)
        numbers = np.flatnonzero(boxes[:, 4] >= self.settings.high)
        candidates = np.arange(len(self))
        if len(candidates) and len(numbers):
            iou = self._compare(candidates, boxes[numbers])
            pairs = np.nonzero(iou >= MIN_IOU)
            similarity = iou.copy()
            similarity[pairs] += MOMENTUM_WEIGHT * self._compare_directions(pairs[0], boxes[numbers[pairs[1]]])
            rows, columns = assign(similarity, MIN_IOU, gate=iou)
            self._take(candidates[rows], numbers[columns], boxes, tracks)
            candidates, numbers = np.delete(candidates, rows), np.delete(numbers, columns)
        if len(candidates) and len(numbers):  # recovery: where the tracks were last seen
            last = self.history[candidates, :, -1]
            iou = compute_similarity(last, self.classes[candidates], boxes[numbers, :4], boxes[numbers, 5])
            rows, columns = assign(iou, MIN_IOU)
            self._take(candidates[rows], numbers[columns], boxes, tracks)
            numbers = np.delete(numbers, columns)
        tracks[numbers] = self._start(boxes[numbers])
        return tracks

    def _compare_directions(self, tracks: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Agreement (k,) of the direction of tracks with that from their last observations to boxes, times the score.

        1/2 for the same direction, -1/2 for the opposite, 0 for tracks without a direction.
        """
        history = self.history[tracks]
        oldest = (~np.isnan(history[:, 0])).argmax(axis=1)
        last, first = history[:, :, -1], history[np.arange(len(tracks)), :, oldest]
        motion, to_box = (end[:, :2] + end[:, 2:4] - last[:, :2] - last[:, 2:] for end in (2 * last - first, boxes))
        norms = np.hypot(*motion.T) * np.hypot(*to_box.T)
        cosine = (motion * to_box).sum(axis=1) / np.maximum(norms, 1e-9)
        angle = np.arccos(np.clip(cosine, -1, 1))
        agreement: np.ndarray = np.where(norms > 1e-9, (math.pi / 2 - angle) / math.pi, 0.0) * boxes[:, 4]
        return agreement

    def _take(self, positions: np.ndarray, numbers: np.ndarray, boxes: np.ndarray, tracks: np.ndarray) -> None:
        """Continue tracks with boxes; those that were lost are re-updated along a straight path first."""
        was_lost = self.lost[positions] > self.gap
        if was_lost.any():
            self._re_update(positions[was_lost], boxes[numbers[was_lost], :4])
        tracks[numbers] = positions
        self._continue(positions, boxes[numbers])
        self.history[positions, :, :-1] = self.history[positions, :, 1:]
        self.history[positions, :, -1] = boxes[numbers, :4]
        self.before_loss.assign(positions, self.filters.select(positions))

    def _re_update(self, positions: np.ndarray, boxes: np.ndarray) -> None:
        """Replay losses with boxes on the line from the last observation to the new one (section 4.1)."""
        filters, frames = self.before_loss.select(positions), self.lost[positions]
        start, end = xyxy_to_xywh(self.history[positions, :, -1]), xyxy_to_xywh(boxes)
        for step in range(1, int(frames.max())):  # the shorter losses start later, so that all end together
            rows = np.flatnonzero(step > frames.max() - frames)
            part = filters.select(rows)
            part.predict()
            share = ((step - frames.max() + frames[rows]) / frames[rows])[:, None]
            part.update(np.arange(len(rows)), start[rows] + (end[rows] - start[rows]) * share)
            filters.assign(rows, part)
        filters.predict()
        self.filters.assign(positions, filters)

    def _start(self, boxes: np.ndarray) -> np.ndarray:
        positions = super()._start(boxes)
        history = np.full((len(boxes), 4, MOMENTUM_FRAMES + 1), np.nan)
        history[:, :, -1] = boxes[:, :4]
        self.history = np.concatenate([self.history, history])
        self.before_loss.extend(self.filters.select(positions))
        return positions

    def _keep(self, rows: np.ndarray) -> None:
        if not rows.all():
            self.history, self.before_loss = self.history[rows], self.before_loss.select(rows)
        super()._keep(rows)
