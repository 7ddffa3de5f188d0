"""Augmentations of an image with boxes and outlines: `mixup` and `random_perspective`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utils.augmentations import transform_randomly
from utils.config.hyp import Hyperparameters
from utils.core.types import Sample
from utils.dataloaders.detection import draw_generator
from utils.datasets.augment import transforms

Segments = Sequence[np.ndarray]


def mixup(
    im: np.ndarray, labels: np.ndarray, segments: Segments, im2: np.ndarray, labels2: np.ndarray, segments2: Segments
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Blend two images of the same size, with the labels and outlines of both (Zhang et al. 2018, arXiv:1710.09412).

    Args:
        im, im2: (H, W, 3) uint8.
        labels, labels2: (n, 5) class and box.
        segments, segments2: n outlines (K, 2).
    """
    first, second = (Sample(frame, rows[:, 1:5], rows[:, 0]) for frame, rows in ((im, labels), (im2, labels2)))
    blended = transforms.mixup(first, second, draw_generator())
    return blended.image, np.concatenate([labels, labels2]), [*segments, *segments2]


def random_perspective(
    im: np.ndarray,
    targets: np.ndarray | Sequence[Sequence[float]] = (),
    segments: Segments = (),
    degrees: float = 10,
    translate: float = 0.1,
    scale: float = 0.1,
    shear: float = 10,
    perspective: float = 0.0,
    border: Sequence[int] = (0, 0),
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """A random transform of an image and its objects; those that are hardly visible are left out.

    Args:
        im: (H, W, C) uint8.
        targets: (n, 5) class and xyxy in pixels.
        segments: n outlines (K, 2) in pixels.
        degrees, shear: maximum angles.
        translate: maximum shift over width and height.
        scale: the scale is 1 - scale to 1 + scale.
        perspective: maximum tilt per pixel.
        border: added on each side, vertically and horizontally; negative to crop.

    Returns:
        The image (H + 2 * border[0], W + 2 * border[1], C); targets (m, 5), whose boxes enclose the outlines; m
        outlines, clipped to the image.
    """
    hyp = Hyperparameters(degrees=degrees, translate=translate, scale=scale, shear=shear, perspective=perspective)
    return transform_randomly(im, targets, segments, hyp, border, draw_generator())
