"""ByteTrack and OC-SORT on scenes worked out by hand."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from utils.core.errors import InputError
from utils.tracking.association import assign
from utils.tracking.base import Tracker, TrackerSettings
from utils.tracking.bytetrack import ByteTrack
from utils.tracking.ocsort import OCSort
from utils.tracking.registry import build_tracker

NAMES = ("bytetrack", "ocsort")


def box(x: float, y: float, score: float = 0.9, label: int = 0, side: float = 40.0) -> list[float]:
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2, score, label]


def run(tracker: Tracker, frames: Iterable[list[list[float]]], gap: int = 1) -> list[list[int]]:
    return [tracker.update(np.array(boxes).reshape(-1, 6), gap).tolist() for boxes in frames]


@pytest.fixture(params=NAMES)
def tracker(request: pytest.FixtureRequest) -> Tracker:
    return build_tracker(request.param, 0.25)


def test_crossing_objects_keep_their_ids(tracker: Tracker) -> None:
    """Two objects that pass each other, one above the other by less than their height."""
    ids = run(tracker, ([box(20 + 6 * k, 100), box(380 - 6 * k, 112)] for k in range(60)))
    assert all(pair == ids[5] for pair in ids[5:]) and len(set(ids[5])) == 2


@pytest.mark.parametrize("missing", [5, 15, 29])
def test_occlusion(tracker: Tracker, missing: int) -> None:
    """An object that moves on while it is hidden has its id again."""
    frames = [[box(50 + 3 * k, 100 + k)] if not 30 <= k < 30 + missing else [] for k in range(90)]
    ids = run(tracker, frames)
    seen = [number for frame in ids[5:] for number in frame]
    assert set(seen) == {1} and len(seen) >= 90 - 5 - missing - 2


def test_lost_for_too_long_is_another_track(tracker: Tracker) -> None:
    frames = [[box(50, 100)] if not 20 <= k < 60 else [] for k in range(80)]
    ids = [number for frame in run(tracker, frames) for number in frame if number > 0]
    assert set(ids) == {1, 2}
    assert len(tracker) == 1


def test_classes_are_tracked_apart(tracker: Tracker) -> None:
    ids = run(tracker, [[box(100, 100, label=0), box(100, 100, label=1)]] * 6)
    assert sorted(ids[-1]) == [1, 2]
    assert run(tracker, [[box(100, 100, label=2)]])[0] == [-1]


def test_one_detection_is_no_track(tracker: Tracker) -> None:
    run(tracker, [[box(300, 300)]] * 5)
    assert run(tracker, [[box(300, 300), box(50, 50)]])[0] == [1, -1]
    run(tracker, [[box(300, 300)]] * 2)
    assert len(tracker) == 1


def test_first_frame_has_ids(tracker: Tracker) -> None:
    assert run(tracker, [[box(10, 10), box(90, 90)]])[0] == [1, 2]


def test_empty_frames(tracker: Tracker) -> None:
    assert run(tracker, [[]] * 3) == [[], [], []]
    run(tracker, [[box(10, 10)]] * 3)
    assert run(tracker, [[]] * 40)[-1] == [] and len(tracker) == 0


def test_dropped_frames_and_strides(tracker: Tracker) -> None:
    """An object of 12 pixels a frame, of which every third arrives."""
    first = run(tracker, [[box(40 + 12 * k, 100)] for k in range(12)])
    then = run(tracker, [[box(40 + 12 * (11 + 3 * k), 100)] for k in range(1, 8)], gap=3)
    assert {frame[0] for frame in first[3:] + then} == {1}


def test_other_frame_size(tracker: Tracker) -> None:
    run(tracker, [[box(100 + 4 * k, 100)] for k in range(10)])
    tracker.rescale((2.0, 2.0))
    assert run(tracker, [[box(2 * (100 + 4 * k), 200, side=80)] for k in range(10, 14)]) == [[1]] * 4


def test_low_scores_continue_tracks_only_in_bytetrack() -> None:
    """The second association: a score between low and high continues a track, but starts none."""
    frames = [[box(100 + k, 100, 0.9 if k < 10 else 0.15)] for k in range(20)]
    assert run(ByteTrack(), frames)[-1] == [1]
    assert run(OCSort(), frames)[-1] == [-1]
    assert run(ByteTrack(), [[box(100, 100, 0.15)]] * 5)[-1] == [-1]
    assert run(ByteTrack(), [[box(100 + k, 100, 0.9 if k < 10 else 0.05)] for k in range(20)])[-1] == [-1]


def test_low_score_brings_back_a_lost_track() -> None:
    """Also tracks that were lost before are among those that remain (algorithm 1 of ByteTrack, line 17)."""
    frames = [[box(100, 100)]] * 10 + [[]] * 3 + [[box(100, 100, 0.15)]] * 2
    assert run(ByteTrack(), frames)[-1] == [1]


def test_recovery_where_it_was_last_seen() -> None:
    """OC-SORT: an object that stopped while it was hidden is far from where its motion leads (section 4.3)."""
    frames = [[box(100 + 8 * k, 100)] for k in range(15)] + [[]] * 8 + [[box(100 + 8 * 14, 100)]] * 5
    assert run(OCSort(), frames)[-1] == [1]
    assert run(ByteTrack(), frames)[-1] != [1]


def test_re_update_removes_the_error_of_a_loss() -> None:
    """OC-SORT: after a loss, motion is that of the straight path between observations (section 4.1)."""
    tracker = OCSort()
    run(tracker, [[box(100 + 4 * k, 100)] for k in range(20)] + [[]] * 10)
    run(tracker, [[box(100 + 4 * 19 + 20, 100)]])
    speed = tracker.filters.state[1, 0, 0]
    assert abs(speed - 20 / 11) < 1.0


def test_momentum_prefers_the_same_direction() -> None:
    """Of two boxes with nearly the same IoU, the one ahead is taken."""
    tracker = OCSort(TrackerSettings(min_hits=1))
    run(tracker, [[box(100 + 10 * k, 100, side=100)] for k in range(6)])
    ids = run(tracker, [[box(146, 100, side=100), box(174, 100, side=100)]])[0]
    assert ids[1] == 1


def test_many_random_frames_are_finite_and_bounded() -> None:
    rng = np.random.default_rng(0)
    for name in NAMES:
        tracker = build_tracker(name, 0.25)
        for _ in range(300):
            near = rng.uniform(0, 500, (rng.integers(0, 30), 2))
            boxes = np.concatenate(
                [
                    near,
                    near + rng.uniform(1, 60, near.shape),
                    rng.random((len(near), 1)),
                    rng.integers(0, 3, (len(near), 1)),
                ],
                axis=1,
            )
            ids = tracker.update(boxes)
            positive = ids[ids > 0]
            assert len(np.unique(positive)) == len(positive)
            assert np.isfinite(tracker.filters.state).all() and len(tracker) < 31 * 30


@pytest.mark.parametrize("seed", range(5))
def test_assignment_is_the_best(seed: int) -> None:
    """Against all permutations."""
    from itertools import permutations

    similarity = np.random.default_rng(seed).random((4, 4))
    rows, columns = assign(similarity, 0.0)
    best = max(sum(similarity[k, p[k]] for k in range(4)) for p in permutations(range(4)))
    assert similarity[rows, columns].sum() == pytest.approx(best)
    rows, columns = assign(similarity, 0.9)
    assert (similarity[rows, columns] >= 0.9).all()


def test_unknown_tracker() -> None:
    with pytest.raises(InputError, match="tracker 'sort'"):
        build_tracker("sort", 0.25)
