"""Multi-scale training: the image size of each iteration is a pure function of seed and iteration."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F


def draw_imgsz(seed: int, iteration: int, imgsz: int, stride: int) -> int:
    """A size from half to one and a half times `imgsz`, a multiple of the stride.

    At least two strides: batch norm cannot train on a single image of one cell.
    """
    rng = np.random.default_rng((seed, iteration))
    return max(int(rng.integers(int(imgsz * 0.5), int(imgsz * 1.5) + stride)) // stride, 2) * stride


def get_largest_imgsz(imgsz: int, stride: int) -> int:
    """The largest size that `draw_imgsz` can give."""
    return max((int(imgsz * 1.5) + stride - 1) // stride, 2) * stride


def resize_batch(images: Tensor, imgsz: int, stride: int) -> Tensor:
    """(B, C, H, W) images with that longer side, both sides multiples of the stride."""
    factor = imgsz / max(images.shape[2:])
    if factor == 1:
        return images
    size_hw = [-(-int(length * factor) // stride) * stride for length in images.shape[2:]]
    return F.interpolate(images, size=size_hw, mode="bilinear", align_corners=False)
