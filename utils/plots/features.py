"""Feature maps of layers (`detect.py --visualize`)."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from utils.plots.figure import write_image

COLUMNS = 8
MAX_MAPS = 32  # channels in the grid, each scaled from its minimum to its maximum
MIN_CELL, GAP = 96, 2  # pixels


def save_feature_maps(
    output: object, module: str, stage: int, folder: Path, *, max_maps: int = MAX_MAPS
) -> Path | None:
    """Save feature maps as `stage<i>_<Module>_features.png`, a grid of the first channels, and all channels as `.npy`.

    Args:
        output: output of the layer; only (B, C, H, W) with more than one cell is saved, of the first image.
        module: class name of the layer, optionally with its module path.
        stage: index of the layer in the graph.
        folder: output folder.
        max_maps: channels in the grid.

    Returns:
        Path of the image, or None if nothing was saved.
    """
    if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[2] * output.shape[3] <= 1:
        return None
    maps = output[0].detach().float().cpu().numpy()  # (C, H, W)
    file = folder / f"stage{stage}_{module.rpartition('.')[2]}_features.png"
    write_image(file, _build_grid(maps[:max_maps]))
    np.save(file.with_suffix(".npy"), maps)
    return file


def _build_grid(maps: np.ndarray) -> np.ndarray:
    """Grid image (h, w, 3) BGR of feature maps (N, H, W), small maps enlarged."""
    count, height, width = maps.shape
    factor = max(1, round(MIN_CELL / max(height, width)))
    cell_hw = height * factor, width * factor
    columns, rows = min(COLUMNS, count), math.ceil(count / COLUMNS)
    grid = np.full((rows * (cell_hw[0] + GAP) - GAP, columns * (cell_hw[1] + GAP) - GAP, 3), 255, np.uint8)
    for index, values in enumerate(maps):
        low, high = float(values.min()), float(values.max())
        gray = np.rint(255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8)
        cell = cv2.applyColorMap(np.kron(gray, np.ones((factor, factor), np.uint8)), cv2.COLORMAP_VIRIDIS)
        top, left = index // COLUMNS * (cell_hw[0] + GAP), index % COLUMNS * (cell_hw[1] + GAP)
        grid[top : top + cell_hw[0], left : left + cell_hw[1]] = cell
    return grid
