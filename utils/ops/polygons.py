"""Polygons as lists of rings: transform, cut at a rectangle, extents. A ring is (K, 2) x, y and closes by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def transform_points(points: np.ndarray, matrix: np.ndarray, min_depth: float = 0.0) -> np.ndarray:
    """A ring under a (3, 3) transform; with perspective, what is nearer than `min_depth` is cut off first.

    Straight lines stay straight, so moving the corners moves the outline exactly.
    """
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ matrix.T
    if matrix[2, 0] or matrix[2, 1]:
        homogeneous = _cut(homogeneous, homogeneous[:, 2] - min_depth)
    return homogeneous[:, :2] / homogeneous[:, 2:]


def clip_rings(rings: Sequence[np.ndarray], frame_xyxy: Sequence[float]) -> list[np.ndarray]:
    """Rings cut at a rectangle (Sutherland and Hodgman 1974); those that lie outside are left out.

    Args:
        rings: each (K, 2).
        frame_xyxy: the rectangle, in the rings' units.
    """
    low, high = np.array(frame_xyxy[:2]), np.array(frame_xyxy[2:])
    clipped = []
    for ring in rings:
        if len(ring) == 0:
            continue
        below, above = ring.min(axis=0) < low, ring.max(axis=0) > high
        for axis in (0, 1):
            if below[axis]:
                ring = _cut(ring, ring[:, axis] - low[axis])
            if above[axis]:
                ring = _cut(ring, high[axis] - ring[:, axis])
        if len(ring) >= 3:
            was_cut = below.any() or above.any()
            clipped.append(np.minimum(np.maximum(ring, low), high) if was_cut else ring)  # crossings are rounded
    return clipped


def _cut(ring: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The part of a ring where `inside`, the signed distance of each corner to a line, is not negative."""
    follower = np.arange(1, len(ring) + 1)
    follower[-1:] = 0
    kept = inside >= 0
    crosses = kept != kept[follower]
    start, end = np.flatnonzero(crosses), follower[crosses]
    share = inside[start] / (inside[start] - inside[end])
    places = np.cumsum(kept) + np.cumsum(crosses)  # a crossing comes after the corner whose edge it lies on
    result = np.empty((int(places[-1]) if len(places) else 0, ring.shape[1]), ring.dtype)
    result[places[start] - 1] = ring[start] + share[:, None] * (ring[end] - ring[start])
    result[(places - crosses - 1)[kept]] = ring[kept]
    return result


def join_rings(rings: Sequence[np.ndarray]) -> np.ndarray:
    """(K, 2) one outline of all rings, joined by lines there and back where they are nearest to another.

    Such a line has no area, so what an even-odd or a non-zero filler covers stays the same.
    """
    joined, *others = sorted(rings, key=len, reverse=True)
    for ring in others:
        gaps = np.square(joined[:, None] - ring[None]).sum(axis=2)
        leave, arrive = np.unravel_index(gaps.argmin(), gaps.shape)
        around = np.roll(ring, -int(arrive), axis=0)
        joined = np.concatenate([joined[: leave + 1], around, around[:1], joined[leave:]])
    return joined


def extents(rings: Sequence[np.ndarray]) -> tuple[float, float, float, float]:
    """The upright box x1, y1, x2, y2 around all rings; zeros for none. A ring on x = 0 counts like any other."""
    if not rings:
        return 0.0, 0.0, 0.0, 0.0
    points = np.concatenate(rings)
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x1, y1, x2, y2
