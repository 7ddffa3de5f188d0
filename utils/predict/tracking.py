"""Tracking as a stage after post-processing: ids, trails and counts of the results of each source."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from utils.config.detect import DetectConfig
from utils.config.flag_types import parse_points
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.sources.frames import SourceFrame
from utils.tasks.results import Result, TrackOverlay
from utils.tracking.base import Tracker
from utils.tracking.counting import LineCounter, TrackCounter, ZoneCounter
from utils.tracking.registry import LOW_SCORE, build_tracker

IMAGES = ""  # the key of single images, which are one sequence


@dataclass(frozen=True)
class TrackOptions:
    """How results are tracked.

    Attributes:
        tracker: bytetrack or ocsort.
        conf_thres: score from which a box starts a track.
        trail: points of the path that is drawn behind each track.
        line, zone: `x1,y1,x2,y2,...` in pixels, to count at; None for no count.
    """

    tracker: str = "bytetrack"
    conf_thres: float = 0.25
    trail: int = 0
    line: str | None = None
    zone: str | None = None

    @classmethod
    def from_config(cls, config: DetectConfig) -> TrackOptions | None:
        """As the flags of detect.py; None without `--track`."""
        if config.track is None:
            return None
        return cls(config.track, config.conf_thres, config.track_trail, config.count_line, config.count_zone)

    @property
    def predict_conf(self) -> float:
        """Score from which the predictor has to report boxes."""
        return min(LOW_SCORE, self.conf_thres)

    def build_counters(self) -> list[TrackCounter]:
        """Fresh counters of the line and the zone."""
        counters: list[TrackCounter] = []
        if self.line is not None:
            counters.append(LineCounter(np.array(parse_points(self.line, 2, 2))))
        if self.zone is not None:
            counters.append(ZoneCounter(np.array(parse_points(self.zone, 3))))
        return counters


@dataclass
class SourceTracks:
    """The tracks of one source.

    Attributes:
        size_hw: of its frames. number: of the last one.
        trails: the last centers of the tracks that are alive, by id.
    """

    tracker: Tracker
    counters: list[TrackCounter]
    size_hw: tuple[int, int]
    number: int | None = None
    trails: dict[int, deque[np.ndarray]] = field(default_factory=dict)


class TrackingStage:
    """Adds ids to results and drops the boxes of no track; the state of a video ends with it."""

    def __init__(self, options: TrackOptions) -> None:
        self.options = options
        self._sources: dict[str, SourceTracks] = {}
        self.counts: dict[str, list[TrackCounter]] = {}  # of all sources, also of those that ended

    def apply(self, result: Result) -> Result:
        """The result of the next frame of a source, with ids.

        Raises:
            InputError: the line or zone is outside the frame.
        """
        source = result.source
        tracks = self._get_tracks(source, result)
        ids = tracks.tracker.update(result.boxes, self._count_frames(tracks, source))
        keep = ids >= 0
        rows = np.flatnonzero(keep)
        boxes, ids = result.boxes[rows], ids[rows]
        self._follow(tracks, boxes, ids)
        masks = None if result.masks is None else result.masks.select(rows)
        trails = [np.array(tracks.trails[number]) for number in ids.tolist()] if self.options.trail else []
        overlay = TrackOverlay(ids, trails, tuple((c.title, c.points, c.totals) for c in tracks.counters))
        return replace(result, boxes=boxes, masks=masks, tracks=overlay, _annotated={})

    def format_counts(self, names: dict[int, str]) -> list[tuple[str, str, str, int, int]]:
        """Rows source, line or zone, class, in, out."""
        return [
            (source, counter.title, names.get(label, str(label)), counter.ins[label], counter.outs[label])
            for source, counters in self.counts.items()
            for counter in counters
            for label in sorted(counter.ins.keys() | counter.outs.keys())
        ]

    def _get_tracks(self, source: SourceFrame, result: Result) -> SourceTracks:
        """The state of a source; new for its first frame."""
        key = IMAGES if source.number is None else source.path
        size_hw = source.size_hw
        tracks = self._sources.get(key)
        if (
            tracks is not None
            and not source.live
            and source.number is not None
            and source.number <= (tracks.number or 0)
        ):
            tracks = None  # the same file again
        if tracks is None:
            if not source.live:
                self._sources.clear()  # files come one after another
            if key == IMAGES:
                LOGGER.warning("WARNING --track: the images are tracked as frames of one sequence, in their order")
            counters = self.options.build_counters()
            for counter in counters:
                check_inside(counter, size_hw, source.path)
            if counters:
                self.counts[key or "images"] = counters
            tracker = build_tracker(self.options.tracker, self.options.conf_thres)
            tracks = self._sources[key] = SourceTracks(tracker, counters, size_hw)
        if size_hw != tracks.size_hw:
            tracks.tracker.rescale((size_hw[1] / tracks.size_hw[1], size_hw[0] / tracks.size_hw[0]))
            tracks.size_hw, tracks.trails = size_hw, {}
        return tracks

    def _count_frames(self, tracks: SourceTracks, source: SourceFrame) -> int:
        """Sampled frames since the last one, with those that were dropped."""
        number, last = source.number, tracks.number
        tracks.number = number
        if number is None or last is None or number <= last:
            return 1
        return max(1, round((number - last) / max(source.step, 1)))

    def _follow(self, tracks: SourceTracks, boxes: np.ndarray, ids: np.ndarray) -> None:
        """Update trails and counts; those of tracks that ended are dropped."""
        alive = set(tracks.tracker.ids.tolist())
        centers = dict(zip(ids.tolist(), (boxes[:, :2] + boxes[:, 2:4]) / 2, strict=True))
        if self.options.trail:
            tracks.trails = {number: trail for number, trail in tracks.trails.items() if number in alive}
            for number, center in centers.items():
                tracks.trails.setdefault(number, deque(maxlen=self.options.trail)).append(center)
        classes = dict(zip(ids.tolist(), boxes[:, 5].astype(int).tolist(), strict=True))
        for counter in tracks.counters:
            counter.update(centers, classes, alive)


def check_inside(counter: TrackCounter, size_hw: tuple[int, int], path: str) -> None:
    """InputError if no part of a line or zone is inside the frame."""
    height, width = size_hw
    near, far = counter.points.min(axis=0), counter.points.max(axis=0)
    if (far < 0).any() or (near > [width, height]).any():
        values = ",".join(f"{v:g}" for v in counter.points.ravel())
        frames = f"the frames of {path}, {width}x{height} pixels"
        raise InputError(f"--count-{counter.title} {values}: outside {frames}; give points in them")
