"""Crops of labeled objects as a classification set: `python -m utils.datasets crops`.

Each object becomes `<out>/<split>/<class>/<image>_<number>.jpg`, the layout of classify/train.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from utils.config.datasets import CropsConfig
from utils.core.errors import InputError
from utils.core.files import atomic_folder, to_folder_name
from utils.core.logging import LOGGER
from utils.datasets.index.data_yaml import DataSpec, load_spec
from utils.datasets.index.labels import load_index
from utils.imaging.read import imwrite, read_image

QUALITY = 95  # of the JPEG files


def run(config: CropsConfig) -> dict[str, Counter[str]]:
    """Crop every object of every split on disk; returns the number of crops by split and class folder.

    Raises:
        InputError: the data set cannot be read, or the output folder is not empty.
    """
    spec = load_spec(config.data)
    out = Path(config.out)
    available = [split for split, source in spec.splits.items() if not source.missing]
    folders = make_folder_names(spec.names)
    with atomic_folder(out, "--out") as work:
        counts = {split: _write_split(spec, split, work / split, folders, config) for split in available}
    LOGGER.info(format_counts(counts, folders))
    LOGGER.info(f"Results saved to {out}; train with: python classify/train.py --data {out}")
    return counts


def make_folder_names(names: dict[int, str]) -> dict[int, str]:
    """A folder name for each class; InputError if two classes share one."""
    folders = {number: to_folder_name(name) for number, name in names.items()}
    shared = [name for name, count in Counter(folders.values()).items() if count > 1]
    if shared:
        raise InputError(f"two classes share the folder {shared[0]!r}; rename one in the data YAML")
    return folders


def _write_split(
    spec: DataSpec, split: str, folder: Path, folders: dict[int, str], config: CropsConfig
) -> Counter[str]:
    """Write the crops of one split; every class gets a folder, even if it is empty."""
    for name in folders.values():
        (folder / name).mkdir(parents=True)
    index = load_index(spec, split)
    counts: Counter[str] = Counter()
    stems: Counter[str] = Counter()
    for i, path in enumerate(index.paths):
        classes, boxes_xywhn, _ = index.labels(i)
        if not len(classes):
            continue
        frame = read_image(path)
        stem = Path(path).stem
        stems[stem] += 1  # images in different folders may share a name
        stem = stem if stems[stem] == 1 else f"{stem}-{stems[stem]}"
        for number, (label, crop) in enumerate(crop_objects(frame, classes, boxes_xywhn, config)):
            name = folders[label]
            imwrite(folder / name / f"{stem}_{number}.jpg", crop, quality=QUALITY)
            counts[name] += 1
    return counts


def crop_objects(
    frame: np.ndarray, classes: np.ndarray, boxes_xywhn: np.ndarray, config: CropsConfig
) -> Iterator[tuple[int, np.ndarray]]:
    """Class and crop (a view) of each object that is large enough.

    Args:
        frame: (H, W, C).
        classes: (n,).
        boxes_xywhn: (n, 4) center and size over width and height.
        config: margin, square and min_side.
    """
    height, width = frame.shape[:2]
    for label, (x, y, w, h) in zip(classes.tolist(), boxes_xywhn.tolist(), strict=True):
        if min(w * width, h * height) < config.min_side:
            continue
        sides = w * width * (1 + config.margin), h * height * (1 + config.margin)
        wide, high = (max(sides), max(sides)) if config.square else sides
        x1, x2 = _span(x * width, wide, width)
        y1, y2 = _span(y * height, high, height)
        yield int(label), frame[y1:y2, x1:x2]


def _span(center: float, length: float, limit: int) -> tuple[int, int]:
    """Integer pixel range around a center, clipped to the image, at least one pixel long."""
    start = max(0, min(round(center - length / 2), limit - 1))
    return start, max(start + 1, min(round(center + length / 2), limit))


def format_counts(counts: dict[str, Counter[str]], folders: dict[int, str]) -> str:
    """Table of crops with a row per class and a column per split."""
    lines = [f"{'Class':>22}" + "".join(f"{split:>11}" for split in counts)]
    lines += [f"{name:>22}" + "".join(f"{count[name]:>11}" for count in counts.values()) for name in folders.values()]
    return "\n".join(lines)
