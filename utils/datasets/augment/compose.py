"""Composition of a training sample: placement on a canvas and the random transform in one step.

A mosaic is a plan (a list of placements of images on a canvas) followed by a random transform of the canvas. The
transform is known before any pixel is drawn, so the canvas is never built: each visible image is cropped and resized,
or warped if the transform rotates or shears, directly into the output. Images that are not visible are not read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from utils.core.types import Polygons, Sample
from utils.imaging.letterbox import GRAY
from utils.ops.polygons import clip_rings, compute_bounding_box, transform_points

IGNORE = 255  # semantic mask value of pixels that no image covers
MIN_DEPTH = 0.1  # perspective: points closer to the camera plane are clipped
MIN_SIDE, MAX_ASPECT = 2.0, 100.0  # of kept boxes: pixels, and longer over shorter side
MIN_AREA_BOXES, MIN_AREA_POLYGONS = 0.10, 0.01  # visible part of the area of a kept object

Recolor = Callable[[np.ndarray, np.ndarray], None]  # from (H, W, 3) into (H, W, 3), which may be the same


@dataclass(frozen=True)
class SourceImage:
    """An image and its labels, normalized by its width and height. Its pixels are read only if it is visible.

    Attributes:
        size_hw: nominal size on the canvas, pixels.
        read: loads the pixels, (H, W, C) uint8; called with the required longer side, which they should not be below.
        classes: (n,) class of each object.
        boxes_xyxyn: (n, 4) corners over width and height.
        polygons: rings of each object over width and height, or None.
        read_mask: loads the (H, W) uint8 semantic mask; None if there is none.
        path: image file.
    """

    size_hw: tuple[int, int]
    read: Callable[[int], np.ndarray]
    classes: np.ndarray
    boxes_xyxyn: np.ndarray
    polygons: Polygons | None = None
    read_mask: Callable[[], np.ndarray] | None = None
    path: str = ""


@dataclass(frozen=True)
class Placement:
    """Placement of an image, or of one of its objects, on the canvas.

    Attributes:
        image: the image.
        to_canvas: (3, 3) from the image's normalized coordinates to canvas pixels.
        region_xyxyn: visible part of the image, normalized.
        outline: normalized rings outside of which nothing is drawn, or None for the whole region.
        objects: indices of the objects whose labels are included; None for all.
    """

    image: SourceImage
    to_canvas: np.ndarray
    region_xyxyn: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    outline: list[np.ndarray] | None = None
    objects: np.ndarray | None = None


@dataclass(frozen=True)
class DrawnRegion:
    """Region of the output that a placement was drawn to.

    Attributes:
        matrix: (3, 3) from the image's normalized coordinates to output pixels, as drawn.
        box_xyxy: the region, integer pixels.
        mask: (h, w) uint8, 255 for drawn pixels of the region and 0 for others; None if all were drawn.
    """

    matrix: np.ndarray
    box_xyxy: tuple[int, int, int, int]
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Labels:
    """Objects in output pixels, clipped to the output, before those that are hardly visible are removed.

    Attributes:
        boxes_xyxy: (n, 4) clipped boxes.
        areas: (n,) areas of the boxes before clipping.
        classes: (n,).
        polygons: rings of each object, or None.
    """

    boxes_xyxy: np.ndarray
    areas: np.ndarray
    classes: np.ndarray
    polygons: Polygons | None


def compose(
    placements: Sequence[Placement],
    to_output: np.ndarray,
    out_hw: tuple[int, int],
    *,
    channels: int = 3,
    recolor: Recolor | None = None,
) -> Sample:
    """Build a sample from placements on a canvas and a transform of that canvas.

    Args:
        placements: at least one, drawn in this order.
        to_output: (3, 3) from canvas pixels to output pixels.
        out_hw: size of the sample's image.
        channels: of the image.
        recolor: color change of the whole image, applied where it processes the fewest pixels.

    Returns:
        Sample with a border of 114 (semantic mask: 255) and the visible labels, all inside the image.
    """
    image = np.full((*out_hw, channels), compute_border_value(recolor), np.uint8)
    first = placements[0].image
    semantic_mask = None if first.read_mask is None else np.full(out_hw, IGNORE, np.uint8)
    labels = []
    for placement in placements:
        matrix = to_output @ placement.to_canvas
        upright = placement.outline is None and is_upright(matrix)
        region = (draw_upright if upright else draw_warped)(image, placement, matrix, recolor)
        if region is None:
            continue
        if semantic_mask is not None and placement.image.read_mask is not None:
            draw_semantic_mask(semantic_mask, placement.image.read_mask(), region)
        labels.append(transform_labels(placement, region.matrix, out_hw))
    boxes, classes, polygons = keep_visible(labels, with_polygons=first.polygons is not None)
    return Sample(image, boxes, classes, polygons, semantic_mask, first.path)


def compute_border_value(recolor: Recolor | None) -> int:
    """Value of the border in every channel: recolored gray, which is still gray."""
    pixel = np.full((1, 1, 3), GRAY, np.uint8)
    if recolor is not None:
        recolor(pixel, pixel)
    return int(pixel[0, 0, 0])


def is_upright(matrix: np.ndarray) -> bool:
    """Whether a transform is only scale and translation, without rotation, shear, flip or perspective."""
    (x_by_x, x_by_y, _), (y_by_x, y_by_y, _), (tilt_x, tilt_y, _) = matrix.tolist()
    return abs(x_by_y) + abs(y_by_x) + abs(tilt_x) + abs(tilt_y) < 1e-9 and x_by_x > 0 and y_by_y > 0


def draw_upright(
    image: np.ndarray, placement: Placement, matrix: np.ndarray, recolor: Recolor | None
) -> DrawnRegion | None:
    """Crop and resize the visible part of an image into the output; None if nothing is visible.

    Source and target rectangles have integer coordinates. The returned matrix is the transform between them, so that
    the labels match the drawn pixels.
    """
    (width, _, left), (_, height, top), _ = matrix.tolist()
    u1, v1, u2, v2 = placement.region_xyxyn
    x1, x2 = max(0, round(left + u1 * width)), min(image.shape[1], round(left + u2 * width))
    y1, y2 = max(0, round(top + v1 * height)), min(image.shape[0], round(top + v2 * height))
    if x1 >= x2 or y1 >= y2:
        return None
    frame = placement.image.read(math.ceil(max(width, height)))
    rows, columns = frame.shape[:2]
    from_x, to_x = round_source_span((x1 - left) / width, (x2 - left) / width, columns)
    from_y, to_y = round_source_span((y1 - top) / height, (y2 - top) / height, rows)
    draw_resized(image[y1:y2, x1:x2], frame[from_y:to_y, from_x:to_x], recolor)
    gain_x, gain_y = (x2 - x1) / (to_x - from_x), (y2 - y1) / (to_y - from_y)  # output pixels per source pixel
    drawn = [[gain_x * columns, 0.0, x1 - from_x * gain_x], [0.0, gain_y * rows, y1 - from_y * gain_y], [0, 0, 1]]
    return DrawnRegion(np.array(drawn), (x1, y1, x2, y2))


def draw_resized(target: np.ndarray, source: np.ndarray, recolor: Recolor | None) -> None:
    """Resize an image into a view; recolor the smaller one of the two."""
    upscale = target.size > source.size
    if recolor is not None and upscale:
        recolored = np.empty(source.shape, np.uint8)
        recolor(source, recolored)
        source = recolored
    large_reduction = target.shape[1] * 2 < source.shape[1]
    size_wh = (target.shape[1], target.shape[0])
    cv2.resize(source, size_wh, dst=target, interpolation=cv2.INTER_AREA if large_reduction else cv2.INTER_LINEAR)
    if recolor is not None and not upscale:
        recolor(target, target)


def round_source_span(start: float, stop: float, side: int) -> tuple[int, int]:
    """Pixels of an image of length `side` between two normalized coordinates, at least one."""
    first = min(max(0, round(start * side)), side - 1)
    return first, max(first + 1, min(side, round(stop * side)))


def draw_warped(
    image: np.ndarray, placement: Placement, matrix: np.ndarray, recolor: Recolor | None
) -> DrawnRegion | None:
    """Warp the visible part of an image into the output; None if nothing is visible."""
    size_hw = (image.shape[0], image.shape[1])
    outlines = compute_visible_outlines(placement, matrix, size_hw)
    if not outlines:
        return None
    points = np.concatenate(outlines)
    x1, y1 = np.floor(points.min(axis=0)).astype(int).tolist()
    x2, y2 = np.ceil(points.max(axis=0)).astype(int).tolist()
    if x1 >= x2 or y1 >= y2:
        return None
    frame = placement.image.read(compute_source_side(matrix, size_hw))
    to_box = matrix @ np.diag([1 / frame.shape[1], 1 / frame.shape[0], 1.0])
    to_box = translation(-x1, -y1) @ to_box
    mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
    # Pixel k covers k..k+1, but OpenCV draws at pixel centers, hence the 0.5; coordinates are in 1/16 pixel.
    contours = [np.rint((ring - (x1 + 0.5, y1 + 0.5)) * 16).astype(np.int32) for ring in outlines]
    cv2.fillPoly(mask, contours, 255, shift=4)
    warped = warp(frame, to_box, (y2 - y1, x2 - x1), cv2.INTER_LINEAR)
    if recolor is not None:
        recolor(warped, warped)
    target = image[y1:y2, x1:x2]
    np.copyto(target, warped, where=mask[..., None] > 0)
    return DrawnRegion(matrix, (x1, y1, x2, y2), mask)


def compute_visible_outlines(placement: Placement, matrix: np.ndarray, size_hw: tuple[int, int]) -> list[np.ndarray]:
    """Rings of the visible part of a placement in output pixels, clipped to the output."""
    u1, v1, u2, v2 = placement.region_xyxyn
    region = [np.array([[u1, v1], [u2, v1], [u2, v2], [u1, v2]])]
    rings = region if placement.outline is None else clip_rings(placement.outline, placement.region_xyxyn)
    projected = [transform_points(ring, matrix, MIN_DEPTH) for ring in rings]
    return clip_rings(projected, (0.0, 0.0, size_hw[1], size_hw[0]))


def compute_source_side(matrix: np.ndarray, size_hw: tuple[int, int]) -> int:
    """Longer side in pixels at which a transformed image loses no detail; with perspective, an upper bound."""
    if np.abs(matrix[2, :2]).sum() > 1e-12:
        return 4 * max(size_hw)
    return int(np.ceil(np.linalg.norm(matrix[:2, :2], axis=0).max()))


def translation(x: float, y: float) -> np.ndarray:
    """(3, 3) translation matrix."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def warp(frame: np.ndarray, matrix: np.ndarray, size_hw: tuple[int, int], interpolation: int) -> np.ndarray:
    """Warp an image by a matrix in edge coordinates (0 is the left edge of the first pixel), with edges replicated."""
    centered = translation(-0.5, -0.5) @ matrix @ translation(0.5, 0.5)
    size_wh = (size_hw[1], size_hw[0])
    if np.abs(matrix[2, :2]).sum() > 1e-12:
        out = cv2.warpPerspective(frame, centered, size_wh, flags=interpolation, borderMode=cv2.BORDER_REPLICATE)
    else:
        affine = centered[:2] / centered[2, 2]
        out = cv2.warpAffine(frame, affine, size_wh, flags=interpolation, borderMode=cv2.BORDER_REPLICATE)
    return out.reshape(*size_hw, *frame.shape[2:])


def draw_semantic_mask(semantic_mask: np.ndarray, source: np.ndarray, region: DrawnRegion) -> None:
    """Draw an image's semantic mask to the region of its pixels, with nearest-neighbor sampling."""
    x1, y1, x2, y2 = region.box_xyxy
    to_box = translation(-x1, -y1) @ region.matrix @ np.diag([1 / source.shape[1], 1 / source.shape[0], 1.0])
    if region.mask is not None:
        warped = warp(source, to_box, (y2 - y1, x2 - x1), cv2.INTER_NEAREST)
        np.copyto(semantic_mask[y1:y2, x1:x2], warped, where=region.mask > 0)
        return
    columns = (np.arange(x2 - x1) + 0.5 - to_box[0, 2]) / to_box[0, 0]
    rows = (np.arange(y2 - y1) + 0.5 - to_box[1, 2]) / to_box[1, 1]
    columns = np.clip(columns.astype(int), 0, source.shape[1] - 1)
    rows = np.clip(rows.astype(int), 0, source.shape[0] - 1)
    semantic_mask[y1:y2, x1:x2] = source[rows][:, columns]  # rows first: four times faster than a 2D lookup


def transform_labels(placement: Placement, matrix: np.ndarray, size_hw: tuple[int, int]) -> Labels:
    """Objects of a placement in output pixels, clipped to its region and the output."""
    image = placement.image
    classes, boxes = image.classes, image.boxes_xyxyn
    if placement.objects is not None:
        classes, boxes = classes[placement.objects], boxes[placement.objects]
    whole, boxes = boxes, clip_boxes(boxes, placement.region_xyxyn)
    areas = box_areas(boxes) * abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])
    frame = (0.0, 0.0, float(size_hw[1]), float(size_hw[0]))
    enclosing = transform_boxes(boxes, matrix)
    clipped = clip_boxes(enclosing, frame)
    if image.polygons is None:
        return Labels(clipped, areas, classes, None)
    objects = range(len(image.classes)) if placement.objects is None else placement.objects.tolist()
    inside = (whole == boxes).all(axis=1) & (enclosing == clipped).all(axis=1) & (box_areas(enclosing) > 0)
    affine = not matrix[2, 0] and not matrix[2, 1]  # else the box of an object partly behind the camera is empty
    hidden = (box_areas(boxes) <= 0) | (affine & (box_areas(clipped) <= 0))
    polygons: list[list[np.ndarray]] = []
    for k, is_inside, is_hidden in zip(objects, inside.tolist(), hidden.tolist(), strict=True):
        if is_hidden:
            polygons.append([])
            continue
        rings = image.polygons[k] if is_inside else clip_rings(image.polygons[k], placement.region_xyxyn)
        projected = [transform_points(ring, matrix, MIN_DEPTH) for ring in rings if len(ring) > 2]
        polygons.append(projected if is_inside else clip_rings(projected, frame))
    return Labels(compute_bounding_boxes(polygons), areas, classes, polygons)


def compute_bounding_boxes(polygons: Polygons) -> np.ndarray:
    """(n, 4) float64 bounding boxes of objects."""
    return np.array([compute_bounding_box(rings) for rings in polygons], np.float64).reshape(-1, 4)


def clip_boxes(boxes_xyxy: np.ndarray, frame_xyxy: Sequence[float]) -> np.ndarray:
    """(n, 4) boxes clipped to a rectangle, float64; boxes outside get no area."""
    x1, y1, x2, y2 = frame_xyxy
    return np.minimum(np.maximum(boxes_xyxy, np.array([x1, y1, x1, y1])), np.array([x2, y2, x2, y2]))


def box_areas(boxes_xyxy: np.ndarray) -> np.ndarray:
    """(n,) areas."""
    return (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])


def transform_boxes(boxes_xyxy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(n, 4) enclosing boxes of transformed boxes; empty if a corner is behind the camera plane."""
    if is_upright(matrix):
        (width, _, left), (_, height, top), _ = matrix.tolist()
        return boxes_xyxy * np.array([width, height, width, height]) + np.array([left, top, left, top])
    corners = boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    homogeneous = np.concatenate([corners, np.ones((len(corners), 1))], axis=1) @ matrix.T
    depth = homogeneous[:, 2].reshape(-1, 4)
    points = homogeneous[:, :2].reshape(-1, 4, 2) / np.maximum(depth, MIN_DEPTH)[..., None]
    enclosing = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    enclosing[depth.min(axis=1) < MIN_DEPTH] = 0
    return enclosing


def find_visible(areas_before: np.ndarray, boxes_xyxy: np.ndarray, min_area: float) -> np.ndarray:
    """(n,) bool, whether enough of each object is visible, and not as a thin line.

    Args:
        areas_before: (n,) areas before clipping, pixels.
        boxes_xyxy: (n, 4) clipped boxes.
        min_area: minimum ratio of the areas after and before clipping.
    """
    width, height = boxes_xyxy[:, 2] - boxes_xyxy[:, 0], boxes_xyxy[:, 3] - boxes_xyxy[:, 1]
    longer, shorter = np.maximum(width, height), np.minimum(width, height)
    return (shorter > MIN_SIDE) & (width * height > min_area * areas_before) & (longer < MAX_ASPECT * shorter)


def keep_visible(parts: Sequence[Labels], *, with_polygons: bool) -> tuple[np.ndarray, np.ndarray, Polygons | None]:
    """Boxes (n, 4) float32, classes (n,) int64 and polygons of the objects that are sufficiently visible."""
    boxes = np.concatenate([np.zeros((0, 4)), *(part.boxes_xyxy for part in parts)])
    areas = np.concatenate([np.zeros(0), *(part.areas for part in parts)])
    classes = np.concatenate([np.zeros(0, np.int64), *(part.classes for part in parts)])
    keep = find_visible(areas, boxes, MIN_AREA_POLYGONS if with_polygons else MIN_AREA_BOXES)
    polygons = None
    if with_polygons:
        rings = [rings for part in parts for rings in part.polygons or []]
        polygons = [rings[k] for k in np.flatnonzero(keep)]
    return boxes[keep].astype(np.float32), classes[keep], polygons
