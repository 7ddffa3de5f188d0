"""Polygon operations: transform, clip, join, bounding box. A polygon is a list of closed rings (K, 2) x, y."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def transform_points(points: np.ndarray, matrix: np.ndarray, min_depth: float = 0.0) -> np.ndarray:
    """Transform a ring by a (3, 3) matrix; with perspective, parts nearer than `min_depth` are cut off first.

    Lines stay straight, so transforming the corners is exact.
    """
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ matrix.T
    if matrix[2, 0] or matrix[2, 1]:
        homogeneous = _cut(homogeneous, homogeneous[:, 2] - min_depth)
    return homogeneous[:, :2] / homogeneous[:, 2:]


def clip_rings(rings: Sequence[np.ndarray], frame_xyxy: Sequence[float]) -> list[np.ndarray]:
    """Clip rings to a rectangle (Sutherland and Hodgman 1974); drop those outside.

    Args:
        rings: each (K, 2).
        frame_xyxy: the rectangle, in the units of the rings.
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
            is_cut = below.any() or above.any()
            clipped.append(np.minimum(np.maximum(ring, low), high) if is_cut else ring)  # crossings are rounded
    return clipped


def _cut(ring: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The part of a ring where `inside`, the signed distance of each corner to a line, is at least 0."""
    successor = np.arange(1, len(ring) + 1)
    successor[-1:] = 0
    keep = inside >= 0
    crosses = keep != keep[successor]
    start, end = np.flatnonzero(crosses), successor[crosses]
    fraction = inside[start] / (inside[start] - inside[end])
    positions = np.cumsum(keep) + np.cumsum(crosses)  # a crossing comes after the corner where its edge starts
    result = np.empty((int(positions[-1]) if len(positions) else 0, ring.shape[1]), ring.dtype)
    result[positions[start] - 1] = ring[start] + fraction[:, None] * (ring[end] - ring[start])
    result[(positions - crosses - 1)[keep]] = ring[keep]
    return result


def join_rings(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Join rings to one outline (K, 2) by lines there and back between their nearest points.

    These lines have no area: even-odd and non-zero filling cover the same pixels as before.
    """
    joined, *others = sorted(rings, key=len, reverse=True)
    for ring in others:
        distances = np.square(joined[:, None] - ring[None]).sum(axis=2)
        leave, arrive = np.unravel_index(distances.argmin(), distances.shape)
        around = np.roll(ring, -int(arrive), axis=0)
        joined = np.concatenate([joined[: leave + 1], around, around[:1], joined[leave:]])
    return joined


def compute_bounding_box(rings: Sequence[np.ndarray]) -> tuple[float, float, float, float]:
    """Bounding box x1, y1, x2, y2 of all rings; zeros without rings."""
    if not rings:
        return 0.0, 0.0, 0.0, 0.0
    points = np.concatenate(rings)
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x1, y1, x2, y2
