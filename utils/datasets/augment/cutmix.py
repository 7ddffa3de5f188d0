"""CutMix (Yun et al. 2019, arXiv:1905.04899)."""

from __future__ import annotations

import math

import numpy as np

from utils.core.types import Sample
from utils.datasets.augment.compose import (
    MIN_AREA_BOXES,
    MIN_AREA_POLYGONS,
    Labels,
    box_areas,
    clip_boxes,
    compute_bounding_boxes,
    keep_visible,
)
from utils.ops.polygons import clip_rings, compute_bounding_box

Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2, integer pixels


def cutmix(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """Replace a random rectangle of `sample` by that of `other`, which has the same size.

    The area of the rectangle (Beta(1, 1) in the paper) and its center are uniform; it is clipped to the image. Objects
    of `other` are clipped to the rectangle, those of `sample` lose the part that it hides.
    """
    height, width = sample.image.shape[:2]
    rectangle = random_rectangle(rng, (height, width))
    return paste_rectangle(sample, other, rectangle)


def random_rectangle(rng: np.random.Generator, size_hw: tuple[int, int]) -> Rectangle:
    """A rectangle with the image's aspect ratio, clipped to the image."""
    side = math.sqrt(1 - rng.random())
    half_w, half_h = side * size_hw[1] / 2, side * size_hw[0] / 2
    x, y = rng.random() * size_hw[1], rng.random() * size_hw[0]
    x1, x2 = max(0, round(x - half_w)), min(size_hw[1], round(x + half_w))
    y1, y2 = max(0, round(y - half_h)), min(size_hw[0], round(y + half_h))
    return x1, y1, x2, y2


def paste_rectangle(sample: Sample, other: Sample, rectangle: Rectangle) -> Sample:
    """Replace a rectangle of `sample` by that of `other`: pixels, objects and semantic mask."""
    x1, y1, x2, y2 = rectangle
    if x1 >= x2 or y1 >= y2:
        return sample
    image = sample.image.copy()
    image[y1:y2, x1:x2] = other.image[y1:y2, x1:x2]
    semantic_mask = sample.semantic_mask
    if semantic_mask is not None and other.semantic_mask is not None:
        semantic_mask = semantic_mask.copy()
        semantic_mask[y1:y2, x1:x2] = other.semantic_mask[y1:y2, x1:x2]
    with_polygons = sample.polygons is not None
    parts = [cut_labels(sample, rectangle), clip_labels(other, rectangle)]
    boxes, classes, polygons = keep_visible(parts, with_polygons=with_polygons)
    return Sample(image, boxes, classes, polygons, semantic_mask, sample.path)


def clip_labels(sample: Sample, rectangle: Rectangle) -> Labels:
    """Objects of a sample, clipped to a rectangle."""
    areas = box_areas(sample.boxes_xyxy)
    if sample.polygons is None:
        return Labels(_zero_inverted(clip_boxes(sample.boxes_xyxy, rectangle)), areas, sample.classes, None)
    polygons = [clip_rings(rings, rectangle) for rings in sample.polygons]
    return Labels(compute_bounding_boxes(polygons), areas, sample.classes, polygons)


def cut_labels(sample: Sample, rectangle: Rectangle) -> Labels:
    """Objects of a sample without the part that a rectangle hides.

    A box shrinks if the rectangle hides one of its sides completely. An object of which too little is visible gets an
    empty box.
    """
    boxes = sample.boxes_xyxy.astype(np.float64)
    areas, hidden = box_areas(boxes), box_areas(_zero_inverted(clip_boxes(boxes, rectangle)))
    if sample.polygons is None:
        visible = _shrink_boxes(boxes, rectangle)
        visible[areas - hidden <= MIN_AREA_BOXES * areas] = 0
        return Labels(visible, areas, sample.classes, None)
    polygons = [_cut_rings(rings, rectangle, sample.image.shape[:2]) for rings in sample.polygons]
    visible = compute_bounding_boxes(polygons)
    visible[areas - hidden <= MIN_AREA_POLYGONS * areas] = 0
    return Labels(visible, areas, sample.classes, polygons)


def _zero_inverted(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) boxes, with those that clipping has inverted set to 0."""
    empty: np.ndarray = np.any(boxes[:, 2:] <= boxes[:, :2], axis=1)
    return np.where(empty[:, None], 0.0, boxes)


def _shrink_boxes(boxes: np.ndarray, rectangle: Rectangle) -> np.ndarray:
    """(n, 4) bounding boxes of the parts of boxes outside of a rectangle."""
    x1, y1, x2, y2 = rectangle
    left, top, right, bottom = boxes.T
    across, down = (x1 <= left) & (right <= x2), (y1 <= top) & (bottom <= y2)
    overlaps = (x1 < right) & (left < x2) & (y1 < bottom) & (top < y2)
    visible = np.stack(
        [
            np.where(overlaps & down & (x1 <= left), np.minimum(x2, right), left),
            np.where(overlaps & across & (y1 <= top), np.minimum(y2, bottom), top),
            np.where(overlaps & down & (right <= x2), np.maximum(x1, left), right),
            np.where(overlaps & across & (bottom <= y2), np.maximum(y1, top), bottom),
        ],
        axis=1,
    )
    return _zero_inverted(visible)


def _cut_rings(rings: list[np.ndarray], rectangle: Rectangle, size_hw: tuple[int, ...]) -> list[np.ndarray]:
    """Parts of rings outside of a rectangle: left and right of it, above and below."""
    x1, y1, x2, y2 = rectangle
    left, top, right, bottom = compute_bounding_box(rings)
    if right <= x1 or x2 <= left or bottom <= y1 or y2 <= top:
        return rings
    height, width = size_hw[:2]
    strips = [(0, 0, x1, height), (x2, 0, width, height), (x1, 0, x2, y1), (x1, y2, x2, height)]
    return [ring for x3, y3, x4, y4 in strips if x3 < x4 and y3 < y4 for ring in clip_rings(rings, (x3, y3, x4, y4))]
