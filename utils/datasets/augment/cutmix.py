"""CutMix (Yun et al. 2019, arXiv:1905.04899): a rectangle of a sample replaced by that of another, with its labels."""

from __future__ import annotations

import math

import numpy as np

from utils.core.types import Polygons, Sample
from utils.datasets.augment.compose import (
    MIN_AREA_BOXES,
    MIN_AREA_POLYGONS,
    Labels,
    box_areas,
    clip_boxes,
    keep_visible,
)
from utils.ops.polygons import clip_rings, extents

Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2 in whole pixels


def cutmix(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """`sample` with a random rectangle of `other`, of the same size, in it.

    The rectangle's share of the image is uniform (Beta(1, 1) in the paper), its center too; what would lie outside
    is cut off. Objects of `other` are cut at the rectangle, those of `sample` lose what it hides.
    """
    height, width = sample.image.shape[:2]
    hole = draw_rectangle(rng, (height, width))
    return paste_rectangle(sample, other, hole)


def draw_rectangle(rng: np.random.Generator, size_hw: tuple[int, int]) -> Rectangle:
    """A rectangle of the image's aspect ratio before it is cut at the border."""
    side = math.sqrt(1 - rng.random())
    half_w, half_h = side * size_hw[1] / 2, side * size_hw[0] / 2
    x, y = rng.random() * size_hw[1], rng.random() * size_hw[0]
    x1, x2 = max(0, round(x - half_w)), min(size_hw[1], round(x + half_w))
    y1, y2 = max(0, round(y - half_h)), min(size_hw[0], round(y + half_h))
    return x1, y1, x2, y2


def paste_rectangle(sample: Sample, other: Sample, hole: Rectangle) -> Sample:
    """`sample` with the pixels, objects and classes that `other` has in a rectangle."""
    x1, y1, x2, y2 = hole
    if x1 >= x2 or y1 >= y2:
        return sample
    image = sample.image.copy()
    image[y1:y2, x1:x2] = other.image[y1:y2, x1:x2]
    semantic_mask = sample.semantic_mask
    if semantic_mask is not None and other.semantic_mask is not None:
        semantic_mask = semantic_mask.copy()
        semantic_mask[y1:y2, x1:x2] = other.semantic_mask[y1:y2, x1:x2]
    with_polygons = sample.polygons is not None
    parts = [outside_of(sample, hole), inside_of(other, hole)]
    boxes, classes, polygons = keep_visible(parts, with_polygons=with_polygons)
    return Sample(image, boxes, classes, polygons, semantic_mask, sample.path)


def inside_of(sample: Sample, frame: Rectangle) -> Labels:
    """What a rectangle shows of a sample's objects."""
    areas = box_areas(sample.boxes_xyxy)
    if sample.polygons is None:
        return Labels(_rising(clip_boxes(sample.boxes_xyxy, frame)), areas, sample.classes, None)
    polygons = [clip_rings(rings, frame) for rings in sample.polygons]
    return Labels(_boxes_of(polygons), areas, sample.classes, polygons)


def outside_of(sample: Sample, hole: Rectangle) -> Labels:
    """What is left of a sample's objects around a rectangle.

    A box shrinks where the rectangle hides one of its sides from end to end; an object of which too little is left
    comes out with an empty box.
    """
    boxes = sample.boxes_xyxy.astype(np.float64)
    areas, hidden = box_areas(boxes), box_areas(_rising(clip_boxes(boxes, hole)))
    if sample.polygons is None:
        left = _trimmed(boxes, hole)
        left[areas - hidden <= MIN_AREA_BOXES * areas] = 0
        return Labels(left, areas, sample.classes, None)
    polygons = [_crop(rings, hole, sample.image.shape[:2]) for rings in sample.polygons]
    left = _boxes_of(polygons)
    left[areas - hidden <= MIN_AREA_POLYGONS * areas] = 0
    return Labels(left, areas, sample.classes, polygons)


def _rising(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) boxes, those turned inside out by clipping as empty ones."""
    empty: np.ndarray = np.any(boxes[:, 2:] <= boxes[:, :2], axis=1)
    return np.where(empty[:, None], 0.0, boxes)


def _trimmed(boxes: np.ndarray, hole: Rectangle) -> np.ndarray:
    """(n, 4) the smallest boxes around what a rectangle leaves of boxes."""
    x1, y1, x2, y2 = hole
    left, top, right, bottom = boxes.T
    across, down = (x1 <= left) & (right <= x2), (y1 <= top) & (bottom <= y2)
    touches = (x1 < right) & (left < x2) & (y1 < bottom) & (top < y2)
    trimmed = np.stack(
        [
            np.where(touches & down & (x1 <= left), np.minimum(x2, right), left),
            np.where(touches & across & (y1 <= top), np.minimum(y2, bottom), top),
            np.where(touches & down & (right <= x2), np.maximum(x1, left), right),
            np.where(touches & across & (bottom <= y2), np.maximum(y1, top), bottom),
        ],
        axis=1,
    )
    return _rising(trimmed)


def _crop(rings: list[np.ndarray], hole: Rectangle, size_hw: tuple[int, ...]) -> list[np.ndarray]:
    """Rings without a rectangle: their parts left and right of it, above and below."""
    x1, y1, x2, y2 = hole
    left, top, right, bottom = extents(rings)
    if right <= x1 or x2 <= left or bottom <= y1 or y2 <= top:
        return rings
    height, width = size_hw[:2]
    strips = [(0, 0, x1, height), (x2, 0, width, height), (x1, 0, x2, y1), (x1, y2, x2, height)]
    return [ring for x3, y3, x4, y4 in strips if x3 < x4 and y3 < y4 for ring in clip_rings(rings, (x3, y3, x4, y4))]


def _boxes_of(polygons: Polygons) -> np.ndarray:
    """(n, 4) boxes around objects."""
    return np.array([extents(rings) for rings in polygons], np.float64).reshape(-1, 4)
