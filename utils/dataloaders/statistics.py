"""Statistics of a data set: `HUBDatasetStats` and `dataset_stats`."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.core.logging import LOGGER
from utils.datasets.cache import run_threaded
from utils.datasets.index.data_yaml import load_spec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.labels import load_index
from utils.imaging.letterbox import fit_longest_side, resize
from utils.imaging.read import imwrite, read_image

LONGEST_SIDE, QUALITY = 1920, 50  # of the images that `process_images` writes
DIGITS = 4  # of the boxes in the statistics
SPLITS = ("train", "val", "test")


class HUBDatasetStats:
    """Numbers of images and objects of a data set, and its images at a size for the web.

    Args:
        path: data YAML, or an archive that contains it.
        autodownload: download missing images as the YAML says.

    Attributes:
        stats: see `get_json`.
        hub_dir, im_dir: folder `<data set>-hub` beside the data set, and its folder of images.
    """

    def __init__(self, path: str | Path = "coco128.yaml", autodownload: bool = False) -> None:
        self.spec = load_spec(path, prepare=autodownload)
        root = self.spec.root
        self.hub_dir = root.with_name(f"{root.name}-hub")
        self.im_dir = self.hub_dir / "images"
        self.data = dict(self.spec.raw)
        self.stats: dict[str, Any] = {"nc": self.spec.num_classes, "names": list(self.spec.names.values())}
        self._indexes = {
            split: load_index(self.spec, split, require_labels=False)
            for split, source in self.spec.splits.items()
            if not source.missing
        }

    def get_json(self, save: bool = False, verbose: bool = False) -> dict[str, Any]:
        """`nc`, `names`, and for train, val and test the statistics, or None for a missing split.

        `instance_stats` has the objects in `total` and `per_class`, `image_stats` the images in `total`, `unlabelled`
        and `per_class` (with at least one object of it), `labels` for each image {file name: [[class, x, y, w, h]]}.

        Args:
            save: write them to `<hub_dir>/stats.json`.
            verbose: log them.
        """
        for split in SPLITS:
            index = self._indexes.get(split)
            self.stats[split] = None if index is None else summarize(index, self.spec.num_classes)
        if save:
            self.hub_dir.mkdir(parents=True, exist_ok=True)
            (self.hub_dir / "stats.json").write_text(json.dumps(self.stats), encoding="utf-8")
        if verbose:
            LOGGER.info(json.dumps(self.stats, indent=2))
        return self.stats

    def process_images(self) -> Path:
        """Write all images as JPEG of at most 1920 pixels to `im_dir`, which is returned; equal names are numbered."""
        self.im_dir.mkdir(parents=True, exist_ok=True)
        paths = [path for index in self._indexes.values() for path in index.paths]
        names: list[str] = []
        counts: Counter[str] = Counter()
        for stem in (Path(path).stem for path in paths):
            counts[stem] += 1
            names.append(f"{stem}.jpg" if counts[stem] == 1 else f"{stem}_{counts[stem]}.jpg")

        def write(number: int) -> None:
            frame = read_image(paths[number])
            if max(frame.shape[:2]) > LONGEST_SIDE:
                frame = resize(frame, fit_longest_side(frame.shape[:2], LONGEST_SIDE), cv2.INTER_AREA)
            imwrite(self.im_dir / names[number], frame, quality=QUALITY)

        run_threaded(write, len(paths))
        return self.im_dir


def dataset_stats(
    path: str | Path = "coco128.yaml",
    autodownload: bool = False,
    verbose: bool = False,
    profile: bool = False,
    hub: bool = False,
) -> dict[str, Any]:
    """The statistics of `HUBDatasetStats.get_json`.

    Args:
        path, autodownload: as in `HUBDatasetStats`.
        verbose: log the statistics.
        profile: log how long they took.
        hub: also write stats.json and the images for the web.
    """
    start = time.perf_counter()
    statistics = HUBDatasetStats(path, autodownload)
    stats = statistics.get_json(save=hub, verbose=verbose)
    if hub:
        statistics.process_images()
    if profile:
        LOGGER.info(f"{path}: {time.perf_counter() - start:.3f} s")
    return stats


def summarize(index: ImageIndex, num_classes: int) -> dict[str, Any]:
    """Statistics of a split, see `HUBDatasetStats.get_json`."""
    per_image = np.diff(index.offsets)
    owners = np.repeat(np.arange(len(index)), per_image)
    present = np.unique(np.stack([owners, index.classes], axis=1), axis=0)[:, 1]
    rows = np.concatenate([index.classes[:, None], index.boxes_xywhn.astype(np.float64).round(DIGITS)], axis=1)
    labels = np.split(rows, index.offsets[1:-1])
    return {
        "instance_stats": {
            "total": int(index.num_objects),
            "per_class": np.bincount(index.classes, minlength=num_classes).tolist(),
        },
        "image_stats": {
            "total": len(index),
            "unlabelled": int((per_image == 0).sum()),
            "per_class": np.bincount(present, minlength=num_classes).tolist(),
        },
        "labels": [
            {Path(path).name: [[int(row[0]), *row[1:].tolist()] for row in image_rows]}
            for path, image_rows in zip(index.paths, labels, strict=True)
        ],
    }
