"""Draw boxes, masks and labels on images, legible at any image size and in any script."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike

from utils.imaging.colors import class_color
from utils.imaging.text import text_mask
from utils.ops.masks import ObjectMasks

Color = tuple[int, int, int]  # blue, green, red, 0-255
Rect = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
MIN_TEXT, MAX_TEXT = 9, 160  # pixels
MASK_ALPHA = 0.45  # opacity of the mask color


def class_color_bgr(i: int) -> Color:
    """BGR color of class `i`."""
    red, green, blue = class_color(i)
    return blue, green, red


def text_color(background: Color) -> Color:
    """Black or white, whichever reads better on `background` (luma of ITU-R BT.601)."""
    blue, green, red = background
    return BLACK if 0.114 * blue + 0.587 * green + 0.299 * red > 140 else WHITE


def text_height(size_hw: tuple[int, int]) -> int:
    """Height of label text in pixels for an image of this size: 1/40 of its mean side, within readable limits."""
    return int(np.clip(round(sum(size_hw) / 80), MIN_TEXT, MAX_TEXT))


def to_bgr(frame: np.ndarray) -> np.ndarray:
    """Convert (H, W) or (H, W, C) uint8 to a (H, W, 3) uint8 image to draw on, always a contiguous copy.

    One or two channels become gray; of more than three, the first three are used.
    """
    frame = frame[..., None] if frame.ndim == 2 else frame
    channels = frame[..., :3] if frame.shape[2] >= 3 else np.repeat(frame[..., :1], 3, axis=2)
    return np.array(channels, dtype=np.uint8, order="C")


def draw_boxes(
    frame_bgr: np.ndarray,
    boxes_xyxy: ArrayLike,
    labels: Sequence[str],
    colors: Sequence[Color],
    *,
    line_thickness: int | None = None,
    max_side: int | None = None,
    avoid: Sequence[Rect] = (),
) -> np.ndarray:
    """Draw boxes and their labels on the image, in place.

    Labels stay inside the image, next to their boxes, and do not cover earlier labels if there is room.

    Args:
        frame_bgr: (H, W, 3) uint8, writable and contiguous, for example from `to_bgr`.
        boxes_xyxy: (N, 4) in pixels of the image, to which they are clipped.
        labels: N texts; empty for a box without a label.
        colors: N BGR colors, for example from `class_color_bgr`.
        line_thickness: in pixels; by default proportional to the image size.
        max_side: draw lines and text as on an image of at most this side, for small objects of a large one.
        avoid: rectangles that labels should not cover if there is room elsewhere.

    Returns:
        `frame_bgr` itself.
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    height, width = frame_bgr.shape[:2]
    scale_hw = (height, width) if max_side is None else (min(height, max_side), min(width, max_side))
    thickness = max(1, line_thickness or round(sum(scale_hw) / 600))
    corners = np.rint(np.clip(boxes, 0, [width - 1, height - 1] * 2)).astype(int).tolist()
    for (x1, y1, x2, y2), color in zip(corners, colors, strict=True):
        cv2.rectangle(frame_bgr, (x1, y1), (x2, y2), color, thickness)
    occupied = list(avoid)
    for box, label, color in zip(corners, labels, colors, strict=True):
        if label and (plate := _plate(label, scale_hw)).size:
            place = _find_place(box, plate.shape, (height, width), thickness, occupied)
            occupied.append(place)
            _draw_plate(frame_bgr, plate, place, color)
    return frame_bgr


def draw_masks(
    frame_bgr: np.ndarray, masks: ObjectMasks, colors: Sequence[Color], *, line_thickness: int | None = None
) -> np.ndarray:
    """Blend masks into the image and draw their outlines, in place, small objects over large ones.

    Args:
        frame_bgr: (H, W, 3) uint8, writable and contiguous.
        masks: N masks of the image's size.
        colors: N BGR colors.
        line_thickness: of the outlines in pixels; by default half of that of boxes, 0 for none.

    Returns:
        `frame_bgr` itself.
    """
    thickness = max(1, sum(frame_bgr.shape[:2]) // 1200) if line_thickness is None else line_thickness
    objects = list(masks)
    for number in np.argsort(-masks.areas, kind="stable"):
        (place, bitmap), color = objects[number], colors[number]
        region = np.ascontiguousarray(frame_bgr[place])
        if not region.size:
            continue
        mask = np.ascontiguousarray(bitmap).view(np.uint8)
        tint = np.full_like(region, color)
        cv2.copyTo(cv2.addWeighted(region, 1 - MASK_ALPHA, tint, MASK_ALPHA, 0), mask, region)
        if thickness:
            contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
            cv2.drawContours(region, contours, -1, color, thickness)
        frame_bgr[place] = region
    return frame_bgr


def draw_text(frame_bgr: np.ndarray, text: str, top_left_xy: tuple[int, int], height: int, color: Color) -> Rect:
    """Draw text on a background of `color`, in place; return the rectangle of the background.

    Parts outside the image are not drawn.
    """
    plate = np.pad(text_mask(text, height), _margin(height))
    x, y = top_left_xy
    place = (x, y, x + plate.shape[1], y + plate.shape[0])
    _draw_plate(frame_bgr, plate, place, color)
    return place


def _margin(height: int) -> int:
    return max(1, height // 6)


def _plate(label: str, size_hw: tuple[int, int]) -> np.ndarray:
    """Text mask of a label with a margin, in smaller text if it would be wider than the image."""
    height = text_height(size_hw)
    mask = text_mask(label, height)
    room = size_hw[1] - 2 * _margin(height)
    if mask.shape[1] > room:
        height = max(MIN_TEXT - 2, height * room // mask.shape[1])
        mask = text_mask(label, height)
    return np.pad(mask, _margin(height)) if mask.size else mask


def _find_place(
    box: Rect, plate_hw: tuple[int, ...], size_hw: tuple[int, int], thickness: int, occupied: list[Rect]
) -> Rect:
    """Rectangle for the label of a box: the first free place of above, inside the top, below, inside the bottom.

    If no place is free, the first one inside the image.
    """
    (plate_h, plate_w), (height, width) = plate_hw, size_hw
    x1, y1, x2, y2 = box
    edge = thickness // 2
    tops = (y1 + edge - plate_h, y1 - edge, y2 - edge, y2 + edge + 1 - plate_h)
    tops_inside = [top for top in tops if 0 <= top <= height - plate_h] or [max(0, min(y1, height - plate_h))]
    lefts = [max(0, min(left, width - plate_w)) for left in (x1 - edge, x2 + edge + 1 - plate_w)]
    places = [(left, top, left + plate_w, top + plate_h) for top in tops_inside for left in lefts]
    free = (place for place in places if not any(_overlap(place, other) for other in occupied))
    return next(free, places[0])


def _overlap(a: Rect, b: Rect) -> bool:
    return a[0] < b[2] and a[2] > b[0] and a[1] < b[3] and a[3] > b[1]


def _draw_plate(frame_bgr: np.ndarray, plate: np.ndarray, place: Rect, color: Color) -> None:
    """Fill the rectangle `place` with `color` and draw the text mask `plate` on it."""
    x1, y1 = max(0, place[0]), max(0, place[1])
    region = frame_bgr[y1 : place[3], x1 : place[2]]
    if not region.size:
        return
    coverage = plate[y1 - place[1] :, x1 - place[0] :][: region.shape[0], : region.shape[1]]
    region[:] = _color_ramp(color)[coverage]


@lru_cache(maxsize=1024)
def _color_ramp(color: Color) -> np.ndarray:
    """(256, 3) uint8 colors from `color` to its text color, by coverage."""
    coverage = np.linspace(0, 1, 256)[:, None]
    return np.rint((1 - coverage) * np.array(color) + coverage * np.array(text_color(color))).astype(np.uint8)
