"""Augmentations of a whole sample: colours, flips, blending of two, and the random transform of a canvas."""

from __future__ import annotations

import math

import cv2
import numpy as np

from utils.hyp import Hyperparameters
from utils.types import Polygons, Sample

MIXUP_BETA = 32.0  # both parameters of the Beta distribution that the share of a blended picture comes from
HUES = 180  # OpenCV keeps hue in steps of two degrees
_STRIP_ROWS = 64  # rows per colour conversion: three strips of 640 pixels stay in the processor's cache


def random_transform(
    rng: np.random.Generator, hyp: Hyperparameters, canvas_hw: tuple[int, int], out_hw: tuple[int, int]
) -> np.ndarray:
    """(3, 3) from canvas to output pixels: centre, perspective, rotation and scale, shear, translation.

    With all strengths at 0 the canvas centre maps to the output centre at scale 1.
    """
    perspective, angle, shear = hyp.perspective, math.radians(hyp.degrees), math.radians(hyp.shear)
    to_centre = np.array([[1, 0, -canvas_hw[1] / 2], [0, 1, -canvas_hw[0] / 2], [0, 0, 1]])
    tilt = np.eye(3)
    tilt[2, :2] = rng.uniform(-perspective, perspective, 2)
    turn, scale = rng.uniform(-angle, angle), rng.uniform(1 - hyp.scale, 1 + hyp.scale)
    cos, sin = scale * math.cos(turn), scale * math.sin(turn)
    rotate = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    slant = np.eye(3)
    slant[[0, 1], [1, 0]] = np.tan(rng.uniform(-shear, shear, 2))
    place = np.eye(3)
    place[:2, 2] = rng.uniform(0.5 - hyp.translate, 0.5 + hyp.translate, 2) * (out_hw[1], out_hw[0])
    return place @ slant @ rotate @ tilt @ to_centre


def jitter_colours(sample: Sample, rng: np.random.Generator, hyp: Hyperparameters) -> Sample:
    """Multiply hue, saturation and value by random gains, in place; pictures of other than three channels stay."""
    if sample.image.shape[2] != 3 or not (hyp.hsv_h or hyp.hsv_s or hyp.hsv_v):
        return sample
    gains = 1 + rng.uniform(-1, 1, 3) * (hyp.hsv_h, hyp.hsv_s, hyp.hsv_v)
    table = hsv_table(gains)
    if not np.array_equal(table, hsv_table(np.ones(3))):
        apply_hsv_table_(sample.image, table)
    return sample


def hsv_table(gains: np.ndarray) -> np.ndarray:
    """(1, 256, 3) uint8 lookup table that multiplies hue (cyclic), saturation and value (saturating) by `gains`."""
    products = np.arange(256)[:, None] * gains  # (256, 3)
    products[:, 0] %= HUES
    return np.clip(products, 0, 255).astype(np.uint8)[None]


def apply_hsv_table_(image: np.ndarray, table: np.ndarray) -> None:
    """Replace a BGR picture's hue, saturation and value by their table entries, a few rows at a time."""
    buffer = np.empty_like(image[:_STRIP_ROWS])
    for top in range(0, image.shape[0], _STRIP_ROWS):
        strip = image[top : top + _STRIP_ROWS]
        hsv = buffer[: strip.shape[0]]
        cv2.cvtColor(strip, cv2.COLOR_BGR2HSV, dst=hsv)
        cv2.LUT(hsv, table, dst=hsv)
        cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR, dst=strip)


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
        None if sample.class_map is None else cv2.flip(sample.class_map, code),
        sample.path,
    )


def _flip_rings(polygons: Polygons, axis: int, side: int) -> Polygons:
    """Rings with their x (axis 0) or y (axis 1) mirrored in a picture of that `side`."""
    offset, sign = np.zeros(2), np.ones(2)
    offset[axis], sign[axis] = side, -1
    return [[offset + sign * ring for ring in rings] for rings in polygons]


def mixup(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """Blend two samples of one size (Zhang et al. 2018, arXiv:1710.09412); the labels of both count in full.

    A pixel has one class, so the class map is that of the picture with the larger share.
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
        sample.class_map if share >= 0.5 else other.class_map,
        sample.path,
    )
