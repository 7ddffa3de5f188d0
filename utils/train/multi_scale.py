"""`--multi-scale`: the side of each iteration's images, a pure function of seed and iteration."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

LOOKED_AT = 200  # iterations among which one of the largest side is


def grid_of(stride: Tensor) -> int:
    """What sides are multiples of: the network's largest stride, at least 32."""
    return max(int(stride.max()), 32)


def scaled_side(seed: int, iteration: int, imgsz: int, grid: int) -> int:
    """A side drawn from half to one and a half times `imgsz`, a multiple of the grid.

    As everywhere two cells of the grid are the least: batch norm cannot train on a single image of one cell.
    """
    rng = np.random.default_rng((seed, iteration))
    return max(int(rng.integers(int(imgsz * 0.5), int(imgsz * 1.5) + grid)) // grid, 2) * grid


def rescaled(images: Tensor, side: int, grid: int) -> Tensor:
    """(B, C, H, W) images with that longer side, both sides multiples of the grid."""
    factor = side / max(images.shape[2:])
    if factor == 1:
        return images
    size_hw = [-(-int(length * factor) // grid) * grid for length in images.shape[2:]]
    return F.interpolate(images, size=size_hw, mode="bilinear", align_corners=False)


def largest_scale(seed: int, imgsz: int, model: torch.nn.Module) -> int:
    """An iteration whose images have the largest side of the first few hundred."""
    grid = grid_of(model.stride)  # type: ignore[arg-type]
    return max(range(LOOKED_AT), key=lambda iteration: scaled_side(seed, iteration, imgsz, grid))
