"""YOLO label files: read from any data YAML, written as images/, labels/ and data.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.core.errors import InputError
from utils.datasets.formats.base import ImagePlacer, Splits, images_of, pixel_objects, write_data_yaml
from utils.datasets.index.data_yaml import find_data_yaml, load_spec
from utils.datasets.index.label_files import label_text
from utils.datasets.index.labels import load_index
from utils.ops.polygons import join_rings


def read_yolo(source: Path, names: Sequence[str], images: Path | None) -> Splits:
    """The splits of a data YAML that are on the disk, whatever its labels are.

    Raises:
        InputError: the data set cannot be used; `names` and `images` do not apply.
    """
    if names or images:
        raise InputError("--names and --images: a data YAML says both itself; leave them out with --from yolo")
    spec = load_spec(find_data_yaml(source, flag="--source"))
    there = [split for split, place in spec.splits.items() if not place.missing]
    return {split: load_index(spec, split, require_labels=False) for split in there}


def write_yolo(sets: Splits, out: Path, placer: ImagePlacer) -> Path:
    """Write the set; parts and holes of an object become one outline, joined by lines there and back."""
    for split, index in sets.items():
        (out / "labels" / split).mkdir(parents=True)
        for i, path, height, width in images_of(index):
            image = placer.place(path, out / "images" / split)
            objects = pixel_objects(index, i)
            rings = [join_rings(thing.rings) / (width, height) if thing.rings else None for thing in objects]
            classes, boxes, _ = index.labels(i)
            rows = np.concatenate([classes[:, None], boxes], axis=1)
            (out / "labels" / split / f"{image.stem}.txt").write_text(label_text(rows, rings), encoding="utf-8")
    return write_data_yaml(out, {split: f"images/{split}" for split in sets}, next(iter(sets.values())).names)
