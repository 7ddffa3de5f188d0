from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.core.types import Letterbox
from utils.ops.masks import ObjectMasks, fill_rings, rasterize, signed_area, trace_rings

SQUARE = np.array([[2.0, 2], [10, 2], [10, 10], [2, 10]])


def filled(*rings: np.ndarray, size: int = 16) -> np.ndarray:
    canvas = np.zeros((size, size), np.uint8)
    fill_rings(canvas, rings)
    return canvas


def test_polygons_against_the_original(shared: Path) -> None:
    golden = np.load(shared / "reference/golden/segment.npz")
    masks = rasterize([[golden[f"poly{i}"]] for i in range(3)], (128, 128), 4)
    assert (masks.dense() == golden["poly_separate"]).all()
    rank = np.zeros(4, np.int64)
    rank[golden["poly_overlap_order"] + 1] = np.arange(1, 4)  # the original renumbers objects by area
    assert (rank[masks.index_map()] == golden["poly_overlap"]).all()


def test_holes_have_the_opposite_direction_and_may_contain_parts() -> None:
    hole, island = (SQUARE - 6) / 2 + 6, (SQUARE - 6) / 8 + 6
    expected = filled(SQUARE)
    expected[4:9, 4:9] = 0
    expected[5:7, 5:7] = 1
    assert (filled(SQUARE, hole[::-1], island) == expected).all()
    mirrored = [ring * (-1, 1) + (16, 0) for ring in (island, SQUARE, hole[::-1])]
    assert filled(*mirrored).sum() == expected.sum()
    assert filled(SQUARE, SQUARE + 3).sum() == 9 * 9 * 2 - 6 * 6  # overlapping parts make no hole


@pytest.mark.parametrize("ratio", [1, 2, 3, 4, 8])
def test_windows_equal_drawing_and_resizing_the_whole_image(ratio: int) -> None:
    rng = np.random.default_rng(ratio)
    size_hw = (96, 64)
    polygons = [[rng.uniform(0, 1, (5, 2)) * (64, 96)] for _ in range(20)]
    masks = rasterize(polygons, size_hw, ratio)
    for mask, rings in zip(masks.dense(), polygons, strict=True):
        canvas = np.zeros(size_hw, np.uint8)
        fill_rings(canvas, rings)
        assert (mask == cv2.resize(canvas, (64 // ratio, 96 // ratio))).all()


def test_objects_without_rings_and_no_objects() -> None:
    masks = rasterize([[], [SQUARE]], (16, 16), 4)
    assert masks.areas.tolist() == [0, 8]  # one corner pixel is a quarter covered
    assert masks.polygons()[0] == [] and masks.outlines()[0].tolist() == [[0, 0]] * 4
    assert rasterize([], (16, 16), 4).dense().shape == (0, 4, 4)
    assert rasterize([], (16, 16), 4).index_map().max() == 0


def test_small_objects_are_drawn_over_large_ones() -> None:
    masks = rasterize([[SQUARE / 2 + 1], [SQUARE], [SQUARE + 40]], (32, 32))
    index_map = masks.index_map()
    assert index_map[3, 3] == 1 and index_map[9, 9] == 2
    assert set(np.unique(index_map)) == {0, 1, 2}  # the third lies outside
    assert masks.select([1]).areas.tolist() == [81]


def test_traced_rings_restore_the_bitmap() -> None:
    rng = np.random.default_rng(0)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        bitmap = np.kron(rng.random((9, 11)) < share, np.ones((3, 3), bool))
        rings = trace_rings(bitmap)
        canvas = np.zeros(bitmap.shape, np.uint8)
        fill_rings(canvas, rings)
        assert (canvas == bitmap).all()


def test_outline_is_the_largest_part_without_holes() -> None:
    bitmap = np.zeros((20, 20), bool)
    bitmap[1:4, 1:4], bitmap[6:18, 6:18], bitmap[9:12, 9:12] = True, True, False
    masks = ObjectMasks((40, 40), np.array([[10, 5, 30, 25]]), [bitmap])
    assert len(masks.polygons()[0]) == 3
    outline = masks.outlines()[0]
    assert abs(signed_area(outline)) == 11 * 11
    assert outline.min(axis=0).tolist() == [16.5, 11.5]


def test_mask_is_converted_from_the_letterbox() -> None:
    fit = Letterbox(original_hw=(100, 200), ratio_wh=(0.5, 0.5), pad_wh=(0, 25))  # 100x50 inside 100x100
    masks = ObjectMasks((100, 100), np.array([[10, 20, 20, 30]]), [np.ones((10, 10), bool)])
    back = masks.to_original(fit)
    assert back.size_hw == (100, 200)
    assert back.windows_xyxy.tolist() == [[20, 0, 40, 10]]  # the part in the padding is gone
    assert back.bitmaps[0].all() and back.bitmaps[0].shape == (10, 20)
