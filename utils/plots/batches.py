"""Batches as a grid of images with their boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.imaging.draw import WHITE, draw_boxes, draw_masks, draw_text, palette, text_height, to_bgr
from utils.ops.boxes import xywhn_to_xyxy
from utils.ops.masks import ObjectMasks
from utils.plots.figure import write_image

GRAY = 114
RED = (60, 60, 200)  # BGR
GAP = 2  # pixels between images
MIN_SCORE = 0.25  # predictions below are left out

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
    max_images: int = 16,
    max_side: int = 1920,
) -> None:
    """Write a batch as a grid of images, each with its file name and boxes.

    Args:
        images: (B, C, H, W), uint8 or floating in [0, 1], RGB where C = 3.
        boxes: targets as one (N, 6) array of image index, class, x, y, w, h over the image's size; or predictions
            as B arrays (n, 6+) of x1, y1, x2, y2 in pixels, score, class, None for an image without.
        paths: B file names.
        names: class names by number.
        file: .jpg or .png to write.
        masks: gives those of the boxes of an image, by its number; of predictions, of those from MIN_SCORE.
        paint: changes the drawn image (h, w, 3) BGR in place, below everything else, given its number too.
        max_images: the first so many images are drawn.
        max_side: pixels of the grid's longer side; larger batches are drawn smaller.
    """
    size_hw = (images.shape[2], images.shape[3])

    def draw(cell: np.ndarray, index: int) -> None:
        if paint is not None:
            paint(cell, index)
        xyxyn, labels, classes = _boxes_of(boxes, index, size_hw, names)
        if masks is not None:
            draw_masks(cell, masks(index).resized(cell.shape[:2]), [palette(c) for c in classes])
        title = draw_text(cell, Path(paths[index]).name, (0, 0), text_height(cell.shape[:2]), (GRAY, GRAY, GRAY))
        xyxy = xyxyn * np.tile(cell.shape[1::-1], 2)
        draw_boxes(cell, xyxy, labels, [palette(c) for c in classes], avoid=[title])

    _write_grid(images, draw, file, max_images, max_side)


def plot_captions(
    images: Tensor | np.ndarray,
    captions: Sequence[str],
    file: Path,
    *,
    wrong: Sequence[bool] = (),
    max_images: int = 64,
    max_side: int = 1920,
) -> None:
    """Write a batch as a grid of framed images, each with a caption.

    Args:
        images: as for `plot_batch`.
        captions: B texts.
        file: .jpg or .png to write.
        wrong: B, whether frame and caption are red; none is without it.
        max_images, max_side: as for `plot_batch`.
    """

    def draw(cell: np.ndarray, index: int) -> None:
        color = RED if index < len(wrong) and wrong[index] else (GRAY, GRAY, GRAY)
        draw_boxes(cell, [(0, 0, cell.shape[1], cell.shape[0])], [captions[index]], [color])

    _write_grid(images, draw, file, max_images, max_side)


def _write_grid(
    images: Tensor | np.ndarray, draw: Callable[[np.ndarray, int], None], file: Path, max_images: int, max_side: int
) -> None:
    """Images of a batch side by side, each handed to `draw` with its number first."""
    count, _, height, width = images.shape
    count = min(count, max_images)
    columns = math.ceil(math.sqrt(count)) or 1
    rows = math.ceil(count / columns) or 1
    room = max_side - GAP * max(columns, rows)
    scale = min(1.0, room / max(columns * width, rows * height))
    cell_hw = max(1, int(height * scale)), max(1, int(width * scale))
    grid = np.full((rows * (cell_hw[0] + GAP) - GAP, columns * (cell_hw[1] + GAP) - GAP, 3), WHITE, np.uint8)
    for index in range(count):
        cell = cv2.resize(_frame(images[index]), cell_hw[::-1], interpolation=cv2.INTER_AREA)
        draw(cell, index)
        top, left = index // columns * (cell_hw[0] + GAP), index % columns * (cell_hw[1] + GAP)
        grid[top : top + cell_hw[0], left : left + cell_hw[1]] = cell
    write_image(file, grid)


def _frame(image: Tensor | np.ndarray) -> np.ndarray:
    """(C, H, W) image of a batch as a BGR frame to draw on."""
    array = np.moveaxis(_array(image), 0, -1)
    if array.dtype != np.uint8:
        array = np.rint(np.clip(array.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    return to_bgr(array[..., ::-1] if array.shape[2] == 3 else array)


def _boxes_of(
    boxes: Boxes, index: int, size_hw: tuple[int, int], names: Mapping[int, str]
) -> tuple[np.ndarray, list[str], list[int]]:
    """Corners over the image's size (n, 4), texts and classes of image `index`."""
    if isinstance(boxes, Tensor | np.ndarray):
        targets = _array(boxes).reshape(-1, 6)
        own = targets[targets[:, 0] == index]
        classes = own[:, 1].astype(int).tolist()
        return xywhn_to_xyxy(own[:, 2:], (1, 1)), [names.get(c, str(c)) for c in classes], classes
    found = boxes[index]
    rows = np.zeros((0, 6), np.float32) if found is None else _array(found)
    rows = rows[rows[:, 4] >= MIN_SCORE]
    classes = rows[:, 5].astype(int).tolist()
    labels = [f"{names.get(c, str(c))} {score:.2f}" for c, score in zip(classes, rows[:, 4], strict=True)]
    return rows[:, :4] / np.tile(size_hw[::-1], 2), labels, classes


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
