"""Plans of a training image: which images lie where on the canvas, and which objects are pasted a second time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utils.datasets.augment.compose import Image, Placement, box_areas, clip_boxes, hulls
from utils.imaging.letterbox import fitted_size

PASTE_MAX_COVER = 0.30  # a pasted object hides less than this part of every object that is there


def single_plan(image: Image, canvas_hw: tuple[int, int]) -> list[Placement]:
    """One image fitted into the canvas and centered, as `letterbox` does."""
    height, width = fitted_size(image.size_hw, canvas_hw)
    left, top = (canvas_hw[1] - width) // 2, (canvas_hw[0] - height) // 2
    return [Placement(image, np.array([[width, 0.0, left], [0.0, height, top], [0.0, 0.0, 1.0]]))]


def mosaic_plan(images: Sequence[Image], rng: np.random.Generator, imgsz: int) -> list[Placement]:
    """Four images around one point (Bochkovskiy et al. 2020, arXiv:2004.10934, sec. 3.3) on a 2*imgsz canvas.

    The point is uniform in the middle half of the canvas; each image touches it with one corner.
    """
    side = 2 * imgsz
    x, y = rng.uniform(0.5 * imgsz, 1.5 * imgsz, 2).tolist()
    cells = [(0.0, 0.0, x, y), (x, 0.0, side, y), (0.0, y, x, side), (x, y, side, side)]
    corners = [(1, 1), (0, 1), (1, 0), (0, 0)]  # which corner of the image touches: 1 right or lower, 0 left or upper
    return [in_cell(image, cell, corner) for image, cell, corner in zip(images, cells, corners, strict=True)]


def mosaic9_plan(images: Sequence[Image], rng: np.random.Generator, imgsz: int) -> list[Placement]:
    """Nine images on a 2*imgsz canvas: the first one inside, eight around it, cut where they would overlap.

    The inner image's center is uniform in the middle half of the canvas; the lines through its sides divide the
    canvas into nine cells, and each other image touches the inner one's nearest corner.
    """
    side = 2 * imgsz
    height, width = images[0].size_hw
    center_x, center_y = rng.uniform(0.5 * imgsz, 1.5 * imgsz, 2).tolist()
    xs = [0.0, center_x - width / 2, center_x + width / 2, side]
    ys = [0.0, center_y - height / 2, center_y + height / 2, side]
    order = [(1, 1), *((row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1))]
    placements = []
    for image, (row, column) in zip(images, order, strict=True):
        cell = (xs[column], ys[row], xs[column + 1], ys[row + 1])
        placements.append(in_cell(image, cell, (int(column == 0), int(row == 0))))
    return placements


def in_cell(image: Image, cell_xyxy: tuple[float, float, float, float], corner: tuple[int, int]) -> Placement:
    """The image at its nominal size with one corner in the same corner of a cell, cut at the cell's sides.

    Args:
        corner: x and y, 0 for left or upper, 1 for right or lower.
    """
    height, width = image.size_hw
    left = cell_xyxy[2] - width if corner[0] else cell_xyxy[0]
    top = cell_xyxy[3] - height if corner[1] else cell_xyxy[1]
    region = (
        max(0.0, (cell_xyxy[0] - left) / width),
        max(0.0, (cell_xyxy[1] - top) / height),
        min(1.0, (cell_xyxy[2] - left) / width),
        min(1.0, (cell_xyxy[3] - top) / height),
    )
    return Placement(image, np.array([[width, 0.0, left], [0.0, height, top], [0.0, 0.0, 1.0]]), region)


def paste_plan(
    placements: Sequence[Placement], rng: np.random.Generator, *, share: float, canvas_width: int
) -> list[Placement]:
    """Objects to draw once more, mirrored across the canvas (Ghiasi et al. 2021, arXiv:2012.07177).

    Args:
        placements: what lies on the canvas; their images must have polygons.
        share: part of all objects that is tried.
        canvas_width: pixels.

    Returns:
        A placement for every tried object that would hide less than 30 % of each object already there.
    """
    mirror = np.array([[-1.0, 0.0, canvas_width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    owners, there = canvas_objects(placements)
    pasted = []
    for n in rng.permutation(len(owners))[: round(share * len(owners))]:
        placement, k = placements[owners[n][0]], owners[n][1]
        copy = Placement(
            placement.image,
            mirror @ placement.to_canvas,
            placement.region_xyxyn,
            crop=placement.image.polygons[k],  # type: ignore[index]
            objects=np.array([k]),
        )
        x1, y1, x2, y2 = there[n]
        box = np.array([[canvas_width - x2, y1, canvas_width - x1, y2]])
        if (covered(there, box[0]) < PASTE_MAX_COVER).all():
            pasted.append(copy)
            there = np.concatenate([there, box])
    return pasted


def canvas_objects(placements: Sequence[Placement]) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Objects that show on the canvas: (placement, position) of each and its box in canvas pixels (n, 4)."""
    owners: list[tuple[int, int]] = []
    boxes = [np.zeros((0, 4))]
    for number, placement in enumerate(placements):
        clipped = clip_boxes(placement.image.boxes_xyxyn, placement.region_xyxyn)
        shown = np.flatnonzero(box_areas(clipped) > 0)
        owners += [(number, int(k)) for k in shown]
        boxes.append(hulls(clipped[shown], placement.to_canvas))
    return owners, np.concatenate(boxes)


def covered(boxes_xyxy: np.ndarray, by_xyxy: np.ndarray) -> np.ndarray:
    """(n,) part of each box that another box covers."""
    overlap_wh = np.minimum(boxes_xyxy[:, 2:], by_xyxy[2:]) - np.maximum(boxes_xyxy[:, :2], by_xyxy[:2])
    return np.clip(overlap_wh, 0, None).prod(axis=1) / box_areas(boxes_xyxy)
