"""Mosaic and copy-paste: placements of images and objects on a canvas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utils.datasets.augment.compose import Placement, SourceImage, box_areas, clip_boxes, transform_boxes
from utils.imaging.letterbox import fit_size

MAX_PASTE_COVERAGE = 0.30  # a pasted object hides less than this part of any other object


def plan_single(image: SourceImage, canvas_hw: tuple[int, int]) -> list[Placement]:
    """One image, letterboxed into the canvas."""
    height, width = fit_size(image.size_hw, canvas_hw)
    left, top = (canvas_hw[1] - width) // 2, (canvas_hw[0] - height) // 2
    return [Placement(image, np.array([[width, 0.0, left], [0.0, height, top], [0.0, 0.0, 1.0]]))]


def plan_mosaic(images: Sequence[SourceImage], rng: np.random.Generator, imgsz: int) -> list[Placement]:
    """Four images around a point on a 2*imgsz canvas (Bochkovskiy et al. 2020, arXiv:2004.10934, sec. 3.3).

    The point is uniform in the middle half of the canvas; each image has one corner there.
    """
    side = 2 * imgsz
    x, y = rng.uniform(0.5 * imgsz, 1.5 * imgsz, 2).tolist()
    cells = [(0.0, 0.0, x, y), (x, 0.0, side, y), (0.0, y, x, side), (x, y, side, side)]
    corners = [(1, 1), (0, 1), (1, 0), (0, 0)]  # of the images at the point: x, y; 0 is left or top, 1 right or bottom
    return [place_in_cell(image, cell, corner) for image, cell, corner in zip(images, cells, corners, strict=True)]


def plan_mosaic9(images: Sequence[SourceImage], rng: np.random.Generator, imgsz: int) -> list[Placement]:
    """Nine images on a 2*imgsz canvas: the first one inside, eight around it, clipped so that they do not overlap.

    The center of the inner image is uniform in the middle half of the canvas. The lines through its sides divide the
    canvas into nine cells; each outer image touches the nearest corner of the inner one.
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
        placements.append(place_in_cell(image, cell, (int(column == 0), int(row == 0))))
    return placements


def place_in_cell(
    image: SourceImage, cell_xyxy: tuple[float, float, float, float], corner: tuple[int, int]
) -> Placement:
    """The image at its nominal size in one corner of a cell, clipped to the cell.

    Args:
        corner: x, y; 0 is left or top, 1 right or bottom.
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


def plan_copy_paste(
    placements: Sequence[Placement], rng: np.random.Generator, *, share: float, canvas_width: int
) -> list[Placement]:
    """Copies of objects, flipped horizontally across the canvas (Ghiasi et al. 2021, arXiv:2012.07177).

    Args:
        placements: on the canvas; their images must have polygons.
        share: fraction of the objects that are candidates.
        canvas_width: pixels.

    Returns:
        A placement for each candidate that hides less than 30 % of every object on the canvas.
    """
    mirror = np.array([[-1.0, 0.0, canvas_width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    objects, boxes = find_canvas_objects(placements)
    copies = []
    for n in rng.permutation(len(objects))[: round(share * len(objects))]:
        placement, k = placements[objects[n][0]], objects[n][1]
        copy = Placement(
            placement.image,
            mirror @ placement.to_canvas,
            placement.region_xyxyn,
            outline=placement.image.polygons[k],  # type: ignore[index]
            objects=np.array([k]),
        )
        x1, y1, x2, y2 = boxes[n]
        box = np.array([[canvas_width - x2, y1, canvas_width - x1, y2]])
        if (compute_coverage(boxes, box[0]) < MAX_PASTE_COVERAGE).all():
            copies.append(copy)
            boxes = np.concatenate([boxes, box])
    return copies


def find_canvas_objects(placements: Sequence[Placement]) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Visible objects on the canvas: placement and object index of each, and their boxes in canvas pixels (n, 4)."""
    objects: list[tuple[int, int]] = []
    boxes = [np.zeros((0, 4))]
    for number, placement in enumerate(placements):
        clipped = clip_boxes(placement.image.boxes_xyxyn, placement.region_xyxyn)
        visible = np.flatnonzero(box_areas(clipped) > 0)
        objects += [(number, int(k)) for k in visible]
        boxes.append(transform_boxes(clipped[visible], placement.to_canvas))
    return objects, np.concatenate(boxes)


def compute_coverage(boxes_xyxy: np.ndarray, box_xyxy: np.ndarray) -> np.ndarray:
    """(n,) fraction of each box that is covered by another box."""
    overlap_wh = np.minimum(boxes_xyxy[:, 2:], box_xyxy[2:]) - np.maximum(boxes_xyxy[:, :2], box_xyxy[:2])
    return np.clip(overlap_wh, 0, None).prod(axis=1) / box_areas(boxes_xyxy)
