"""Geometry of instance masks: polygons to bitmaps and back.

A bitmap is kept inside a rectangle of its own, so that work and memory grow with the objects and not with the frame
times their number. Pixel k of an axis covers k to k + 1; corners are floored onto it and outlines belong to the object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from utils.core.types import Letterbox, Polygons
from utils.ops.rle import encode_rle


@dataclass(frozen=True)
class ObjectMasks:
    """Bitmaps of n objects in one frame.

    Attributes:
        size_hw: of the frame.
        windows_xyxy: (n, 4) int64, the part of the frame that each bitmap covers; nothing of the object lies outside.
        bitmaps: n arrays (h, w) bool, one for each window.
    """

    size_hw: tuple[int, int]
    windows_xyxy: np.ndarray
    bitmaps: list[np.ndarray]

    @classmethod
    def from_dense(cls, masks: np.ndarray) -> ObjectMasks:
        """Bitmaps of whole masks (n, H, W) bool, each cut to its object."""
        windows, bitmaps = np.zeros((len(masks), 4), np.int64), []
        for window, mask in zip(windows, masks, strict=True):
            (x, y), (w, h) = np.split(np.array(cv2.boundingRect(mask.view(np.uint8))), 2)
            window[:] = x, y, x + w, y + h
            bitmaps.append(mask[y : y + h, x : x + w])
        return cls((masks.shape[1], masks.shape[2]), windows, bitmaps)

    def __len__(self) -> int:
        return len(self.bitmaps)

    def __iter__(self) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
        """Rows and columns of the frame, and the bitmap that lies there, for each object."""
        for (x1, y1, x2, y2), bitmap in zip(self.windows_xyxy.tolist(), self.bitmaps, strict=True):
            yield (slice(y1, y2), slice(x1, x2)), bitmap

    @property
    def areas(self) -> np.ndarray:
        """(n,) pixels of each object."""
        return np.array([np.count_nonzero(bitmap) for bitmap in self.bitmaps], np.int64)

    def select(self, rows: Sequence[int] | np.ndarray) -> ObjectMasks:
        """The masks of some objects, in the given order."""
        chosen = np.asarray(rows, np.int64)
        return replace(self, windows_xyxy=self.windows_xyxy[chosen], bitmaps=[self.bitmaps[i] for i in chosen])

    def dense(self) -> np.ndarray:
        """(n, H, W) bool: every mask in the whole frame."""
        masks = np.zeros((len(self), *self.size_hw), bool)
        for mask, (place, bitmap) in zip(masks, self, strict=True):
            mask[place] = bitmap
        return masks

    def opacity(self, number: int, place_xyxy: Sequence[int]) -> np.ndarray:
        """(h, w) uint8 of a place in the frame: 255 where object `number` is, else 0."""
        x1, y1, x2, y2 = place_xyxy
        (left, top, right, bottom), alpha = self.windows_xyxy[number], np.zeros((y2 - y1, x2 - x1), np.uint8)
        start, end = np.maximum((x1, y1), (left, top)), np.minimum((x2, y2), (right, bottom))
        if (start < end).all():
            (x3, y3), (x4, y4) = start, end
            seen = self.bitmaps[number][y3 - top : y4 - top, x3 - left : x4 - left]
            alpha[y3 - y1 : y4 - y1, x3 - x1 : x4 - x1] = seen * np.uint8(255)
        return alpha

    def index_map(self) -> np.ndarray:
        """(H, W) int16: number of the object + 1 that shows at each pixel, small ones before large ones; 0 for none."""
        shown = np.zeros(self.size_hw, np.int16)
        objects = list(self)
        for number in np.argsort(-self.areas, kind="stable"):
            place, bitmap = objects[number]
            shown[place][bitmap] = number + 1
        return shown

    def rles(self) -> list[dict[str, Any]]:
        """COCO's run-length code of each mask."""
        corners = self.windows_xyxy[:, :2].tolist()
        return [encode_rle(b, (x, y), self.size_hw) for (x, y), b in zip(corners, self.bitmaps, strict=True)]

    def polygons(self) -> Polygons:
        """Rings of each object in pixels of the frame, as `bitmap_rings` gives them."""
        corners = self.windows_xyxy[:, :2].astype(np.float32)
        return [[ring + xy for ring in bitmap_rings(b)] for xy, b in zip(corners, self.bitmaps, strict=True)]

    def outlines(self) -> list[np.ndarray]:
        """(K, 2) the largest outer ring of each object; of an object without any, the corners of its window."""
        corners = self.windows_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).astype(np.float32)
        return [max(rings, key=ring_area, default=box) for rings, box in zip(self.polygons(), corners, strict=True)]

    def resized(self, size_hw: tuple[int, int]) -> ObjectMasks:
        """The masks in the frame enlarged or shrunk to another size."""
        gain_wh = (self.size_hw[1] / size_hw[1], self.size_hw[0] / size_hw[0])
        return self.in_original(Letterbox(size_hw, gain_wh))

    def in_original(self, fit: Letterbox) -> ObjectMasks:
        """Masks of the network input in the original image: each pixel has the value that lies under its center."""
        height, width = fit.original_hw
        (gain_x, gain_y), (pad_x, pad_y) = fit.ratio_wh, fit.pad_wh
        columns = np.clip(((np.arange(width) + 0.5) * gain_x + pad_x).astype(int), 0, self.size_hw[1] - 1)
        rows = np.clip(((np.arange(height) + 0.5) * gain_y + pad_y).astype(int), 0, self.size_hw[0] - 1)
        windows, bitmaps = np.zeros_like(self.windows_xyxy), []
        for number, ((x1, y1, x2, y2), bitmap) in enumerate(zip(self.windows_xyxy, self.bitmaps, strict=True)):
            left, right = np.searchsorted(columns, (x1, x2))
            top, bottom = np.searchsorted(rows, (y1, y2))
            windows[number] = left, top, right, bottom
            bitmaps.append(bitmap[rows[top:bottom, None] - y1, columns[left:right] - x1])
        return ObjectMasks(fit.original_hw, windows, bitmaps)


def signed_area(ring: np.ndarray) -> float:
    """Area of a ring (shoelace formula), negative where it runs the other way round."""
    x, y = np.asarray(ring, np.float64).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def ring_area(ring: np.ndarray) -> float:
    """Area of a ring, not negative."""
    return abs(signed_area(ring))


def fill_rings(canvas: np.ndarray, rings: Sequence[np.ndarray]) -> None:
    """Draw an object of one or several rings as 1 into (H, W) uint8.

    Rings that run as the largest does are parts, those that run the other way are holes; smaller ones lie above larger
    ones, so that there may be parts within holes. The direction survives flips, as it is compared within the object.
    """
    if len(rings) > 1:
        rings = sorted(rings, key=ring_area, reverse=True)
    is_part = [signed_area(ring) >= 0 for ring in rings] if len(rings) > 1 else [True]
    for ring, sign in zip(rings, is_part, strict=True) if rings else ():
        cv2.fillPoly(canvas, [np.floor(ring).astype(np.int32)], int(sign == is_part[0]))


def rasterize(polygons: Polygons, size_hw: tuple[int, int], ratio: int = 1) -> ObjectMasks:
    """Bitmaps of polygons at 1/`ratio` of the frame: filled at full size, then resized with bilinear weights.

    Args:
        polygons: rings of each object, in pixels of the frame, inside it.
        size_hw: of the frame; the masks are (h // ratio, w // ratio).
    """
    height, width = size_hw
    small_hw = (height // ratio, width // ratio)
    divides = height % ratio == 0 and width % ratio == 0
    windows, bitmaps = np.zeros((len(polygons), 4), np.int64), []
    for number, rings in enumerate(polygons):
        window = _window_of(rings, size_hw, ratio) if divides else (0, 0, *small_hw[::-1])
        bitmaps.append(_draw_window(rings, window, size_hw, ratio if divides else None))
        windows[number] = window
    return ObjectMasks(small_hw, windows, bitmaps)


def _window_of(rings: Sequence[np.ndarray], size_hw: tuple[int, int], ratio: int) -> tuple[int, int, int, int]:
    """The whole cells of `ratio` pixels that rings touch; no cell for no rings."""
    if not rings:
        return 0, 0, 0, 0
    points = np.concatenate(rings)
    limits = np.array([size_hw[1], size_hw[0]]) // ratio
    low = np.floor(points.min(axis=0)).astype(int) // ratio
    high = np.floor(points.max(axis=0)).astype(int) // ratio + 1
    (x1, y1), (x2, y2) = np.clip(low, 0, limits).tolist(), np.clip(high, 0, limits).tolist()
    return x1, y1, x2, y2


def _draw_window(
    rings: Sequence[np.ndarray], window: tuple[int, int, int, int], size_hw: tuple[int, int], ratio: int | None
) -> np.ndarray:
    """(h, w) bool: the window of the reduced frame; `ratio` None resizes the whole frame, which it does not divide."""
    x1, y1, x2, y2 = window
    if x1 >= x2 or y1 >= y2:
        return np.zeros((max(y2 - y1, 0), max(x2 - x1, 0)), bool)
    shape = ((y2 - y1) * ratio, (x2 - x1) * ratio) if ratio else size_hw
    canvas = np.zeros(shape, np.uint8)
    corner = np.array([x1, y1]) * (ratio or 0)
    fill_rings(canvas, [ring - corner for ring in rings])
    if ratio != 1:
        canvas = cv2.resize(canvas, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
    return canvas.view(bool) if canvas.max(initial=0) <= 1 else canvas > 0


def bitmap_rings(bitmap: np.ndarray) -> list[np.ndarray]:
    """Rings (K, 2) float32 of a bitmap through the centers of its outermost pixels, without points on straight lines.

    Parts run one way, holes the other (around the hole's own pixels), so that `fill_rings` gives the bitmap back.
    Parts of one pixel, or one pixel wide, have no area and are left out.
    """
    rings: list[np.ndarray] = []
    remaining: np.ndarray = np.ascontiguousarray(bitmap, np.uint8)
    sign = 1
    while remaining.any():
        contours, _ = cv2.findContours(remaining, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        filled = np.zeros_like(remaining)
        cv2.fillPoly(filled, contours, 1)
        for contour in contours:
            ring = contour.reshape(-1, 2).astype(np.float32) + 0.5
            if len(ring) > 2 and (area := signed_area(ring)):
                rings.append(ring if area * sign > 0 else ring[::-1])
        remaining, sign = np.where(remaining > 0, 0, filled), -sign  # holes, then the parts inside them, and so on
    return rings
