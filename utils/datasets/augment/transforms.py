"""Transforms of a sample: random affine and perspective, HSV, flips and MixUp."""

from __future__ import annotations

import math
from functools import partial

import cv2
import numpy as np

from utils.config.hyp import Hyperparameters
from utils.core.types import Sample
from utils.datasets.augment.compose import Recolor

MIXUP_BETA = 32.0  # both parameters of the Beta distribution of the mixing ratio
HUES = 180  # OpenCV stores hue in steps of two degrees


def random_transform(
    rng: np.random.Generator, hyp: Hyperparameters, canvas_hw: tuple[int, int], out_hw: tuple[int, int]
) -> np.ndarray:
    """(3, 3) matrix from canvas to output pixels: centering, perspective, rotation and scale, shear, translation.

    If all strengths are 0, the canvas center maps to the output center at scale 1.
    """
    draws = rng.uniform(-1, 1, 8).tolist()
    tilt_x, tilt_y = hyp.perspective * draws[0], hyp.perspective * draws[1]
    angle, scale = math.radians(hyp.degrees * draws[2]), 1 + hyp.scale * draws[3]
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    shear_x, shear_y = (math.tan(math.radians(hyp.shear * draw)) for draw in draws[4:6])
    x, y = ((0.5 + hyp.translate * draw) * side for draw, side in zip(draws[6:], (out_hw[1], out_hw[0]), strict=True))
    linear = np.array([[1.0, shear_x], [shear_y, 1.0]]) @ np.array([[cos, sin], [-sin, cos]])
    # Points are relative to the canvas center, (x, y, depth) before the division; the translation is added after it.
    centering = np.array([[1.0, 0.0, -canvas_hw[1] / 2], [0.0, 1.0, -canvas_hw[0] / 2], [0.0, 0.0, 1.0]])
    depth = np.array([[tilt_x, tilt_y, 1.0]])
    affine = np.concatenate([linear, np.zeros((2, 1))], axis=1) + np.array([[x], [y]]) * depth
    return np.concatenate([affine, depth]) @ centering


def random_recolor(rng: np.random.Generator, hyp: Hyperparameters) -> Recolor | None:
    """A random change of hue, saturation and value, for `compose` or a finished image.

    The gains are uniform in 1 +- `hsv_h`, `hsv_s`, `hsv_v`. None if they would not change any pixel.
    """
    gains = 1 + rng.uniform(-1, 1, 3) * (hyp.hsv_h, hyp.hsv_s, hyp.hsv_v)
    unchanged = (np.abs(gains - 1) * (HUES - 1, 255, 255) < 0.5).all()
    return None if unchanged else partial(multiply_hsv, gains=gains)


def multiply_hsv(source: np.ndarray, target: np.ndarray, *, gains: np.ndarray) -> None:
    """Multiply hue (cyclic), saturation and value (saturating) of a BGR image and write the result to `target`.

    Hue may exceed OpenCV's 180 steps, since the conversion back to BGR takes it modulo 180. It must not exceed 255,
    where it would saturate, so its gain is limited. `target` may be `source`.
    """
    factors = np.diag(np.minimum(gains, (255 / (HUES - 1), np.inf, np.inf)))
    hsv = cv2.cvtColor(source, cv2.COLOR_BGR2HSV)
    cv2.cvtColor(cv2.transform(hsv, factors), cv2.COLOR_HSV2BGR, dst=target)


def random_flips(sample: Sample, rng: np.random.Generator, hyp: Hyperparameters) -> Sample:
    """Flip vertically with probability `flipud` and horizontally with probability `fliplr`."""
    vertical, horizontal = rng.random(2) < (hyp.flipud, hyp.fliplr)
    sample = flip(sample, axis=1) if vertical else sample
    return flip(sample, axis=0) if horizontal else sample


def flip(sample: Sample, *, axis: int) -> Sample:
    """Flip a sample left to right (axis 0) or top to bottom (axis 1)."""
    height, width, channels = sample.image.shape
    side, code = (width, 1) if axis == 0 else (height, 0)
    boxes = sample.boxes_xyxy.copy()
    boxes[:, [axis, axis + 2]] = side - sample.boxes_xyxy[:, [axis + 2, axis]]
    polygons = sample.polygons
    if polygons is not None:
        offset, sign = np.zeros(2), np.ones(2)
        offset[axis], sign[axis] = side, -1
        polygons = [[offset + sign * ring for ring in rings] for rings in polygons]
    return Sample(
        cv2.flip(sample.image, code).reshape(height, width, channels),
        boxes,
        sample.classes,
        polygons,
        None if sample.semantic_mask is None else cv2.flip(sample.semantic_mask, code),
        sample.path,
    )


def mixup(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """Blend two samples of the same size, with the labels of both (Zhang et al. 2018, arXiv:1710.09412).

    The semantic mask is that of the image with the larger ratio.
    """
    ratio = rng.beta(MIXUP_BETA, MIXUP_BETA)
    height, width, channels = sample.image.shape
    blended = cv2.addWeighted(sample.image, ratio, other.image, 1 - ratio, 0)
    polygons = None
    if sample.polygons is not None:
        polygons = sample.polygons + (other.polygons or [])
    return Sample(
        blended.reshape(height, width, channels),
        np.concatenate([sample.boxes_xyxy, other.boxes_xyxy]),
        np.concatenate([sample.classes, other.classes]),
        polygons,
        sample.semantic_mask if ratio >= 0.5 else other.semantic_mask,
        sample.path,
    )
