"""Letterbox resizing: fit an image into a size, keep its aspect ratio and pad the rest with gray."""

from __future__ import annotations

import math

import cv2
import numpy as np

from utils.core.types import Letterbox

MAX_CHANNELS = 128  # of OpenCV 5; 512 in OpenCV 4
GRAY = 114  # border value that the official checkpoints were trained with


def letterbox(
    frame: np.ndarray,
    new_shape_hw: tuple[int, int] | int,
    *,
    color: int = GRAY,
    auto: bool = False,
    scale_fill: bool = False,
    scale_up: bool = True,
    stride: int = 32,
) -> tuple[np.ndarray, Letterbox]:
    """Resize an image into `new_shape_hw`, keep its aspect ratio and center it on a border.

    Args:
        frame: (H, W, C) or (H, W) uint8.
        new_shape_hw: output size, or the side of a square.
        color: border value in every channel.
        auto: pad only to the next multiple of `stride` (the smallest rectangle); overrides `scale_fill`.
        scale_fill: stretch to the output size instead of padding.
        scale_up: enlarge small images.
        stride: grid that `auto` pads to.

    Returns:
        The resized image, always a new array, and the `Letterbox` that maps boxes back. Its ratio is that of the sizes
        in whole pixels; its padding is the left and top border.
    """
    target_hw = (new_shape_hw, new_shape_hw) if isinstance(new_shape_hw, int) else new_shape_hw
    original_hw = (frame.shape[0], frame.shape[1])
    if scale_fill and not auto:
        inner_hw, border_hw = target_hw, (0, 0)
    else:
        inner_hw = fit_size(original_hw, target_hw, scale_up=scale_up)
        border_hw = (target_hw[0] - inner_hw[0], target_hw[1] - inner_hw[1])
        if auto:
            border_hw = (border_hw[0] % stride, border_hw[1] % stride)
    resized = resize(frame, inner_hw, cv2.INTER_LINEAR)
    return pad_to(
        resized, (inner_hw[0] + border_hw[0], inner_hw[1] + border_hw[1]), original_hw=original_hw, color=color
    )


def pad_to(
    inner: np.ndarray, out_hw: tuple[int, int], *, original_hw: tuple[int, int], color: int = GRAY
) -> tuple[np.ndarray, Letterbox]:
    """Center a resized image in `out_hw`; an odd border pixel goes right or below."""
    height, width = inner.shape[:2]
    top, left = (out_hw[0] - height) // 2, (out_hw[1] - width) // 2
    fit = Letterbox(original_hw, (width / original_hw[1], height / original_hw[0]), (left, top))
    padded = np.empty((*out_hw, *inner.shape[2:]), inner.dtype)
    padded[:top] = color
    padded[top + height :] = color
    padded[top : top + height, :left] = color
    padded[top : top + height, left + width :] = color
    padded[top : top + height, left : left + width] = inner
    return padded, fit


def fit_size(size_hw: tuple[int, int], into_hw: tuple[int, int], *, scale_up: bool = True) -> tuple[int, int]:
    """Largest size of the same aspect ratio within `into_hw`, at least one pixel high and wide."""
    ratio = min(into_hw[0] / size_hw[0], into_hw[1] / size_hw[1])
    if not scale_up:
        ratio = min(ratio, 1.0)
    return max(1, round(size_hw[0] * ratio)), max(1, round(size_hw[1] * ratio))


def fit_longest_side(size_hw: tuple[int, int], longest: int) -> tuple[int, int]:
    """Size of the same aspect ratio whose longer side is `longest`; images are loaded at it."""
    return fit_size(size_hw, (longest, longest))


def resize(frame: np.ndarray, size_hw: tuple[int, int], interpolation: int) -> np.ndarray:
    """`cv2.resize` for any number of channels; keeps the axis of a single channel. No copy if the size is the same."""
    if frame.shape[:2] == tuple(size_hw):
        return frame
    if frame.ndim == 3 and frame.shape[2] > MAX_CHANNELS:
        starts = range(0, frame.shape[2], MAX_CHANNELS)
        parts = (np.ascontiguousarray(frame[..., start : start + MAX_CHANNELS]) for start in starts)
        return np.concatenate([resize(part, size_hw, interpolation) for part in parts], axis=2)
    resized = cv2.resize(frame, (size_hw[1], size_hw[0]), interpolation=interpolation)
    return resized.reshape(*size_hw, *frame.shape[2:])


def compute_rect_shapes(sizes_hw: np.ndarray, batch_size: int, *, imgsz: int, stride: int, pad: float) -> np.ndarray:
    """Network input size of each batch for rectangular batches: images are sorted by height over width.

    Args:
        sizes_hw: (N, 2) image sizes, in the order of the batches.
        batch_size: images per batch.
        imgsz: longer side of a letterboxed image.
        stride: sizes are multiples of it.
        pad: extra border, in strides.

    Returns:
        (ceil(N / batch_size), 2) int, height and width.
    """
    aspects = sizes_hw[:, 0] / sizes_hw[:, 1]
    shapes = []
    for start in range(0, len(aspects), batch_size):
        lowest, highest = aspects[start : start + batch_size].min(), aspects[start : start + batch_size].max()
        sides = (highest, 1.0) if highest < 1 else (1.0, 1 / lowest) if lowest > 1 else (1.0, 1.0)
        shapes.append([math.ceil(side * imgsz / stride + pad) * stride for side in sides])
    return np.array(shapes, np.int64).reshape(-1, 2)
