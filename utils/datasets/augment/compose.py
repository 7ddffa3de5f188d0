"""Draw images straight into a training sample: placement on a canvas and the transform after it in one step.

A mosaic is a plan (which image goes where on a canvas) followed by a random transform of that canvas. The transform
is known before any pixel is touched, so the canvas is never made: each visible image is cropped and resized, or
warped where the transform turns it, into its place in the output. Images outside the view are not even read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from utils.core.types import Polygons, Sample
from utils.imaging.letterbox import GRAY
from utils.ops.polygons import clip_rings, extents, transform_points

IGNORE = 255  # semantic mask value of pixels that no image covers
MIN_DEPTH = 0.1  # perspective: points nearer to the camera plane than this are cut off
MIN_SIDE, MAX_ASPECT = 2.0, 100.0  # a kept box is wider and higher than two pixels and not thinner than 1:100
MIN_AREA_BOXES, MIN_AREA_POLYGONS = 0.10, 0.01  # part of its area that a kept object still shows


Recolor = Callable[[np.ndarray, np.ndarray], None]  # from (H, W, 3) into (H, W, 3), which may be the same


@dataclass(frozen=True)
class Image:
    """An image and its labels in units of its own width and height, read when it turns out to be visible.

    Attributes:
        size_hw: nominal size on the canvas, pixels.
        read: called with the wanted longer side in pixels; gives (H, W, C) uint8 of about that size or larger.
        classes: (n,) class of each object.
        boxes_xyxyn: (n, 4) corners over width and height.
        polygons: rings of each object over width and height, or None.
        read_map: gives the (H, W) uint8 semantic mask, or None where there is none.
        path: its file.
    """

    size_hw: tuple[int, int]
    read: Callable[[int], np.ndarray]
    classes: np.ndarray
    boxes_xyxyn: np.ndarray
    polygons: Polygons | None = None
    read_map: Callable[[], np.ndarray] | None = None
    path: str = ""


@dataclass(frozen=True)
class Placement:
    """Where an image, or one object cut out of it, lies on the canvas.

    Attributes:
        image: what is placed.
        to_canvas: (3, 3) from the image's normalized coordinates to canvas pixels.
        region_xyxyn: visible part of the image, normalized; the rest lies outside its place on the canvas.
        crop: rings (normalized) outside of which nothing is drawn, or None for the whole region.
        objects: positions of the labels that come along; None for all.
    """

    image: Image
    to_canvas: np.ndarray
    region_xyxyn: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    crop: list[np.ndarray] | None = None
    objects: np.ndarray | None = None


@dataclass(frozen=True)
class Drawn:
    """How a placement came out.

    Attributes:
        matrix: (3, 3) from the image's normalized coordinates to output pixels, as really drawn.
        box_xyxy: whole pixels of the output that were written.
        mask: which of them, (h, w) uint8 of 0 and 255, or None for all.
    """

    matrix: np.ndarray
    box_xyxy: tuple[int, int, int, int]
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Labels:
    """Objects in pixels of the output, cut at its edges but not yet sorted out.

    Attributes:
        boxes_xyxy: (n, 4) what is left of each.
        areas: (n,) what its whole box would cover, pixels.
        classes: (n,).
        polygons: rings of each, or None.
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
    """The sample that a canvas with these placements gives under a transform.

    Args:
        placements: at least one, drawn in this order.
        to_output: (3, 3) from canvas pixels to output pixels.
        out_hw: size of the sample's image.
        channels: of the image.
        recolor: change of colors of the whole image, done where it touches fewest pixels.

    Returns:
        Sample on a border of 114 (semantic mask: 255) with the labels that remain visible, all inside the image.
    """
    image = np.full((*out_hw, channels), border_value(recolor), np.uint8)
    first = placements[0].image
    semantic_mask = None if first.read_map is None else np.full(out_hw, IGNORE, np.uint8)
    labels = []
    for placement in placements:
        matrix = to_output @ placement.to_canvas
        upright = placement.crop is None and is_upright(matrix)
        drawn = (draw_upright if upright else draw_warped)(image, placement, matrix, recolor)
        if drawn is None:
            continue
        if semantic_mask is not None and placement.image.read_map is not None:
            draw_map(semantic_mask, placement.image.read_map(), drawn)
        labels.append(move_labels(placement, drawn.matrix, out_hw))
    boxes, classes, polygons = keep_visible(labels, with_polygons=first.polygons is not None)
    return Sample(image, boxes, classes, polygons, semantic_mask, first.path)


def border_value(recolor: Recolor | None) -> int:
    """What the border of a sample is filled with, in every channel: gray, and recoloring leaves gray gray."""
    pixel = np.full((1, 1, 3), GRAY, np.uint8)
    if recolor is not None:
        recolor(pixel, pixel)
    return int(pixel[0, 0, 0])


def is_upright(matrix: np.ndarray) -> bool:
    """Whether a transform only shifts and enlarges: no rotation, shear, mirror or perspective."""
    (x_by_x, x_by_y, _), (y_by_x, y_by_y, _), (tilt_x, tilt_y, _) = matrix.tolist()
    return abs(x_by_y) + abs(y_by_x) + abs(tilt_x) + abs(tilt_y) < 1e-9 and x_by_x > 0 and y_by_y > 0


def draw_upright(image: np.ndarray, placement: Placement, matrix: np.ndarray, recolor: Recolor | None) -> Drawn | None:
    """Crop and resize the visible part of an image into its place; None if nothing is visible.

    Both rectangles lie on whole pixels; the transform between them is returned, so that labels fit what was drawn.
    """
    (width, _, left), (_, height, top), _ = matrix.tolist()
    u1, v1, u2, v2 = placement.region_xyxyn
    x1, x2 = visible_span(left + u1 * width, left + u2 * width, image.shape[1])
    y1, y2 = visible_span(top + v1 * height, top + v2 * height, image.shape[0])
    if x1 >= x2 or y1 >= y2:
        return None
    frame = placement.image.read(math.ceil(max(width, height)))
    rows, columns = frame.shape[:2]
    from_x, to_x = source_span((x1 - left) / width, (x2 - left) / width, columns)
    from_y, to_y = source_span((y1 - top) / height, (y2 - top) / height, rows)
    paint(image[y1:y2, x1:x2], frame[from_y:to_y, from_x:to_x], recolor)
    gain_x, gain_y = (x2 - x1) / (to_x - from_x), (y2 - y1) / (to_y - from_y)  # output pixels per source pixel
    as_drawn = [[gain_x * columns, 0.0, x1 - from_x * gain_x], [0.0, gain_y * rows, y1 - from_y * gain_y], [0, 0, 1]]
    return Drawn(np.array(as_drawn), (x1, y1, x2, y2))


def paint(target: np.ndarray, source: np.ndarray, recolor: Recolor | None) -> None:
    """Resize an image into a view, recolored before or after, whichever is less work."""
    enlarges = target.size > source.size
    if recolor is not None and enlarges:
        recolored = np.empty(source.shape, np.uint8)
        recolor(source, recolored)
        source = recolored
    halves = target.shape[1] * 2 < source.shape[1]
    size_wh = (target.shape[1], target.shape[0])
    cv2.resize(source, size_wh, dst=target, interpolation=cv2.INTER_AREA if halves else cv2.INTER_LINEAR)
    if recolor is not None and not enlarges:
        recolor(target, target)


def visible_span(start: float, stop: float, side: int) -> tuple[int, int]:
    """The whole pixels of an output of that `side` that lie between two edges."""
    return max(0, round(start)), min(side, round(stop))


def source_span(start: float, stop: float, side: int) -> tuple[int, int]:
    """The whole pixels of an image of that `side` between two normalized coordinates, one at least."""
    first = min(max(0, round(start * side)), side - 1)
    return first, max(first + 1, min(side, round(stop * side)))


def draw_warped(image: np.ndarray, placement: Placement, matrix: np.ndarray, recolor: Recolor | None) -> Drawn | None:
    """Warp an image into the rectangle around its visible part; None if nothing is visible."""
    size_hw = (image.shape[0], image.shape[1])
    outlines = visible_outlines(placement, matrix, size_hw)
    if not outlines:
        return None
    points = np.concatenate(outlines)
    x1, y1 = np.floor(points.min(axis=0)).astype(int).tolist()
    x2, y2 = np.ceil(points.max(axis=0)).astype(int).tolist()
    if x1 >= x2 or y1 >= y2:
        return None
    frame = placement.image.read(wanted_side(matrix, size_hw))
    to_box = matrix @ np.diag([1 / frame.shape[1], 1 / frame.shape[0], 1.0])
    to_box = shift(-x1, -y1) @ to_box
    mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
    # Pixel k covers k..k+1, OpenCV draws at pixel centers: hence the half; 1/16 pixel is its finest useful grid here.
    contours = [np.rint((ring - (x1 + 0.5, y1 + 0.5)) * 16).astype(np.int32) for ring in outlines]
    cv2.fillPoly(mask, contours, 255, shift=4)
    warped = warp(frame, to_box, (y2 - y1, x2 - x1), cv2.INTER_LINEAR)
    if recolor is not None:
        recolor(warped, warped)
    target = image[y1:y2, x1:x2]
    np.copyto(target, warped, where=mask[..., None] > 0)
    return Drawn(matrix, (x1, y1, x2, y2), mask)


def visible_outlines(placement: Placement, matrix: np.ndarray, size_hw: tuple[int, int]) -> list[np.ndarray]:
    """Rings of what a placement shows, in output pixels, cut at the output's edges."""
    u1, v1, u2, v2 = placement.region_xyxyn
    whole = [np.array([[u1, v1], [u2, v1], [u2, v2], [u1, v2]])]
    rings = whole if placement.crop is None else clip_rings(placement.crop, placement.region_xyxyn)
    projected = [transform_points(ring, matrix, MIN_DEPTH) for ring in rings]
    return clip_rings(projected, (0.0, 0.0, size_hw[1], size_hw[0]))


def wanted_side(matrix: np.ndarray, size_hw: tuple[int, int]) -> int:
    """Longer side in pixels at which an image under a transform loses no detail (perspective: as large as can be)."""
    if np.abs(matrix[2, :2]).sum() > 1e-12:
        return 4 * max(size_hw)
    return int(np.ceil(np.linalg.norm(matrix[:2, :2], axis=0).max()))


def shift(x: float, y: float) -> np.ndarray:
    """(3, 3) translation."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def warp(frame: np.ndarray, matrix: np.ndarray, size_hw: tuple[int, int], interpolation: int) -> np.ndarray:
    """The image under a transform given for pixel edges (0 is the left edge of the first pixel); edges repeat."""
    at_centers = shift(-0.5, -0.5) @ matrix @ shift(0.5, 0.5)
    size_wh = (size_hw[1], size_hw[0])
    if np.abs(matrix[2, :2]).sum() > 1e-12:
        out = cv2.warpPerspective(frame, at_centers, size_wh, flags=interpolation, borderMode=cv2.BORDER_REPLICATE)
    else:
        affine = at_centers[:2] / at_centers[2, 2]
        out = cv2.warpAffine(frame, affine, size_wh, flags=interpolation, borderMode=cv2.BORDER_REPLICATE)
    return out.reshape(*size_hw, *frame.shape[2:])


def draw_map(semantic_mask: np.ndarray, source: np.ndarray, drawn: Drawn) -> None:
    """Move an image's semantic mask as its pixels were moved; classes are picked, never mixed."""
    x1, y1, x2, y2 = drawn.box_xyxy
    to_box = shift(-x1, -y1) @ drawn.matrix @ np.diag([1 / source.shape[1], 1 / source.shape[0], 1.0])
    if drawn.mask is not None:
        warped = warp(source, to_box, (y2 - y1, x2 - x1), cv2.INTER_NEAREST)
        np.copyto(semantic_mask[y1:y2, x1:x2], warped, where=drawn.mask > 0)
        return
    columns = (np.arange(x2 - x1) + 0.5 - to_box[0, 2]) / to_box[0, 0]
    rows = (np.arange(y2 - y1) + 0.5 - to_box[1, 2]) / to_box[1, 1]
    columns = np.clip(columns.astype(int), 0, source.shape[1] - 1)
    rows = np.clip(rows.astype(int), 0, source.shape[0] - 1)
    semantic_mask[y1:y2, x1:x2] = source[rows][:, columns]  # whole rows first: a quarter of the time of picking pixels


def move_labels(placement: Placement, matrix: np.ndarray, size_hw: tuple[int, int]) -> Labels:
    """The placement's objects under the transform as drawn, cut at its region and the output."""
    image = placement.image
    classes, boxes = image.classes, image.boxes_xyxyn
    if placement.objects is not None:
        classes, boxes = classes[placement.objects], boxes[placement.objects]
    whole, boxes = boxes, clip_boxes(boxes, placement.region_xyxyn)
    areas = box_areas(boxes) * abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])
    frame = (0.0, 0.0, float(size_hw[1]), float(size_hw[0]))
    hull = hulls(boxes, matrix)
    in_frame = clip_boxes(hull, frame)
    if image.polygons is None:
        return Labels(in_frame, areas, classes, None)
    chosen = range(len(image.classes)) if placement.objects is None else placement.objects.tolist()
    uncut = (whole == boxes).all(axis=1) & (hull == in_frame).all(axis=1) & (box_areas(hull) > 0)
    flat = not matrix[2, 0] and not matrix[2, 1]  # else an object with a corner behind the camera has no hull
    gone = (box_areas(boxes) <= 0) | (flat & (box_areas(in_frame) <= 0))
    polygons: list[list[np.ndarray]] = []
    for k, is_whole, is_gone in zip(chosen, uncut.tolist(), gone.tolist(), strict=True):
        if is_gone:
            polygons.append([])
            continue
        rings = image.polygons[k] if is_whole else clip_rings(image.polygons[k], placement.region_xyxyn)
        projected = [transform_points(ring, matrix, MIN_DEPTH) for ring in rings if len(ring) > 2]
        polygons.append(projected if is_whole else clip_rings(projected, frame))
    moved = np.array([extents(rings) for rings in polygons], np.float64).reshape(-1, 4)
    return Labels(moved, areas, classes, polygons)


def clip_boxes(boxes_xyxy: np.ndarray, frame_xyxy: Sequence[float]) -> np.ndarray:
    """(n, 4) boxes cut at a rectangle, float64; those outside come out with no area."""
    x1, y1, x2, y2 = frame_xyxy
    return np.minimum(np.maximum(boxes_xyxy, np.array([x1, y1, x1, y1])), np.array([x2, y2, x2, y2]))


def box_areas(boxes_xyxy: np.ndarray) -> np.ndarray:
    """(n,) width times height."""
    return (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])


def hulls(boxes_xyxy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(n, 4) upright boxes around transformed boxes; of no area where a corner lies behind the camera plane."""
    if is_upright(matrix):
        (width, _, left), (_, height, top), _ = matrix.tolist()
        return boxes_xyxy * np.array([width, height, width, height]) + np.array([left, top, left, top])
    corners = boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    homogeneous = np.concatenate([corners, np.ones((len(corners), 1))], axis=1) @ matrix.T
    depth = homogeneous[:, 2].reshape(-1, 4)
    points = homogeneous[:, :2].reshape(-1, 4, 2) / np.maximum(depth, MIN_DEPTH)[..., None]
    moved = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    moved[depth.min(axis=1) < MIN_DEPTH] = 0
    return moved


def still_visible(areas_before: np.ndarray, boxes_xyxy: np.ndarray, min_area: float) -> np.ndarray:
    """(n,) bool: enough of the object is left, and not as a hair line.

    Args:
        areas_before: (n,) what the whole box would cover in the output, pixels.
        boxes_xyxy: (n, 4) what it does cover.
        min_area: least ratio of the two.
    """
    width, height = boxes_xyxy[:, 2] - boxes_xyxy[:, 0], boxes_xyxy[:, 3] - boxes_xyxy[:, 1]
    longer, shorter = np.maximum(width, height), np.minimum(width, height)
    return (shorter > MIN_SIDE) & (width * height > min_area * areas_before) & (longer < MAX_ASPECT * shorter)


def keep_visible(parts: Sequence[Labels], *, with_polygons: bool) -> tuple[np.ndarray, np.ndarray, Polygons | None]:
    """Boxes (n, 4) float32, classes (n,) int64 and polygons of those objects that still show enough."""
    boxes = np.concatenate([np.zeros((0, 4)), *(part.boxes_xyxy for part in parts)])
    areas = np.concatenate([np.zeros(0), *(part.areas for part in parts)])
    classes = np.concatenate([np.zeros(0, np.int64), *(part.classes for part in parts)])
    keep = still_visible(areas, boxes, MIN_AREA_POLYGONS if with_polygons else MIN_AREA_BOXES)
    polygons = None
    if with_polygons:
        rings = [rings for part in parts for rings in part.polygons or []]
        polygons = [rings[k] for k in np.flatnonzero(keep)]
    return boxes[keep].astype(np.float32), classes[keep], polygons
