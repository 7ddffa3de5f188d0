from __future__ import annotations

import numpy as np
import pytest

from utils.core.types import Sample
from utils.datasets.augment.cutmix import clip_labels, cut_labels, cutmix, paste_rectangle, random_rectangle
from utils.ops.masks import rasterize

SIDE = 100


def sample(value: int, *boxes: tuple[int, int, int, int], polygons: bool = False) -> Sample:
    """An image of one value and class, whose objects are rectangles."""
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    rings = [[np.array([[a, b], [c, b], [c, d], [a, d]], np.float32)] for a, b, c, d in boxes] if polygons else None
    image, semantic_mask = np.full((SIDE, SIDE, 3), value, np.uint8), np.full((SIDE, SIDE), value, np.uint8)
    return Sample(image, corners, np.full(len(boxes), value), rings, semantic_mask, f"{value}.jpg")


def test_pixels_and_semantic_mask_are_cut_together() -> None:
    mixed = paste_rectangle(sample(1), sample(2), (10, 20, 50, 70))
    expected = np.ones((SIDE, SIDE), np.uint8)
    expected[20:70, 10:50] = 2
    assert np.array_equal(mixed.semantic_mask, expected)
    assert np.array_equal(mixed.image[..., 1], expected)
    assert mixed.path == "1.jpg"


@pytest.mark.parametrize("polygons", [False, True])
@pytest.mark.parametrize(
    ("box", "left"),
    [
        pytest.param((0, 0, 10, 10), (0, 0, 10, 10), id="apart"),
        pytest.param((30, 30, 60, 60), None, id="hidden"),
        pytest.param((10, 30, 60, 60), (10, 30, 20, 60), id="right part hidden"),
        pytest.param((30, 10, 60, 60), (30, 10, 60, 20), id="lower part hidden"),
        pytest.param((30, 60, 60, 95), (30, 80, 60, 95), id="upper part hidden"),
        pytest.param((60, 30, 95, 60), (80, 30, 95, 60), id="left part hidden"),
        pytest.param((10, 10, 60, 60), (10, 10, 60, 60), id="a corner hidden"),
        pytest.param((10, 30, 95, 60), (10, 30, 95, 60), id="cut in two"),
        pytest.param((5, 5, 95, 95), (5, 5, 95, 95), id="hole in the middle"),
    ],
)
def test_boxes_lose_hidden_parts(
    polygons: bool, box: tuple[int, int, int, int], left: tuple[int, int, int, int] | None
) -> None:
    mixed = paste_rectangle(sample(1, box, polygons=polygons), sample(2, polygons=polygons), (20, 20, 80, 80))
    assert mixed.boxes_xyxy.tolist() == ([] if left is None else [list(left)])
    assert (mixed.polygons is not None) == polygons


@pytest.mark.parametrize("polygons", [False, True])
def test_objects_of_the_other_are_clipped_to_the_rectangle(polygons: bool) -> None:
    other = sample(2, (0, 0, 50, 50), (90, 90, 95, 95), (18, 40, 22, 80), polygons=polygons)
    mixed = paste_rectangle(sample(1, polygons=polygons), other, (20, 20, 80, 80))
    kept = [[20, 20, 50, 50]]  # the last one is a hair line of two pixels
    assert mixed.boxes_xyxy.tolist() == kept
    assert mixed.classes.tolist() == [2]


@pytest.mark.parametrize(("polygons", "count"), [(False, 0), (True, 1)])
def test_hardly_visible_objects_are_dropped(polygons: bool, count: int) -> None:
    """Of 30x30 pixels 3x30 are left: not more than a tenth, as boxes must have, but more than a hundredth."""
    first, second = sample(1, (50, 30, 80, 60), polygons=polygons), sample(2, polygons=polygons)
    assert len(paste_rectangle(first, second, (53, 20, 99, 80)).classes) == count


def test_polygons_cover_what_is_visible() -> None:
    """The area of the parts left around a hole, and of the part inside it."""
    hole = (20, 30, 60, 80)
    whole = sample(1, (10, 10, 90, 90), polygons=True)
    outside = cut_labels(whole, hole).polygons
    inside = clip_labels(whole, hole).polygons
    assert outside is not None and inside is not None

    def area(rings: list[np.ndarray]) -> float:
        crossed = (ring[:, 0] @ np.roll(ring[:, 1], -1) - ring[:, 1] @ np.roll(ring[:, 0], -1) for ring in rings)
        return sum(abs(value) / 2 for value in crossed)

    assert area(inside[0]) == 40 * 50
    assert area(outside[0]) == 80 * 80 - 40 * 50
    drawn = rasterize(outside, (SIDE, SIDE), 1).dense()[0]
    assert not drawn[32:78, 22:58].any()
    assert drawn[12:28, 12:88].all()


def test_rectangles_are_reproducible_and_inside() -> None:
    drawn = [random_rectangle(np.random.default_rng(seed), (60, 120)) for seed in range(300)]
    assert drawn == [random_rectangle(np.random.default_rng(seed), (60, 120)) for seed in range(300)]
    shares = np.array([(x2 - x1) * (y2 - y1) / 7200 for x1, y1, x2, y2 in drawn])
    assert all(0 <= x1 <= x2 <= 120 and 0 <= y1 <= y2 <= 60 for x1, y1, x2, y2 in drawn)
    assert shares.min() < 0.05 and shares.max() > 0.6


def test_inputs_are_unchanged() -> None:
    first, second = sample(1, (10, 10, 90, 90), polygons=True), sample(2, (0, 0, 50, 50), polygons=True)
    cutmix(first, second, np.random.default_rng(0))
    assert (first.image == 1).all() and (second.image == 2).all()
    assert first.boxes_xyxy.tolist() == [[10, 10, 90, 90]]
