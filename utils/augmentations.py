"""Public address of `letterbox`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.imaging import letterbox as letterboxing

__all__ = ["letterbox"]


def letterbox(
    im: np.ndarray,
    new_shape: int | Sequence[int] = (640, 640),
    color: Sequence[int] = (letterboxing.GRAY,) * 3,
    auto: bool = True,
    scaleFill: bool = False,
    scaleup: bool = True,
    stride: int = 32,
) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Resize and pad an image to `new_shape` (h, w); see `utils.imaging.letterbox.letterbox`.

    Returns:
        The image; the ratio before rounding along x and y; half of the padding along x and y, in pixels.
    """
    target: Any = new_shape if isinstance(new_shape, int) else (new_shape[0], new_shape[1])
    border: Any = np.array(color, np.uint8)
    padded, transform = letterboxing.letterbox(
        im, target, color=border, auto=auto, scale_fill=scaleFill, scale_up=scaleup, stride=stride
    )
    (height, width), (out_h, out_w) = im.shape[:2], padded.shape[:2]
    inner_w, inner_h = round(width * transform.ratio_wh[0]), round(height * transform.ratio_wh[1])
    if scaleFill and not auto:
        ratio = (out_w / width, out_h / height)
    else:
        target_hw = (target, target) if isinstance(target, int) else target
        scale = min(target_hw[0] / height, target_hw[1] / width)
        ratio = (scale if scaleup else min(scale, 1.0),) * 2
    return padded, ratio, ((out_w - inner_w) / 2, (out_h - inner_h) / 2)
