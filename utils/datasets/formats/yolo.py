"""YOLO label files with a data YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.core.errors import InputError
from utils.datasets.formats.base import ImageCopier, Splits, write_data_yaml
from utils.datasets.index.data_yaml import find_data_yaml, load_spec
from utils.datasets.index.label_files import format_label_rows
from utils.datasets.index.labels import load_index
from utils.ops.polygons import join_rings


def read_yolo(source: Path, names: Sequence[str], images: Path | None) -> Splits:
    """Read the splits of a data YAML that exist on disk, with any kind of labels.

    Raises:
        InputError: the data set cannot be read, or `names` or `images` are set.
    """
    if names or images:
        raise InputError("--names and --images: defined by the data YAML; remove them with --from yolo")
    spec = load_spec(find_data_yaml(source, flag="--source"))
    available = [split for split, source in spec.splits.items() if not source.missing]
    return {split: load_index(spec, split, require_labels=False) for split in available}


def write_yolo(sets: Splits, out: Path, copier: ImageCopier) -> Path:
    """Write images/, labels/ and data.yaml; parts and holes of an object are joined to one outline."""
    for split, index in sets.items():
        (out / "labels" / split).mkdir(parents=True)
        for i, (image, (height, width), items) in enumerate(copier.copy_images(index, out / "images" / split)):
            rings = [join_rings(item.rings) / (width, height) if item.rings else None for item in items]
            classes, boxes, _ = index.labels(i)
            rows = np.concatenate([classes[:, None], boxes], axis=1)
            (out / "labels" / split / f"{image.stem}.txt").write_text(format_label_rows(rows, rings), encoding="utf-8")
    return write_data_yaml(out, {split: f"images/{split}" for split in sets}, next(iter(sets.values())).names)
