"""Batch plots: a grid of images with boxes, masks or captions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.core.types import Batch
from utils.imaging.draw import WHITE, class_color_bgr, draw_boxes, draw_masks, draw_text, text_height, to_bgr
from utils.ops.boxes import xywhn_to_xyxy
from utils.ops.masks import ObjectMasks
from utils.plots.figure import write_image

GRAY = 114
RED = (60, 60, 200)  # BGR
GAP = 2  # pixels between images
MAX_IMAGES, MAX_CAPTIONED_IMAGES = 16, 64
MAX_SIDE = 1920  # pixels; larger grids are scaled down
MIN_SCORE = 0.25  # predictions below are not drawn

Painter = Callable[[np.ndarray, int], None]
Boxes = Tensor | np.ndarray | Sequence[Tensor | np.ndarray | None]


def plot_batch(
    images: Tensor | np.ndarray,
    boxes: Boxes,
    paths: Sequence[str],
    names: Mapping[int, str],
    file: Path,
    *,
    masks: Callable[[int], ObjectMasks] | None = None,
    paint: Painter | None = None,
) -> None:
    """Plot the first images of a batch as a grid, each with its file name and boxes.

    Args:
        images: (B, C, H, W), uint8 or float in [0, 1], RGB if C = 3.
        boxes: targets as an (N, 6) array of image index, class, x, y, w, h normalized; or predictions as B arrays
            (n, 6+) of x1, y1, x2, y2 in pixels, score, class, or None for an image without predictions.
        paths: B file names.
        names: class names by number.
        file: .jpg or .png to write.
        masks: returns the masks of the boxes of an image, by its index; for predictions, of those from MIN_SCORE.
        paint: draws on an image (h, w, 3) BGR in place, below boxes and masks; also gets its index.
    """
    size_hw = (images.shape[2], images.shape[3])

    def draw(cell: np.ndarray, index: int) -> None:
        if paint is not None:
            paint(cell, index)
        xyxyn, labels, classes = _get_boxes(boxes, index, size_hw, names)
        if masks is not None:
            draw_masks(cell, masks(index).resize(cell.shape[:2]), [class_color_bgr(c) for c in classes])
        title = draw_text(cell, Path(paths[index]).name, (0, 0), text_height(cell.shape[:2]), (GRAY, GRAY, GRAY))
        xyxy = xyxyn * np.tile(cell.shape[1::-1], 2)
        draw_boxes(cell, xyxy, labels, [class_color_bgr(c) for c in classes], avoid=[title])

    _write_grid(images[:MAX_IMAGES], draw, file)


def plot_captions(
    images: Tensor | np.ndarray,
    captions: Sequence[str],
    file: Path,
    *,
    wrong: Sequence[bool] = (),
) -> None:
    """Plot the first images of a batch as a grid, with captions.

    Args:
        images: as for `plot_batch`.
        captions: B texts.
        file: .jpg or .png to write.
        wrong: B bools; True for a red border and caption. By default none is red.
    """

    def draw(cell: np.ndarray, index: int) -> None:
        color = RED if index < len(wrong) and wrong[index] else (GRAY, GRAY, GRAY)
        draw_boxes(cell, [(0, 0, cell.shape[1], cell.shape[0])], [captions[index]], [color])

    _write_grid(images[:MAX_CAPTIONED_IMAGES], draw, file)


def _write_grid(images: Tensor | np.ndarray, draw: Callable[[np.ndarray, int], None], file: Path) -> None:
    """Write the images of a batch as a grid, after `draw(cell, index)` for each."""
    count, _, height, width = images.shape
    columns = math.ceil(math.sqrt(count)) or 1
    rows = math.ceil(count / columns) or 1
    available = MAX_SIDE - GAP * max(columns, rows)
    scale = min(1.0, available / max(columns * width, rows * height))
    cell_hw = max(1, int(height * scale)), max(1, int(width * scale))
    grid = np.full((rows * (cell_hw[0] + GAP) - GAP, columns * (cell_hw[1] + GAP) - GAP, 3), WHITE, np.uint8)
    for index in range(count):
        cell = cv2.resize(_frame(images[index]), cell_hw[::-1], interpolation=cv2.INTER_AREA)
        draw(cell, index)
        top, left = index // columns * (cell_hw[0] + GAP), index % columns * (cell_hw[1] + GAP)
        grid[top : top + cell_hw[0], left : left + cell_hw[1]] = cell
    write_image(file, grid)


def _frame(image: Tensor | np.ndarray) -> np.ndarray:
    """Convert an image (C, H, W) of a batch to a BGR frame to draw on."""
    array = np.moveaxis(_to_numpy(image), 0, -1)
    if array.dtype != np.uint8:
        array = np.rint(np.clip(array.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    return to_bgr(array[..., ::-1] if array.shape[2] == 3 else array)


def _get_boxes(
    boxes: Boxes, index: int, size_hw: tuple[int, int], names: Mapping[int, str]
) -> tuple[np.ndarray, list[str], list[int]]:
    """Normalized corners (n, 4), labels and classes of image `index`."""
    if isinstance(boxes, Tensor | np.ndarray):
        targets = _to_numpy(boxes).reshape(-1, 6)
        rows = targets[targets[:, 0] == index]
        classes = rows[:, 1].astype(int).tolist()
        return xywhn_to_xyxy(rows[:, 2:], (1, 1)), [names.get(c, str(c)) for c in classes], classes
    detections = boxes[index]
    rows = np.zeros((0, 6), np.float32) if detections is None else _to_numpy(detections)
    rows = rows[rows[:, 4] >= MIN_SCORE]
    classes = rows[:, 5].astype(int).tolist()
    labels = [f"{names.get(c, str(c))} {score:.2f}" for c, score in zip(classes, rows[:, 4], strict=True)]
    return rows[:, :4] / np.tile(size_hw[::-1], 2), labels, classes


def _to_numpy(values: Tensor | np.ndarray) -> np.ndarray:
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def get_batch_file(name: str, batch: Batch) -> str:
    """File of a batch plot: `val_batch0_pred.jpg`, or `val_batch0_semantic_pred.jpg` for a batch of that kind."""
    if not batch.kind:
        return name
    head, separator, tail = name.partition("_labels" if "_labels" in name else "_pred" if "_pred" in name else ".")
    return f"{head}_{batch.kind}{separator}{tail}"
