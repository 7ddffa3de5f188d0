from __future__ import annotations

import numpy as np
import pytest

from utils.ops.boxes import box_iou_matrix
from utils.ops.masks import ObjectMasks
from utils.ops.tiles import MERGE_METHODS, MergedBoxes, MergeMethod, compute_windows, merge_boxes


@pytest.mark.parametrize("size_hw", [(640, 640), (1000, 1500), (641, 640), (3, 5000), (1279, 1281)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.99])
def test_windows_cover_the_image(size_hw: tuple[int, int], overlap: float) -> None:
    windows = compute_windows(size_hw, (640, 640), overlap)
    covered = np.zeros(size_hw, bool)
    for x1, y1, x2, y2 in windows[:: max(1, len(windows) // 500)] if overlap > 0.9 else windows:
        covered[y1:y2, x1:x2] = True
    assert overlap > 0.9 or covered.all()
    sizes = windows[:, 2:] - windows[:, :2]
    assert (sizes == [min(640, size_hw[1]), min(640, size_hw[0])]).all()
    assert len(np.unique(windows, axis=0)) == len(windows)
    assert (windows[:, :2] >= 0).all() and (windows[:, 2:].max(axis=0) == size_hw[::-1]).all()


def test_windows_overlap_by_the_share() -> None:
    assert compute_windows((100, 250), (100, 100), 0.2).tolist() == [
        [0, 0, 100, 100],
        [80, 0, 180, 100],
        [150, 0, 250, 100],  # ends at the border
    ]
    assert compute_windows((100, 300), (100, 100), 0.0)[:, 0].tolist() == [0, 100, 200]


def see(
    objects: np.ndarray, windows: np.ndarray, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 6) that a perfect detector gives in each window, and their windows; jittered by up to a pixel."""
    rows, seen = [], []
    for window in windows:
        for number, (x1, y1, x2, y2, label) in enumerate(objects):
            box = np.array([max(x1, window[0]), max(y1, window[1]), min(x2, window[2]), min(y2, window[3])], float)
            if (box[2:] - box[:2] < 8).any():
                continue
            visible = (box[2:] - box[:2]).prod() / ((x2 - x1) * (y2 - y1))
            if rng is not None:
                box += rng.uniform(-1, 1, 4)
                box = np.clip(box, window[[0, 1, 0, 1]], window[[2, 3, 2, 3]])
            rows.append([*box, 0.5 + 0.4 * visible - 1e-4 * number, label])
            seen.append(window)
    return np.array(rows, np.float32).reshape(-1, 6), np.array(seen).reshape(-1, 4)


def check_found(merged: MergedBoxes, objects: np.ndarray, iou: float) -> None:
    assert len(merged.boxes) == len(objects)
    ious = box_iou_matrix(objects[:, :4].astype(float), merged.boxes[:, :4].astype(float))
    assert (ious.max(axis=1) > iou).all()
    assert (merged.boxes[ious.argmax(axis=1), 5] == objects[:, 4]).all()


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25])
@pytest.mark.parametrize("method", ["nms", "wbf"])
def test_cut_objects_become_one_box(method: MergeMethod, overlap: float) -> None:
    """Over two, three and four tiles, at a corner, and larger than a tile."""
    size_hw = (900, 1200)
    objects = np.array(
        [
            [250, 30, 350, 80, 0],
            [100, 120, 1100, 160, 0],
            [280, 280, 330, 340, 1],
            [700, 500, 1000, 850, 0],
            [20, 20, 60, 60, 1],
            [580, 590, 640, 660, 0],
        ]
    )
    boxes, windows = see(objects, compute_windows(size_hw, (300, 300), overlap), np.random.default_rng(0))
    check_found(merge_boxes(boxes, windows, size_hw, method=method), objects, iou=0.93)


def test_random_fields_are_restored() -> None:
    """Objects that keep apart come back whole from any grid."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        size_hw = (int(rng.integers(300, 1500)), int(rng.integers(300, 1500)))
        cells = [(x, y) for x in range(0, size_hw[1] - 130, 130) for y in range(0, size_hw[0] - 130, 130)]
        chosen = [cells[k] for k in rng.choice(len(cells), size=min(25, len(cells)), replace=False)]
        objects = np.array(
            [[x, y, x + rng.integers(40, 90), y + rng.integers(40, 90), rng.integers(2)] for x, y in chosen]
        )
        tile, overlap = int(rng.integers(150, 500)), float(rng.uniform(0.0, 0.4))
        boxes, windows = see(objects, compute_windows(size_hw, (tile, tile), overlap))
        check_found(merge_boxes(boxes, windows, size_hw), objects, iou=0.75)


def test_neighbors_at_a_seam_stay_apart() -> None:
    """Two persons side by side at a border: the tile that cuts one shows the other, too."""
    windows = np.array([[1024, 512, 1664, 1152], [1024, 512, 1664, 1152], [1536, 512, 2176, 1152]])
    boxes = np.array(
        [
            [1546.6, 909.8, 1664.0, 1146.9, 0.7, 0],
            [1286.2, 982.0, 1660.2, 1150.9, 0.6, 0],
            [1538.1, 914.8, 1743.5, 1149.5, 0.9, 0],
        ],
        np.float32,
    )
    merged = merge_boxes(boxes, windows, (2400, 3000))
    assert [sorted(rows.tolist()) for rows in merged.members] == [[0, 2], [1]]


def test_whole_view_replaces_a_part_with_a_higher_score() -> None:
    windows = np.array([[0, 0, 100, 100], [60, 0, 160, 100]])
    boxes = np.array([[70, 20, 100, 60, 0.9, 0], [70, 20, 130, 60, 0.6, 0]], np.float32)
    merged = merge_boxes(boxes, windows, (100, 160))
    assert merged.boxes.tolist() == [pytest.approx([70, 20, 130, 60, 0.9, 0])]
    assert merged.members[0].tolist() == [1, 0] and not merged.is_joined[0]


def test_averages_whole_views_by_score() -> None:
    windows = np.array([[0, 0, 100, 100], [60, 0, 160, 100]])
    boxes = np.array([[70, 20, 90, 40, 0.6, 0], [72, 20, 90, 44, 0.2, 0]], np.float32)
    merged = merge_boxes(boxes, windows, (100, 160), method="wbf")
    assert merged.boxes[0].tolist() == pytest.approx([70.5, 20, 90, 41, 0.6, 0])
    cut = np.array([[70, 20, 100, 40, 0.6, 0], [70, 22, 120, 44, 0.2, 0]], np.float32)
    merged = merge_boxes(cut, windows, (100, 160), method="wbf")
    assert merged.boxes[0].tolist() == pytest.approx([70, 22, 120, 44, 0.6, 0])  # only the whole view counts


def test_ios_takes_in_contained_boxes() -> None:
    """Also of the same tile, where a box of low IoU survives NMS."""
    windows = np.array([[0, 0, 100, 100], [0, 0, 100, 100]])
    boxes = np.array([[10, 10, 90, 90, 0.9, 0], [20, 20, 50, 50, 0.6, 0]], np.float32)
    assert len(merge_boxes(boxes, windows, (100, 160), method="ios", iou_thres=0.5).boxes) == 1
    assert len(merge_boxes(boxes, windows, (100, 160), method="nms", iou_thres=0.5).boxes) == 2


@pytest.mark.parametrize("method", MERGE_METHODS)
def test_classes_and_empty_input(method: MergeMethod) -> None:
    windows = np.array([[0, 0, 100, 100], [60, 0, 160, 100]])
    boxes = np.array([[70, 20, 90, 40, 0.6, 0], [70, 20, 90, 40, 0.5, 1]], np.float32)
    assert len(merge_boxes(boxes, windows, (100, 160), method=method).boxes) == 2
    assert len(merge_boxes(boxes, windows, (100, 160), method=method, agnostic=True).boxes) == 1
    empty = merge_boxes(boxes[:0], windows[:0], (100, 160), method=method)
    assert empty.boxes.shape == (0, 6) and not empty.members


def test_ties_keep_their_order() -> None:
    windows = np.tile([0, 0, 100, 100], (3, 1))
    boxes = np.array([[10 * k, 0, 10 * k + 5, 5, 0.5, k % 2] for k in range(3)], np.float32)
    assert merge_boxes(boxes, windows, (100, 100)).boxes[:, 0].tolist() == [0, 10, 20]


def test_masks_are_joined_across_seams() -> None:
    """An ellipse over four tiles; one that fits a tile keeps that tile's mask."""
    size_hw = (200, 240)
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    whole = np.stack(
        [((x - 100) / 70) ** 2 + ((y - 100) / 50) ** 2 < 1, ((x - 210) / 15) ** 2 + ((y - 30) / 10) ** 2 < 1]
    )
    objects = np.array([[30, 50, 171, 151, 0], [195, 20, 226, 41, 0]])
    grid = compute_windows(size_hw, (120, 120), 0.1)
    boxes, windows = see(objects, grid)
    places, bitmaps = [], []
    for box, window in zip(boxes, windows, strict=True):
        x1, y1, x2, y2 = np.rint(box[:4]).astype(int)
        number = int(box[1] < 45 and box[0] > 180)
        assert window[0] <= x1 and x2 <= window[2]
        places.append((x1, y1, x2, y2))
        bitmaps.append(whole[number, y1:y2, x1:x2])
    merged = merge_boxes(boxes, windows, size_hw)
    joined = merged.join_masks(ObjectMasks(size_hw, np.array(places), bitmaps)).dense()
    assert len(joined) == 2 and merged.is_joined.sum() == 1
    for mask in joined:
        assert max((mask & other).sum() / (mask | other).sum() for other in whole) > 0.99


def test_max_det_keeps_the_best() -> None:
    windows = np.tile([0, 0, 100, 100], (3, 1))
    boxes = np.array([[10 * k, 0, 10 * k + 5, 5, 0.2 + 0.1 * k, 0] for k in range(3)], np.float32)
    best = merge_boxes(boxes, windows, (100, 100), max_det=2)
    assert best.boxes[:, 4].tolist() == pytest.approx([0.4, 0.3]) and len(best.members) == 2
