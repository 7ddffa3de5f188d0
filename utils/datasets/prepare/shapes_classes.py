"""The classification set that the project draws itself: single shapes, cut out of the scenes of `builtin:shapes`.

A shape is taken if most of it is in view; others that overlap its box stay in the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.datasets.prepare.shapes import CLASSES, SEED, SIZE, Scene, draw_in_threads, draw_set
from utils.imaging.read import imwrite

SCENES = {"train": 1600, "val": 240}
FIRST_SCENE = 10_000  # of each split; builtin:shapes has the numbers below
MIN_SIDE = 20.0  # pixels, of the shorter side of the box
MIN_SHOWN = 0.8  # of the full outline, in the frame and not covered
MARGIN = 0.15  # of the box's longer side, around it


def prepare_shapes_classes(root: Path, raw: Mapping[str, Any]) -> None:
    """Draw the set below `root`: `<split>/<class>/<number>.jpg`. A few seconds.

    Raises:
        InputError: the folder cannot be written, or holds other files already.
    """
    draw_set(root, "shapes-cls", _write_splits, sign="train")


def _write_splits(root: Path) -> None:
    for split_number, (split, count) in enumerate(SCENES.items()):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
        scenes = draw_in_threads((SEED, split_number, FIRST_SCENE + i) for i in range(count))
        for i, scene in enumerate(scenes):
            for number, (label, crop) in enumerate(single_shapes(scene)):
                imwrite(root / split / CLASSES[label] / f"{i:04d}_{number}.jpg", crop, quality=92)


def single_shapes(scene: Scene) -> list[tuple[int, np.ndarray]]:
    """Class and crop of each shape that is large enough and not much hidden."""
    found = []
    for shape in scene.shapes:
        low, high = shape.outline_xy.min(0), shape.outline_xy.max(0)
        if (high - low).min() < MIN_SIDE or shape.visible < MIN_SHOWN * shape.full_area:
            continue
        half = (high - low).max() * (0.5 + MARGIN)
        (x1, y1), (x2, y2) = (np.clip((low + high) / 2 + sign * half, 0, SIZE).round().astype(int) for sign in (-1, 1))
        found.append((shape.label, scene.frame[y1:y2, x1:x2]))
    return found
