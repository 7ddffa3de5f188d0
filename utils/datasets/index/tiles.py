"""Tiles as training images: large images are cut into windows, with their labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from utils.core.logging import LOGGER
from utils.core.types import Polygons
from utils.datasets.index.image_index import ImageIndex, PolygonTable, compute_offsets
from utils.ops.boxes import box_area, xywh_to_xyxy, xyxy_to_xywhn
from utils.ops.polygons import clip_rings, compute_bounding_box
from utils.ops.tiles import compute_windows

Labels = tuple[np.ndarray, np.ndarray, Polygons | None]  # classes, boxes_xywhn, polygons


def tile_index(
    index: ImageIndex, tile: int, *, overlap: float = 0.2, min_visible: float = 0.3, all_tiles: bool = False
) -> ImageIndex:
    """The tiles of an index's images, in their order, with `windows`.

    An object is in every tile that shows a share of at least `min_visible` of its box. There are at most as many tiles
    without objects as with: of more, evenly spaced ones are taken, so the choice is always the same. Images that are
    not larger than a tile are one tile.

    Args:
        tile: side in pixels.
        overlap: share of a tile that the next one repeats, in [0, 1).
        all_tiles: take all tiles without objects.
    """
    numbers, windows, labels = [], [], []
    for i in range(len(index)):
        for window, cut in _cut_image(index, i, tile, overlap, min_visible):
            numbers.append(i)
            windows.append(window)
            labels.append(cut)
    counts = np.array([len(classes) for classes, _, _ in labels], np.int64)
    is_tiled = len(windows) > len(index)
    kept = _select_tiles(counts > 0) if is_tiled and not all_tiles else np.arange(len(counts))
    if not is_tiled:
        LOGGER.warning(f"WARNING --tile {tile}: no image is larger than a tile; give a smaller tile, or leave it out")
    else:
        empty = int((counts[kept] == 0).sum())
        left_out = f"; {len(counts) - len(kept)} more without objects are left out" if len(kept) < len(counts) else ""
        LOGGER.info(
            f"{len(index)} images in {len(kept)} tiles of {tile} pixels, {empty} of them without objects{left_out}"
        )
    base = index.subset(np.array(numbers, np.int64)[kept])
    boxes = [labels[k][1] for k in kept]
    polygons = [rings for k in kept for rings in labels[k][2] or []]
    corners = np.array(windows, np.int32).reshape(-1, 4)[kept]
    return replace(
        base,
        sizes_hw=(corners[:, [3, 2]] - corners[:, [1, 0]]).astype(base.sizes_hw.dtype),
        offsets=compute_offsets(counts[kept]),
        classes=np.concatenate([np.zeros(0, index.classes.dtype), *(labels[k][0] for k in kept)]),
        boxes_xywhn=np.concatenate([np.zeros((0, 4), np.float32), *boxes]),
        polygons=None if index.polygons is None else PolygonTable.from_lists(polygons),
        windows=corners,
    )


def _select_tiles(has_objects: np.ndarray) -> np.ndarray:
    """Rising positions of all tiles with objects and of evenly spaced ones without, at most as many."""
    empty, full = np.flatnonzero(~has_objects), np.flatnonzero(has_objects)
    if len(empty) > len(full) > 0:
        empty = empty[np.linspace(0, len(empty) - 1, len(full)).astype(int)]
    return np.sort(np.concatenate([full, empty]))


def _cut_image(
    index: ImageIndex, i: int, tile: int, overlap: float, min_visible: float
) -> Iterator[tuple[np.ndarray, Labels]]:
    """Windows (4,) of an image with the labels in them."""
    height, width = index.sizes_hw[i].tolist()
    classes, boxes_xywhn, polygons = index.labels(i)
    windows = compute_windows((height, width), (tile, tile), overlap)
    if len(windows) == 1:
        yield windows[0], (classes, boxes_xywhn, polygons)
        return
    size = np.array([width, height], np.float64)
    boxes = xywh_to_xyxy(boxes_xywhn.astype(np.float64)) * np.tile(size, 2)
    for window in windows:
        yield window, _cut_labels(classes, boxes, polygons, size, window, min_visible)


def _cut_labels(
    classes: np.ndarray,
    boxes: np.ndarray,
    polygons: Polygons | None,
    size_wh: np.ndarray,
    window: np.ndarray,
    min_visible: float,
) -> Labels:
    """The labels in a window; boxes (n, 4) xyxy and size in pixels of the image."""
    near, far = np.tile(window[:2], 2), np.tile(window[2:], 2)
    clipped = np.clip(boxes, near, far)
    keep = np.flatnonzero((box_area(clipped) > 0) & (box_area(clipped) >= min_visible * box_area(boxes)))
    clipped, rings = clipped[keep] - near, None
    tile_wh = (window[2:] - window[:2]).astype(np.float64)
    if polygons is not None:
        rings, is_visible = [], np.ones(len(keep), bool)
        for position, k in enumerate(keep):
            parts = [(ring * size_wh - window[:2]) for ring in polygons[k]]
            parts = clip_rings(parts, (0.0, 0.0, *tile_wh))
            is_visible[position] = bool(parts)
            if parts:
                clipped[position] = compute_bounding_box(parts)
                rings.append([(ring / tile_wh).astype(np.float32) for ring in parts])
        keep, clipped = keep[is_visible], clipped[is_visible]
    boxes_xywhn = xyxy_to_xywhn(clipped, (int(tile_wh[1]), int(tile_wh[0])))
    return classes[keep], boxes_xywhn.astype(np.float32), rings
