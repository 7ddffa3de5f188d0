"""Tiny classification data sets in class folders."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

CLASSES = ("a dark one", "größer & heller")  # names with spaces and beyond ASCII


def write_class_set(root: Path, *, splits: dict[str, int] | None = None) -> Path:
    """Write `<root>/<split>/<class>/<n>.png`, 40x32 px, the second class much brighter; counts are per class."""
    rng = np.random.default_rng(0)
    for split, count in (splits or {"train": 8, "val": 4}).items():
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                frame = rng.integers(0, 60, (32, 40, 3)) + 180 * label
                cv2.imencode(".png", frame.astype(np.uint8))[1].tofile(folder / f"{number}.png")
    return root
