"""What other programs import from `utils.augmentations`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.imaging import letterbox as fitting

__all__ = ["letterbox"]


def letterbox(
    im: np.ndarray,
    new_shape: int | Sequence[int] = (640, 640),
    color: Sequence[int] = (fitting.GRAY,) * 3,
    auto: bool = True,
    scaleFill: bool = False,
    scaleup: bool = True,
    stride: int = 32,
) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """The image fitted into `new_shape` (h, w) on a border, as `utils.imaging.letterbox.letterbox` does it.

    Returns:
        The image; the wanted ratio along x and y; half of the padding along x and y, in pixels.
    """
    target: Any = new_shape if isinstance(new_shape, int) else (new_shape[0], new_shape[1])
    border: Any = np.array(color, np.uint8)
    fitted, fit = fitting.letterbox(
        im, target, color=border, auto=auto, scale_fill=scaleFill, scale_up=scaleup, stride=stride
    )
    (height, width), (out_h, out_w) = im.shape[:2], fitted.shape[:2]
    inner_w, inner_h = round(width * fit.ratio_wh[0]), round(height * fit.ratio_wh[1])
    if scaleFill and not auto:
        ratio = (out_w / width, out_h / height)
    else:
        wanted = (target, target) if isinstance(target, int) else target
        limit = min(wanted[0] / height, wanted[1] / width)
        ratio = (limit if scaleup else min(limit, 1.0),) * 2
    return fitted, ratio, ((out_w - inner_w) / 2, (out_h - inner_h) / 2)
