"""Tiles of a data set as a set of its own: `python -m utils.datasets tile`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np

from utils.config.datasets import TileConfig
from utils.core.files import UniqueNames, atomic_folder
from utils.core.logging import LOGGER
from utils.datasets.formats.base import write_data_yaml
from utils.datasets.index.data_yaml import load_spec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.label_files import format_label_rows
from utils.datasets.index.labels import load_index
from utils.datasets.index.tiles import tile_index
from utils.imaging.read import imwrite, read_image
from utils.ops.polygons import join_rings

QUALITY = 95  # of the JPEG files
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def run(config: TileConfig) -> dict[str, int]:
    """Cut every split on disk into tiles; returns the number of tiles of each.

    Raises:
        InputError: the data set cannot be read, or the output folder is not empty.
    """
    spec = load_spec(config.data)
    out, counts = Path(config.out), {}
    with atomic_folder(out, "--out") as work:
        for split in [split for split, source in spec.splits.items() if not source.missing]:
            index = load_index(spec, split, require_labels=False)
            tiles = tile_index(
                index,
                config.tile,
                overlap=config.tile_overlap,
                min_visible=config.tile_visible,
                all_tiles=split != "train",
            )
            counts[split] = _write_split(tiles, work / "images" / split, work / "labels" / split)
        write_data_yaml(work, {split: f"images/{split}" for split in counts}, spec.names)
    LOGGER.info(f"Results saved to {out}; train with: python train.py --data {out / 'data.yaml'} --imgsz {config.tile}")
    return counts


def _write_split(tiles: ImageIndex, images: Path, labels: Path) -> int:
    """Write the tiles of a split; each image is read once."""
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    names = UniqueNames()
    assert tiles.windows is not None
    for path, group in groupby(range(len(tiles)), key=lambda i: tiles.paths[i]):
        frame = read_image(path)
        stem = names.assign(path, Path(path).stem, "")
        suffix = Path(path).suffix.lower()
        for i in group:
            x1, y1, x2, y2 = tiles.windows[i].tolist()
            name = f"{stem}_{x1}_{y1}"
            tile = np.ascontiguousarray(frame[y1:y2, x1:x2])
            imwrite(images / f"{name}{suffix if suffix in SUFFIXES else '.png'}", tile, quality=QUALITY)
            (labels / f"{name}.txt").write_text(_format_labels(tiles, i), encoding="utf-8")
    return len(tiles)


def _format_labels(tiles: ImageIndex, i: int) -> str:
    """Content of the label file of a tile."""
    classes, boxes, polygons = tiles.labels(i)
    rings = [join_rings(parts) for parts in polygons] if polygons is not None else [None] * len(classes)
    return format_label_rows(np.concatenate([classes[:, None], boxes], axis=1), rings)
