from __future__ import annotations

import numpy as np

from utils.tracking.counting import LineCounter, TrackCounter, ZoneCounter


def walk(counter: TrackCounter, points: list[tuple[float, float]], number: int = 1, label: int = 0) -> None:
    for point in points:
        counter.update({number: np.array(point)}, {number: label}, {number})


def test_line_has_two_directions() -> None:
    """A line from the bottom to the top: to its right is in."""
    counter = LineCounter(np.array([50, 100, 50, 0]))
    walk(counter, [(30, 50), (45, 50), (60, 50), (80, 50)])
    assert counter.totals == (1, 0)
    walk(counter, [(80, 60), (20, 60)], number=2, label=3)
    assert counter.totals == (1, 1) and counter.outs == {3: 1}


def test_line_ends() -> None:
    """Passing beside the line does not count; touching it and going back neither."""
    counter = LineCounter(np.array([50, 100, 50, 0]))
    walk(counter, [(30, 150), (80, 150)])
    walk(counter, [(30, 50), (49, 50), (30, 50)], number=2)
    assert counter.totals == (0, 0)
    walk(counter, [(30, 50), (50, 50), (70, 50)], number=3)
    assert counter.totals == (1, 0)


def test_zone() -> None:
    counter = ZoneCounter(np.array([0, 0, 100, 0, 100, 100, 0, 100]))
    walk(counter, [(150, 50), (90, 50), (50, 50), (150, 50), (50, 50)])
    assert counter.totals == (2, 1)
    walk(counter, [(20, 20)], number=2, label=1)
    assert counter.totals == (3, 1) and counter.ins == {0: 2, 1: 1}


def test_tracks_that_ended_are_forgotten() -> None:
    counter = LineCounter(np.array([50, 100, 50, 0]))
    counter.update({1: np.array([30.0, 50.0])}, {1: 0}, {1})
    counter.update({}, {}, {1})
    counter.update({1: np.array([70.0, 50.0])}, {1: 0}, {1})  # lost for a frame
    assert counter.totals == (1, 0)
    counter.update({}, {}, set())
    assert not counter._centers
