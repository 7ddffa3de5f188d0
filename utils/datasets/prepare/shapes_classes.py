"""Generated classification set: single shapes, cropped from scenes like those of `builtin:shapes`.

A shape is used if most of it is visible; other shapes that overlap its box stay in the crop.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.datasets.prepare.shapes import CLASSES, SEED, SIZE, Scene, draw_scenes, generate_set
from utils.imaging.read import imwrite

SCENES = {"train": 1600, "val": 240}
FIRST_SCENE = 10_000  # of each split; builtin:shapes uses the numbers below
MIN_SIDE = 20.0  # pixels, shorter side of the box
MIN_VISIBLE = 0.8  # visible share of the shape
MARGIN = 0.15  # around the box, relative to its longer side


def prepare_shapes_classes(root: Path, raw: Mapping[str, Any]) -> None:
    """Generate the set in `root` as `<split>/<class>/<number>.jpg`; takes a few seconds."""
    generate_set(root, "shapes-cls", _write_splits)


def _write_splits(root: Path) -> None:
    for split_number, (split, count) in enumerate(SCENES.items()):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
        scenes = draw_scenes((SEED, split_number, FIRST_SCENE + i) for i in range(count))
        for i, scene in enumerate(scenes):
            for number, (label, crop) in enumerate(crop_shapes(scene)):
                imwrite(root / split / CLASSES[label] / f"{i:04d}_{number}.jpg", crop, quality=92)


def crop_shapes(scene: Scene) -> list[tuple[int, np.ndarray]]:
    """Class and crop of each shape that is large and visible enough."""
    crops = []
    for shape in scene.shapes:
        low, high = shape.outline_xy.min(0), shape.outline_xy.max(0)
        if (high - low).min() < MIN_SIDE or shape.visible < MIN_VISIBLE * shape.full_area:
            continue
        half = (high - low).max() * (0.5 + MARGIN)
        (x1, y1), (x2, y2) = (np.clip((low + high) / 2 + sign * half, 0, SIZE).round().astype(int) for sign in (-1, 1))
        crops.append((shape.label, scene.frame[y1:y2, x1:x2]))
    return crops
