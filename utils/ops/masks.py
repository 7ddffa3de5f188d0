"""Instance masks: rasterize polygons and trace bitmaps.

Each bitmap covers only the object's window, so work and memory grow with the objects, not with frame size times their
number. Pixel k of an axis covers k to k + 1; corners are floored and outlines belong to the object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike

from utils.core.types import Letterbox, Polygons
from utils.ops.rle import encode_rle


@dataclass(frozen=True)
class ObjectMasks:
    """Bitmaps of n objects in one frame.

    Attributes:
        size_hw: frame size.
        windows_xyxy: (n, 4) int64, the part of the frame that each bitmap covers; it contains the whole object.
        bitmaps: n arrays (h, w) bool, one per window.
    """

    size_hw: tuple[int, int]
    windows_xyxy: np.ndarray
    bitmaps: list[np.ndarray]

    @classmethod
    def from_dense(cls, masks: np.ndarray) -> ObjectMasks:
        """From masks (n, H, W) bool of the whole frame, each cropped to its object."""
        windows, bitmaps = np.zeros((len(masks), 4), np.int64), []
        for window, mask in zip(windows, masks, strict=True):
            (x, y), (w, h) = np.split(np.array(cv2.boundingRect(mask.view(np.uint8))), 2)
            window[:] = x, y, x + w, y + h
            bitmaps.append(mask[y : y + h, x : x + w])
        return cls((masks.shape[1], masks.shape[2]), windows, bitmaps)

    def __len__(self) -> int:
        return len(self.bitmaps)

    def __iter__(self) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
        """Rows and columns in the frame, and the bitmap, of each object."""
        for (x1, y1, x2, y2), bitmap in zip(self.windows_xyxy.tolist(), self.bitmaps, strict=True):
            yield (slice(y1, y2), slice(x1, x2)), bitmap

    @property
    def areas(self) -> np.ndarray:
        """Areas (n,) in pixels."""
        return np.array([np.count_nonzero(bitmap) for bitmap in self.bitmaps], np.int64)

    def select(self, rows: ArrayLike) -> ObjectMasks:
        """The masks of some objects, selected by indices or a bool mask."""
        chosen = np.asarray(rows)
        indices = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        return replace(self, windows_xyxy=self.windows_xyxy[indices], bitmaps=[self.bitmaps[i] for i in indices])

    def dense(self) -> np.ndarray:
        """Masks (n, H, W) bool of the whole frame."""
        masks = np.zeros((len(self), *self.size_hw), bool)
        for mask, (window, bitmap) in zip(masks, self, strict=True):
            mask[window] = bitmap
        return masks

    def opacity(self, number: int, region_xyxy: Sequence[int]) -> np.ndarray:
        """Alpha channel (h, w) uint8 of a region of the frame: 255 where object `number` is, else 0."""
        x1, y1, x2, y2 = region_xyxy
        left, top, right, bottom = self.windows_xyxy[number].tolist()
        alpha = np.zeros((y2 - y1, x2 - x1), np.uint8)
        near_x, near_y, far_x, far_y = max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)
        if near_x < far_x and near_y < far_y:
            part = self.bitmaps[number][near_y - top : far_y - top, near_x - left : far_x - left]
            alpha[near_y - y1 : far_y - y1, near_x - x1 : far_x - x1] = part * np.uint8(255)
        return alpha

    def index_map(self) -> np.ndarray:
        """Index (H, W) int16 + 1 of the object at each pixel, small objects over large ones; 0 for none."""
        index_map = np.zeros(self.size_hw, np.int16)
        objects = list(self)
        for number in np.argsort(-self.areas, kind="stable"):
            window, bitmap = objects[number]
            index_map[window][bitmap] = number + 1
        return index_map

    def rles(self) -> list[dict[str, Any]]:
        """COCO run-length encoding of each mask."""
        corners = self.windows_xyxy[:, :2].tolist()
        return [encode_rle(b, (x, y), self.size_hw) for (x, y), b in zip(corners, self.bitmaps, strict=True)]

    def polygons(self) -> Polygons:
        """Rings of each object in pixels of the frame (see `trace_rings`)."""
        corners = self.windows_xyxy[:, :2].astype(np.float32)
        return [[ring + xy for ring in trace_rings(b)] for xy, b in zip(corners, self.bitmaps, strict=True)]

    def outlines(self) -> list[np.ndarray]:
        """Largest outer ring (K, 2) of each object; the corners of its window if there is none."""
        corners = self.windows_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).astype(np.float32)
        return [max(rings, key=ring_area, default=box) for rings, box in zip(self.polygons(), corners, strict=True)]

    def resize(self, size_hw: tuple[int, int]) -> ObjectMasks:
        """The masks in the frame scaled to another size."""
        gain_wh = (self.size_hw[1] / size_hw[1], self.size_hw[0] / size_hw[0])
        return self.to_original(Letterbox(size_hw, gain_wh))

    def to_input(self) -> ObjectMasks:
        """The masks themselves, if they are in pixels of the network input already."""
        return self

    def to_original(self, fit: Letterbox) -> ObjectMasks:
        """Convert masks of the network input to the original image (nearest neighbor)."""
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
    """Area of a ring by the shoelace formula, negative for the opposite direction."""
    x, y = np.asarray(ring, np.float64).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def ring_area(ring: np.ndarray) -> float:
    """Absolute area of a ring."""
    return abs(signed_area(ring))


def fill_rings(canvas: np.ndarray, rings: Sequence[np.ndarray]) -> None:
    """Draw an object of one or several rings as 1 into (H, W) uint8, in place.

    Rings in the direction of the largest are parts, those in the other direction holes; smaller rings are drawn over
    larger ones, so holes may contain parts. Flips do not matter, as directions are compared within the object.
    """
    if len(rings) > 1:
        rings = sorted(rings, key=ring_area, reverse=True)
    is_part = [signed_area(ring) >= 0 for ring in rings] if len(rings) > 1 else [True]
    for ring, sign in zip(rings, is_part, strict=True) if rings else ():
        cv2.fillPoly(canvas, [np.floor(ring).astype(np.int32)], int(sign == is_part[0]))


def rasterize(polygons: Polygons, size_hw: tuple[int, int], ratio: int = 1) -> ObjectMasks:
    """Rasterize polygons at 1/`ratio` of the frame: filled at full size, then resized bilinearly.

    Args:
        polygons: rings of each object, in pixels, inside the frame.
        size_hw: frame size; the masks have (h // ratio, w // ratio).
    """
    height, width = size_hw
    small_hw = (height // ratio, width // ratio)
    divides = height % ratio == 0 and width % ratio == 0
    windows, bitmaps = np.zeros((len(polygons), 4), np.int64), []
    for number, rings in enumerate(polygons):
        window = _get_window(rings, size_hw, ratio) if divides else (0, 0, *small_hw[::-1])
        bitmaps.append(_draw_window(rings, window, size_hw, ratio if divides else None))
        windows[number] = window
    return ObjectMasks(small_hw, windows, bitmaps)


def _get_window(rings: Sequence[np.ndarray], size_hw: tuple[int, int], ratio: int) -> tuple[int, int, int, int]:
    """Window of the cells of `ratio` pixels that the rings touch; empty without rings."""
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
    """Bitmap (h, w) bool of a window of the reduced frame; with `ratio` None the whole frame is resized."""
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


def trace_rings(bitmap: np.ndarray) -> list[np.ndarray]:
    """Trace a bitmap: rings (K, 2) float32 through the centers of its border pixels, corners only.

    Parts and holes have opposite directions, so `fill_rings` restores the bitmap. Parts of one pixel, or one pixel
    wide, have no area and are omitted.
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
        remaining, sign = np.where(remaining > 0, 0, filled), -sign  # holes, then parts inside them, ...
    return rings
