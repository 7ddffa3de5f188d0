"""From a split's files to a verified `ImageIndex`."""

from __future__ import annotations

import glob
from pathlib import Path

import numpy as np

from utils.datasets.image_io import IMAGE_SUFFIXES, image_size_hw
from utils.datasets.index import ImageIndex, offsets_of
from utils.datasets.spec import DataSpec


def load_index(
    spec: DataSpec, split: str, *, single_cls: bool = False, verbose: bool = False, workers: int = 8
) -> ImageIndex:
    """The verified pictures and labels of a split."""
    source = spec.splits[split]
    paths = [
        p
        for place in source.places
        for p in sorted(glob.glob(f"{place}/**/*.*", recursive=True))
        if Path(p).suffix.lower() in IMAGE_SUFFIXES
    ]
    rows, sizes = [], []
    for path in paths:
        label = Path("/labels/".join(path.rsplit("/images/", 1))).with_suffix(".txt")
        text = label.read_text() if label.is_file() else ""
        rows.append(np.array([line.split() for line in text.splitlines()], np.float32).reshape(-1, 5))
        sizes.append(image_size_hw(path))
    flat = np.concatenate(rows)
    classes = flat[:, 0].astype(np.int32) * (not single_cls)
    names = {0: "item"} if single_cls and spec.num_classes != 1 else spec.names
    return ImageIndex(
        paths, np.array(sizes, np.int32), offsets_of(map(len, rows)), classes, np.ascontiguousarray(flat[:, 1:]), names
    )
