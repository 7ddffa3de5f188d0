"""The tracking stage over results of several sources, without a network."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from utils.core.errors import InputError
from utils.datasets.sources.frames import SourceFrame
from utils.ops.masks import ObjectMasks
from utils.predict.tracking import TrackingStage, TrackOptions
from utils.tasks.results import Result

NAMES = {0: "person", 1: "car"}


def make_result(
    path: str, number: int | None, boxes: list[list[float]], size_hw: tuple[int, int] = (200, 300), **source: Any
) -> Result:
    frame = np.zeros((*size_hw, 3), np.uint8)
    return Result(SourceFrame(path, frame, path, number=number, **source), np.array(boxes).reshape(-1, 6), NAMES)


def box(x: float, y: float = 100.0, score: float = 0.9, label: int = 0) -> list[float]:
    return [x - 20, y - 20, x + 20, y + 20, score, label]


def get_ids(result: Result) -> list[int]:
    assert result.tracks is not None
    ids: list[int] = result.tracks.ids.tolist()
    return ids


def test_live_sources_side_by_side() -> None:
    """Each camera has ids of its own, however their frames alternate."""
    stage = TrackingStage(TrackOptions())
    for k in range(1, 8):
        a = stage.apply(make_result("a", k, [box(50 + 3 * k)], live=True))
        b = stage.apply(make_result("b", k, [box(250 - 3 * k), box(50)], live=True))
    assert get_ids(a) == [1] and sorted(get_ids(b)) == [1, 2]


def test_the_state_of_a_video_ends_with_it() -> None:
    stage = TrackingStage(TrackOptions())
    for path in ("a.mp4", "b.mp4", "c.mp4"):
        for k in range(1, 5):
            result = stage.apply(make_result(path, k, [box(50)]))
        assert get_ids(result) == [1]
    assert list(stage._sources) == ["c.mp4"]


def test_the_same_video_twice_in_a_row() -> None:
    stage = TrackingStage(TrackOptions(line="100,200,100,0"))
    for _ in range(2):
        for k in range(1, 20):
            result = stage.apply(make_result("a.mp4", k, [box(50 + 5 * k)]))
        assert get_ids(result) == [1]
        assert stage.format_counts(NAMES) == [("a.mp4", "line", "person", 1, 0)]


def test_dropped_frames_are_time() -> None:
    """A stream with `step` 2 that drops frames: the track dies after 30 sampled frames, not 30 results."""
    stage = TrackingStage(TrackOptions())
    for k in range(1, 6):
        stage.apply(make_result("a", 2 * k, [box(50)], live=True, step=2))
    assert get_ids(stage.apply(make_result("a", 2 * 25, [box(50)], live=True, step=2))) == [1]
    stage.apply(make_result("a", 2 * 60, [], live=True, step=2))
    assert get_ids(stage.apply(make_result("a", 2 * 61, [box(50)], live=True, step=2))) == []


def test_a_stream_that_changes_its_size_keeps_ids() -> None:
    stage = TrackingStage(TrackOptions(trail=5))
    for k in range(1, 6):
        stage.apply(make_result("a", k, [box(50)], live=True))
    large = [60.0, 160.0, 140.0, 240.0, 0.9, 0.0]
    assert get_ids(stage.apply(make_result("a", 6, [large], size_hw=(400, 600), live=True))) == [1]


def test_boxes_masks_and_ids_stay_together() -> None:
    stage = TrackingStage(TrackOptions())
    masks = ObjectMasks(
        (200, 300), np.array([[0, 0, 1, 1], [0, 0, 2, 2]]), [np.ones((1, 1), bool), np.ones((2, 2), bool)]
    )
    for k in range(1, 4):
        result = make_result("a", k, [box(50), box(200)])
        result.masks = masks
        result = stage.apply(result)
    assert get_ids(result) == [1, 2]
    result = make_result("a", 4, [box(130), box(200)])  # the first is a new object
    result.masks = masks
    result = stage.apply(result)
    assert get_ids(result) == [2] and result.masks is not None
    assert [bitmap.shape for bitmap in result.masks.bitmaps] == [(2, 2)] and result.boxes[0, 0] == 180


def test_trails_end_with_their_tracks() -> None:
    stage = TrackingStage(TrackOptions(trail=3))
    for k in range(1, 6):
        result = stage.apply(make_result("a", k, [box(50 + k)]))
    assert result.tracks is not None and result.tracks.trails[0].tolist() == [[53, 100], [54, 100], [55, 100]]
    for k in range(6, 60):
        stage.apply(make_result("a", k, []))
    assert stage._sources["a"].trails == {}


def test_counts() -> None:
    stage = TrackingStage(TrackOptions(line="100,200,100,0"))
    for k in range(1, 20):
        stage.apply(make_result("a", k, [box(50 + 5 * k, label=1)]))
    assert stage.format_counts(NAMES) == [("a", "line", "car", 1, 0)]


def test_single_images_are_a_sequence(caplog: pytest.LogCaptureFixture) -> None:
    stage = TrackingStage(TrackOptions())
    with caplog.at_level(logging.WARNING):
        ids = [get_ids(stage.apply(make_result(f"{k}.jpg", None, [box(50 + k)]))) for k in range(4)]
    assert ids == [[1]] * 4 and caplog.text.count("one sequence") == 1


def test_zone_outside() -> None:
    with pytest.raises(InputError, match=r"--count-zone 400,0,500,0,500,100: outside the frames of a, 300x200 pixels"):
        TrackingStage(TrackOptions(zone="400,0,500,0,500,100")).apply(make_result("a", 1, []))
