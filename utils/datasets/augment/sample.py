"""Augmentations of a whole sample: colors, flips, blending of two, and the random transform of a canvas."""

from __future__ import annotations

import math
from functools import partial

import cv2
import numpy as np

from utils.config.hyp import Hyperparameters
from utils.core.types import Polygons, Sample
from utils.datasets.augment.compose import Recolor

MIXUP_BETA = 32.0  # both parameters of the Beta distribution that the share of a blended image comes from
HUES = 180  # OpenCV keeps hue in steps of two degrees


def random_transform(
    rng: np.random.Generator, hyp: Hyperparameters, canvas_hw: tuple[int, int], out_hw: tuple[int, int]
) -> np.ndarray:
    """(3, 3) from canvas to output pixels: center, perspective, rotation and scale, shear, translation.

    With all strengths at 0 the canvas center maps to the output center at scale 1.
    """
    draws = rng.uniform(-1, 1, 8).tolist()
    tilt_x, tilt_y = hyp.perspective * draws[0], hyp.perspective * draws[1]
    turn, scale = math.radians(hyp.degrees * draws[2]), 1 + hyp.scale * draws[3]
    cos, sin = scale * math.cos(turn), scale * math.sin(turn)
    slant_x, slant_y = (math.tan(math.radians(hyp.shear * draw)) for draw in draws[4:6])
    x, y = ((0.5 + hyp.translate * draw) * side for draw, side in zip(draws[6:], (out_hw[1], out_hw[0]), strict=True))
    linear = np.array([[1.0, slant_x], [slant_y, 1.0]]) @ np.array([[cos, sin], [-sin, cos]])
    # Points relative to the canvas center, as (x, y, depth) before division; the output place is added after it.
    around_center = np.array([[1.0, 0.0, -canvas_hw[1] / 2], [0.0, 1.0, -canvas_hw[0] / 2], [0.0, 0.0, 1.0]])
    depth = np.array([[tilt_x, tilt_y, 1.0]])
    moved = np.concatenate([np.concatenate([linear, np.zeros((2, 1))], axis=1) + np.array([[x], [y]]) * depth, depth])
    return moved @ around_center


def draw_recoloring(rng: np.random.Generator, hyp: Hyperparameters) -> Recolor | None:
    """A random change of hue, saturation and value for `compose` or a finished image; None for no change.

    The gains are uniform in 1 +- `hsv_h`, `hsv_s`, `hsv_v`; those that would not change any byte give None.
    """
    gains = 1 + rng.uniform(-1, 1, 3) * (hyp.hsv_h, hyp.hsv_s, hyp.hsv_v)
    unchanged = (np.abs(gains - 1) * (HUES - 1, 255, 255) < 0.5).all()
    return None if unchanged else partial(multiply_hsv, gains=gains)


def multiply_hsv(source: np.ndarray, target: np.ndarray, *, gains: np.ndarray) -> None:
    """Write a BGR image with hue (cyclic), saturation and value (saturating) multiplied by `gains` to `target`.

    A hue product may pass OpenCV's 180 steps, the way back takes it modulo 180; beyond 255 it would saturate, so
    its gain ends there. `target` may be `source`.
    """
    factors = np.diag(np.minimum(gains, (255 / (HUES - 1), np.inf, np.inf)))
    hsv = cv2.cvtColor(source, cv2.COLOR_BGR2HSV)
    cv2.cvtColor(cv2.transform(hsv, factors), cv2.COLOR_HSV2BGR, dst=target)


def random_flips(sample: Sample, rng: np.random.Generator, hyp: Hyperparameters) -> Sample:
    """Turn upside down with probability `flipud`, then mirror with probability `fliplr`."""
    upside_down, mirrored = rng.random(2) < (hyp.flipud, hyp.fliplr)
    sample = flip_vertical(sample) if upside_down else sample
    return flip_horizontal(sample) if mirrored else sample


def flip_horizontal(sample: Sample) -> Sample:
    """The sample mirrored left to right."""
    return _flip(sample, axis=0)


def flip_vertical(sample: Sample) -> Sample:
    """The sample mirrored top to bottom."""
    return _flip(sample, axis=1)


def _flip(sample: Sample, *, axis: int) -> Sample:
    """Mirror x (axis 0) or y (axis 1)."""
    height, width, channels = sample.image.shape
    side, code = (width, 1) if axis == 0 else (height, 0)
    boxes = sample.boxes_xyxy.copy()
    boxes[:, [axis, axis + 2]] = side - sample.boxes_xyxy[:, [axis + 2, axis]]
    return Sample(
        cv2.flip(sample.image, code).reshape(height, width, channels),
        boxes,
        sample.classes,
        None if sample.polygons is None else _flip_rings(sample.polygons, axis, side),
        None if sample.semantic_mask is None else cv2.flip(sample.semantic_mask, code),
        sample.path,
    )


def _flip_rings(polygons: Polygons, axis: int, side: int) -> Polygons:
    """Rings with their x (axis 0) or y (axis 1) mirrored in an image of that `side`."""
    offset, sign = np.zeros(2), np.ones(2)
    offset[axis], sign[axis] = side, -1
    return [[offset + sign * ring for ring in rings] for rings in polygons]


def mixup(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """Blend two samples of one size (Zhang et al. 2018, arXiv:1710.09412); the labels of both count in full.

    A pixel has one class, so the semantic mask is that of the image with the larger share.
    """
    share = rng.beta(MIXUP_BETA, MIXUP_BETA)
    height, width, channels = sample.image.shape
    blended = cv2.addWeighted(sample.image, share, other.image, 1 - share, 0)
    polygons = None
    if sample.polygons is not None:
        polygons = sample.polygons + (other.polygons or [])
    return Sample(
        blended.reshape(height, width, channels),
        np.concatenate([sample.boxes_xyxy, other.boxes_xyxy]),
        np.concatenate([sample.classes, other.classes]),
        polygons,
        sample.semantic_mask if share >= 0.5 else other.semantic_mask,
        sample.path,
    )
