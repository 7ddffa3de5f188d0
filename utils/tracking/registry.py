"""Trackers by name."""

from __future__ import annotations

from utils.core.errors import InputError
from utils.tracking.base import Tracker, TrackerSettings
from utils.tracking.bytetrack import ByteTrack
from utils.tracking.ocsort import OCSort

LOW_SCORE = 0.1  # of boxes that may continue a track


def build_tracker(name: str, conf_thres: float) -> Tracker:
    """The tracker `bytetrack` or `ocsort`, whose tracks start from scores of at least `conf_thres`.

    Raises:
        InputError: no such tracker.
    """
    low = min(LOW_SCORE, conf_thres)
    if name == "bytetrack":
        return ByteTrack(TrackerSettings(high=conf_thres, low=low))
    if name == "ocsort":
        return OCSort(TrackerSettings(high=conf_thres, low=low, min_hits=3))
    raise InputError(f"tracker {name!r}: must be bytetrack or ocsort")
