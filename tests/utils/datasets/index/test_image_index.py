from __future__ import annotations

import numpy as np

from utils.datasets.index.image_index import ImageIndex, PolygonTable, compute_offsets, expand_groups


def ring(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, np.float32)


def make_index() -> ImageIndex:
    """Three images with 2, 0 and 1 objects; the first object has two rings."""
    polygons = [[ring((0, 0), (1, 0), (1, 1)), ring((2, 2), (3, 2), (3, 3))], [ring((4, 4), (5, 4), (5, 5))]]
    polygons.append([ring((6, 6), (7, 6), (7, 7), (6, 7))])
    return ImageIndex(
        paths=["a", "b", "c"],
        sizes_hw=np.array([[10, 20], [30, 40], [50, 60]], np.int32),
        offsets=compute_offsets([2, 0, 1]),
        classes=np.array([5, 6, 7], np.int32),
        boxes_xywhn=np.arange(12, dtype=np.float32).reshape(3, 4),
        polygons=PolygonTable.from_lists(polygons),
        semantic_masks=["A", "B", "C"],
    )


def test_compute_offsets() -> None:
    assert compute_offsets([]).tolist() == [0]
    assert compute_offsets([2, 0, 1]).tolist() == [0, 2, 2, 3]


def test_expand_groups_keeps_order_and_repeats() -> None:
    offsets = compute_offsets([2, 0, 3])
    assert expand_groups(offsets, np.array([2, 1, 0, 2])).tolist() == [2, 3, 4, 0, 1, 2, 3, 4]
    assert expand_groups(offsets, np.array([], np.int64)).tolist() == []


def test_labels_of_an_image_with_and_without_objects() -> None:
    classes, boxes, polygons = make_index().labels(0)
    assert classes.tolist() == [5, 6]
    assert boxes.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert polygons is not None
    assert [len(rings) for rings in polygons] == [2, 1]
    assert polygons[0][1].tolist() == [[2, 2], [3, 2], [3, 3]]
    classes, boxes, polygons = make_index().labels(1)
    assert (classes.shape, boxes.shape, polygons) == ((0,), (0, 4), [])


def test_subset() -> None:
    index = make_index().subset([2, 1, 0, 2])
    assert len(index) == 4
    assert index.num_objects == 4
    assert index.paths == ["c", "b", "a", "c"]
    assert index.semantic_masks == ["C", "B", "A", "C"]
    assert index.sizes_hw[:, 0].tolist() == [50, 30, 10, 50]
    classes, boxes, polygons = index.labels(3)
    assert classes.tolist() == [7]
    assert boxes.tolist() == [[8, 9, 10, 11]]
    assert polygons is not None
    assert polygons[0][0].tolist() == [[6, 6], [7, 6], [7, 7], [6, 7]]
    assert index.labels(2)[2][0][1].tolist() == [[2, 2], [3, 2], [3, 3]]  # type: ignore[index]


def test_subset_of_nothing() -> None:
    index = make_index().subset([])
    assert (len(index), index.num_objects, index.boxes_xywhn.shape) == (0, 0, (0, 4))
