"""Labels of tiles against a pixel count."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from utils.datasets.index.image_index import ImageIndex, PolygonTable, compute_offsets
from utils.datasets.index.tiles import tile_index
from utils.ops.boxes import xywh_to_xyxy, xyxy_to_xywhn
from utils.ops.tiles import compute_windows


def build_index(
    size_hw: tuple[int, int], boxes: list[list[int]], *, polygons: bool = False, copies: int = 1
) -> ImageIndex:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    normalized = xyxy_to_xywhn(rows, size_hw)
    corners = rows[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2) / np.array(size_hw[::-1], np.float32)
    return ImageIndex(
        [f"{k}.jpg" for k in range(copies)],
        np.array([size_hw] * copies, np.int32),
        compute_offsets([len(rows)] * copies),
        np.tile(np.arange(len(rows), dtype=np.int32), copies),
        np.tile(normalized, (copies, 1)),
        polygons=PolygonTable.from_lists([[ring] for _ in range(copies) for ring in corners]) if polygons else None,
    )


@pytest.mark.parametrize("polygons", [False, True])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
def test_labels_of_each_tile(overlap: float, polygons: bool) -> None:
    size_hw = (300, 420)
    boxes = [[10, 10, 50, 40], [90, 80, 140, 130], [0, 200, 420, 220], [95, 95, 98, 99]]
    index = build_index(size_hw, boxes, polygons=polygons)
    tiles = tile_index(index, 100, overlap=overlap, min_visible=0.3)
    assert tiles.windows is not None
    expected = {}
    for window in compute_windows(size_hw, (100, 100), overlap).tolist():
        visible = []
        for number, (x1, y1, x2, y2) in enumerate(boxes):
            canvas = np.zeros(size_hw, bool)
            canvas[y1:y2, x1:x2] = True
            part = canvas[window[1] : window[3], window[0] : window[2]]
            if part.any() and part.sum() >= 0.3 * canvas.sum():
                ys, xs = part.nonzero()
                visible.append((number, xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
        expected[tuple(window)] = visible
    seen = set()
    for i, window in enumerate(map(tuple, tiles.windows.tolist())):
        classes, boxes_xywhn, rings = tiles.labels(i)
        corners = np.rint(xywh_to_xyxy(boxes_xywhn) * 100).astype(int)
        assert [(int(c), *box) for c, box in zip(classes, corners.tolist(), strict=True)] == expected[window]
        assert tiles.sizes_hw[i].tolist() == [100, 100]
        assert (rings is not None) == polygons
        for ring, box in zip(rings or [], corners, strict=True) if polygons else ():
            points = np.concatenate(ring) * 100
            assert np.abs([*points.min(axis=0), *points.max(axis=0)] - box).max() < 0.01
        seen.add(window)
    assert {window for window, labels in expected.items() if labels} <= seen


def test_backgrounds_are_at_most_as_many_as_tiles_with_objects() -> None:
    index = build_index((1000, 1000), [[10, 10, 50, 40], [510, 510, 530, 540]])
    tiles = tile_index(index, 100, overlap=0.0)
    counts = np.diff(tiles.offsets)
    assert len(tiles) == 4 and (counts == 0).sum() == 2
    again = tile_index(index, 100, overlap=0.0)
    assert np.array_equal(again.windows, tiles.windows)  # type: ignore[arg-type]


def test_small_images_stay_whole(caplog: pytest.LogCaptureFixture) -> None:
    index = build_index((90, 100), [[10, 10, 50, 40]], copies=2)
    with caplog.at_level(logging.WARNING):
        tiles = tile_index(index, 100)
    assert "no image is larger than a tile" in caplog.text
    assert tiles.windows is not None and tiles.windows.tolist() == [[0, 0, 100, 90]] * 2
    assert np.array_equal(tiles.boxes_xywhn, index.boxes_xywhn) and tiles.paths == index.paths


def test_subset_selects_windows() -> None:
    tiles = tile_index(build_index((300, 300), [[0, 0, 300, 300]]), 100, overlap=0.0, min_visible=0.0)
    part = tiles.subset([3, 1])
    assert part.windows is not None and tiles.windows is not None
    assert np.array_equal(part.windows, tiles.windows[[3, 1]])


def test_no_background_is_dropped_if_nothing_is_tiled(caplog: pytest.LogCaptureFixture) -> None:
    index = build_index((90, 100), [[10, 10, 50, 40]], copies=4)
    index = replace(
        index, offsets=np.array([0, 1, 1, 1, 1]), classes=index.classes[:1], boxes_xywhn=index.boxes_xywhn[:1]
    )
    assert len(tile_index(index, 640)) == 4
    with caplog.at_level(logging.INFO):
        large = tile_index(build_index((1000, 1000), [[10, 10, 50, 40]]), 100, overlap=0.0)
    assert len(large) == 2 and "98 more without objects are left out" in caplog.text
