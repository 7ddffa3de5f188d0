"""Fit an image into a given size without distorting it: one resize and a border of gray."""

from __future__ import annotations

import math

import cv2
import numpy as np

from utils.core.types import Letterbox

MOST_CHANNELS = 128  # that OpenCV 5 takes; 4 had 512
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
    """The image scaled into `new_shape_hw` and centered on a border, with the numbers that map boxes back.

    Args:
        frame: (H, W, C) or (H, W) uint8.
        new_shape_hw: wanted size, or one side of a square.
        color: value of the border in every channel.
        auto: pad only up to the next multiple of `stride` (the smallest rectangle); wins over `scale_fill`.
        scale_fill: stretch to the whole size instead of padding.
        scale_up: False leaves small images at their size.
        stride: grid that `auto` pads to.

    Returns:
        The fitted image, always a new array, and its `Letterbox`. The ratio is that of the whole-pixel sizes; the
        padding is the left and top border as placed.
    """
    target_hw = (new_shape_hw, new_shape_hw) if isinstance(new_shape_hw, int) else new_shape_hw
    original_hw = (frame.shape[0], frame.shape[1])
    if scale_fill and not auto:
        inner_hw, border_hw = target_hw, (0, 0)
    else:
        inner_hw = fitted_size(original_hw, target_hw, scale_up=scale_up)
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
    """The already resized image centered in `out_hw`; an odd pixel of border goes right or below."""
    height, width = inner.shape[:2]
    top, left = (out_hw[0] - height) // 2, (out_hw[1] - width) // 2
    fit = Letterbox(original_hw, (width / original_hw[1], height / original_hw[0]), (left, top))
    framed = np.empty((*out_hw, *inner.shape[2:]), inner.dtype)
    framed[:top] = color
    framed[top + height :] = color
    framed[top : top + height, :left] = color
    framed[top : top + height, left + width :] = color
    framed[top : top + height, left : left + width] = inner
    return framed, fit


def fitted_size(size_hw: tuple[int, int], into_hw: tuple[int, int], *, scale_up: bool = True) -> tuple[int, int]:
    """Size with the same sides ratio that fits into `into_hw`, at least one pixel each way."""
    ratio = min(into_hw[0] / size_hw[0], into_hw[1] / size_hw[1])
    if not scale_up:
        ratio = min(ratio, 1.0)
    return max(1, round(size_hw[0] * ratio)), max(1, round(size_hw[1] * ratio))


def load_size(size_hw: tuple[int, int], longest: int) -> tuple[int, int]:
    """Size at which an image enters augmentation: its longer side is `longest`."""
    return fitted_size(size_hw, (longest, longest))


def resize(frame: np.ndarray, size_hw: tuple[int, int], interpolation: int) -> np.ndarray:
    """`cv2.resize` for any channel count, keeping a single channel's axis; the same array if nothing changes."""
    if frame.shape[:2] == tuple(size_hw):
        return frame
    if frame.ndim == 3 and frame.shape[2] > MOST_CHANNELS:
        starts = range(0, frame.shape[2], MOST_CHANNELS)
        parts = (np.ascontiguousarray(frame[..., start : start + MOST_CHANNELS]) for start in starts)
        return np.concatenate([resize(part, size_hw, interpolation) for part in parts], axis=2)
    resized = cv2.resize(frame, (size_hw[1], size_hw[0]), interpolation=interpolation)
    return resized.reshape(*size_hw, *frame.shape[2:])


def rect_shapes(sizes_hw: np.ndarray, batch_size: int, *, imgsz: int, stride: int, pad: float) -> np.ndarray:
    """Network input size of each batch of images that are sorted by height over width.

    Args:
        sizes_hw: (N, 2) image sizes, in the order of the batches.
        batch_size: images per batch.
        imgsz: longer side of a fitted image.
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
