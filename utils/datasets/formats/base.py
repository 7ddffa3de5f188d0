"""What readers and writers of formats share: objects in pixels, images put into place, names of classes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from utils.core.errors import InputError
from utils.core.files import UniqueNames
from utils.core.logging import LOGGER
from utils.core.types import Polygons
from utils.datasets.index.data_yaml import SPLITS
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.json_stream import read_json
from utils.datasets.index.labels import box_corners, report_findings, verify_pairs
from utils.datasets.index.verify import LabelRows
from utils.imaging.read import IMAGE_SUFFIXES
from utils.ops.masks import signed_area

Splits = dict[str, ImageIndex]
NAMES_FILE = "labels.txt"  # a class a line, in their order; labelme writes such files too
NO_CLASSES = ("__ignore__", "_background_")  # entries of labelme's file that are none
WORKERS = 8


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass
class PixelObjects:
    """Gathers the objects of one image, in pixels of an image of `size_hw`."""

    size_hw: tuple[int, int]
    rows: list[list[float]] = field(default_factory=list)
    polygons: Polygons = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    def add(self, label: int, place: str, *, box_xyxy: Sequence[float] = (), rings: Sequence[np.ndarray] = ()) -> None:
        """An object with a box, with rings (K, 2), or with both; without a box it is the one around the rings."""
        outlines = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings]
        outlines = [ring for ring in outlines if len(ring) >= 3]
        if not len(box_xyxy):
            points = np.concatenate([np.zeros((0, 2)), *(np.asarray(ring).reshape(-1, 2) for ring in rings)])
            box_xyxy = [*points.min(0), *points.max(0)] if len(points) else [0.0] * 4
        low, high = np.reshape(np.asarray(box_xyxy, np.float64), (2, 2)) / self.size_hw[::-1]
        self.rows.append([label, *(low + high) / 2, *(high - low)])
        self.polygons.append([(ring / self.size_hw[::-1]).astype(np.float32) for ring in outlines])
        self.places.append(place)

    def labels(self) -> LabelRows:
        """The rows, normalized, not yet checked."""
        rows = np.array(self.rows, np.float32).reshape(-1, 5)
        return LabelRows(rows, self.polygons if any(self.polygons) else None, self.places)


def verified(pairs: Iterable[tuple[str, LabelRows]], names: Mapping[int, str], split: str) -> ImageIndex:
    """The index of images and their rows, each checked; what is wrong is logged.

    Raises:
        InputError: there is no image, or none can be read.
    """
    found = list(pairs)
    if not found:
        raise InputError(f"{split}: no annotated images found")
    images, labels = [image for image, _ in found], [rows for _, rows in found]
    index, findings = verify_pairs(images, labels, len(names), split, WORKERS)
    report_findings(split, index, findings, verbose=False)
    if not index.paths:
        raise InputError(f"{split}: none of the {len(images)} images can be read, the first is {images[0]}")
    return replace(index, names=dict(names))


def class_names(found: Iterable[str], given: Sequence[str], folder: Path) -> dict[int, str]:
    """Names by number: as given, else as in a file labels.txt of the set, else those found in alphabetical order.

    Raises:
        InputError: there is no class, or one is named twice.
    """
    file = folder / NAMES_FILE
    names = list(given)
    if not names and file.is_file():
        lines = (line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines())
        names = [line for line in lines if line and line not in NO_CLASSES]
    names = names or sorted(set(found))
    if not names:
        raise InputError(f"{folder}: no objects in its annotations, so no classes; name them with --names")
    if len(set(names)) < len(names):
        raise InputError(f"--names {' '.join(names)}: a name occurs twice")
    return dict(enumerate(names))


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file; InputError with file and line where there is none."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected an object with annotations, found {type(content).__name__}")
    return content


def split_folders(source: Path) -> dict[str, Path]:
    """The folders train, val and test of a set that has them, else the set itself for training.

    Raises:
        InputError: the source is no folder.
    """
    if not source.is_dir():
        raise InputError(f"--source {source}: no such folder")
    return {split: source / split for split in SPLITS if (source / split).is_dir()} or {"train": source}


def find_image(folder: Path, *names: str) -> str:
    """The first of `names` that lies in the folder, or an image of the first one's stem; else where it should be."""
    for name in names:
        if (folder / name).is_file():
            return str(folder / name)
    stem = Path(names[0]).stem
    beside = (folder / f"{stem}{suffix}" for suffix in sorted(IMAGE_SUFFIXES))
    return str(next((file for file in beside if file.is_file()), folder / names[0]))


# -- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PixelObject:
    """One object to write: class, corners in pixels, and rings (K, 2) in pixels, none for a box."""

    label: int
    box_xyxy: tuple[float, float, float, float]
    rings: list[np.ndarray]


def pixel_objects(index: ImageIndex, i: int) -> list[PixelObject]:
    """The objects of image i."""
    classes, boxes, polygons = index.labels(i)
    size_wh = index.sizes_hw[i, ::-1].astype(np.float64)
    objects = []
    for k, (label, box) in enumerate(zip(classes.tolist(), boxes, strict=True)):
        center, half = box[:2].astype(np.float64) * size_wh, box[2:].astype(np.float64) * size_wh / 2
        (x1, y1), (x2, y2) = (np.clip(corner, 0, size_wh).tolist() for corner in (center - half, center + half))
        rings = polygons[k] if polygons is not None and not _is_box(polygons[k], box) else []
        objects.append(PixelObject(label, (x1, y1, x2, y2), [ring.astype(np.float64) * size_wh for ring in rings]))
    return objects


def _is_box(rings: Sequence[np.ndarray], box_xywhn: np.ndarray) -> bool:
    """Whether the rings only stand in for a box."""
    return len(rings) == 1 and len(rings[0]) == 4 and np.array_equal(rings[0], box_corners(box_xywhn))


def parts_and_holes(rings: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rings that run as the largest one does, that one first, and those that run the other way."""
    areas = [signed_area(ring) for ring in rings]
    order = sorted(range(len(rings)), key=lambda k: -abs(areas[k]))
    same = [areas[k] * areas[order[0]] >= 0 for k in order]
    parts = [rings[k] for k, alike in zip(order, same, strict=True) if alike]
    return parts, [rings[k] for k, alike in zip(order, same, strict=True) if not alike]


class ImagePlacer:
    """Puts images into a new set, under names that are unique in their folder, labels of the same stem included."""

    def __init__(self, *, link: bool) -> None:
        self.link = link
        self._names: dict[Path, UniqueNames] = {}

    def place(self, image: str, folder: Path) -> Path:
        """Copy an image into the folder, or link it there; where it is now."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = self._names.setdefault(folder, UniqueNames()).take(image, Path(image).stem, "")
        target = folder / f"{stem}{Path(image).suffix}"
        source = os.path.realpath(image)
        if self.link:
            try:
                os.link(source, target)
            except OSError:  # another disk, or a file system without links
                self.link = False
                LOGGER.warning(f"WARNING {folder}: images cannot be linked there, they are copied")
        if not target.exists():
            shutil.copyfile(source, target)
        return target


def images_of(index: ImageIndex) -> Iterator[tuple[int, str, int, int]]:
    """Number, file, height and width of each image."""
    for i, path in enumerate(index.paths):
        yield i, path, int(index.sizes_hw[i, 0]), int(index.sizes_hw[i, 1])


def write_json(file: Path, content: object) -> None:
    """Put an object into a file, making its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_names(out: Path, names: Mapping[int, str]) -> None:
    """labels.txt, so that the classes keep their numbers when the set is read again."""
    (out / NAMES_FILE).write_text("".join(f"{name}\n" for name in names.values()), encoding="utf-8")


def write_data_yaml(out: Path, splits: Mapping[str, Any], names: Mapping[int, str]) -> Path:
    """data.yaml of a set that can be trained as it is; a split that is missing is the one that is there."""
    only = next(iter(splits.values()))
    content = {"path": ".", **{key: splits.get(key, only) for key in ("train", "val")}}
    content |= {key: value for key, value in splits.items() if key not in content} | {"names": dict(names)}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    missing = [key for key in ("train", "val") if key not in splits]
    note = f"# there is no {missing[0]} split: `python -m utils.datasets split` makes one\n" if missing else ""
    (out / "data.yaml").write_text(note + text, encoding="utf-8")
    return out / "data.yaml"
