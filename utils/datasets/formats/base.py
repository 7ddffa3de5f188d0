"""Shared parts of format readers and writers: objects in pixels, class names, image copies."""

from __future__ import annotations

import json
import os
import reprlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from utils.core.errors import InputError
from utils.core.files import UniqueNames, read_text
from utils.core.logging import LOGGER
from utils.core.types import Polygons
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.label_files import make_label_rows
from utils.datasets.index.labels import box_to_polygon, log_findings, verify_images
from utils.datasets.index.listing import is_path, is_plain_text
from utils.datasets.index.verify import LabelRows
from utils.imaging.read import IMAGE_SUFFIXES
from utils.ops.masks import signed_area

Splits = dict[str, ImageIndex]
NAMES_FILE = "labels.txt"  # one class per line, in order; labelme writes such files too
NO_CLASSES = ("__ignore__", "_background_")  # entries of labelme's file that are not classes
WORKERS = 8
MAX_SIDE, MAX_COORDINATE = 1_000_000, 1e9  # pixels
MAX_TEXT_BYTES = 16 << 20  # of a file with names or the annotations of one image


@dataclass
class PixelObjects:
    """Collects the objects of one image in pixels."""

    size_hw: tuple[int, int]
    classes: list[int] = field(default_factory=list)
    boxes_xyxy: list[Sequence[float]] = field(default_factory=list)
    polygons: Polygons = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    skipped: int = 0  # objects of other kinds or classes

    def __post_init__(self) -> None:
        if not all(1 <= side <= MAX_SIDE for side in self.size_hw):
            height, width = map(reprlib.repr, self.size_hw)
            raise ValueError(f"image size {width} x {height} is not valid")

    def add(self, label: int, place: str, *, box_xyxy: Sequence[float] = (), rings: Sequence[np.ndarray] = ()) -> None:
        """Add an object with a box, rings (K, 2), or both; by default its box encloses the rings."""
        outlines = [ring for ring in rings if len(ring) >= 3]
        if not len(box_xyxy):
            points = np.concatenate([np.zeros((0, 2)), *rings])
            box_xyxy = [*points.min(0), *points.max(0)] if len(points) else [0.0] * 4
        self.classes.append(label)
        self.boxes_xyxy.append(box_xyxy)
        self.polygons.append([(ring / self.size_hw[::-1]).astype(np.float32) for ring in outlines])
        self.places.append(place)

    def to_rows(self, file: Path) -> LabelRows:
        """Normalized label rows, unchecked; logs how many objects of the file were skipped."""
        if self.skipped:
            LOGGER.info(f"{file}: {self.skipped} objects of other kinds or classes skipped")
        rows = make_label_rows(self.classes, self.boxes_xyxy, self.size_hw, self.places)
        return replace(rows, polygons=self.polygons if any(self.polygons) else None)


def parse_points(values: Any) -> np.ndarray:
    """(K, 2) float64 from a list of x, y in pixels; ValueError for anything else."""
    try:
        points = np.array(values, np.float64).reshape(-1, 2)
    except (TypeError, OverflowError, ValueError) as error:
        raise ValueError(f"{reprlib.repr(values)} is not a list of x, y") from error
    if not (np.abs(points) <= MAX_COORDINATE).all():  # also if one is not a number
        raise ValueError(f"{reprlib.repr(values)} has a coordinate beyond {MAX_COORDINATE:g}")
    return points


def build_index(pairs: Iterable[tuple[str, LabelRows]], names: Mapping[int, str], split: str) -> ImageIndex:
    """Check images and their label rows, log the problems and return the index.

    Raises:
        InputError: there are no images, or none can be read.
    """
    annotated = list(pairs)
    if not annotated:
        raise InputError(f"{split}: no annotated images found")
    images, labels = [image for image, _ in annotated], [rows for _, rows in annotated]
    index, findings = verify_images(images, labels, len(names), split, WORKERS)
    log_findings(split, index, findings, verbose=False)
    if not index.paths:
        raise InputError(f"{split}: none of the {len(images)} images can be read, the first is {images[0]}")
    return replace(index, names=dict(names))


def resolve_class_names(labels: Iterable[str], names: Sequence[str], folder: Path) -> dict[int, str]:
    """Class names by number: `names` if any, else those of the set's labels.txt, else the sorted labels.

    Raises:
        InputError: no classes, or a duplicate name.
    """
    file = folder / NAMES_FILE
    names = list(names)
    if not names and file.is_file():
        lines = (line.strip() for line in read_text(file, max_bytes=MAX_TEXT_BYTES).splitlines())
        names = [line for line in lines if line and line not in NO_CLASSES]
    names = names or sorted(set(labels))
    if not names:
        raise InputError(f"{folder}: the annotations contain no objects and thus no classes; set them with --names")
    if len(set(names)) < len(names):
        raise InputError(f"--names {' '.join(names)}: duplicate name")
    if invalid := [name for name in names if not is_plain_text(name)]:
        raise InputError(f"{folder}: the class {invalid[0]!r} has control characters; choose others with --names")
    return dict(enumerate(names))


def find_image(folder: Path, *names: str) -> str:
    """The first of `names` in the folder, else an image with its stem, else the path where it is missing.

    Raises:
        InputError: one of the names cannot be a path.
    """
    for name in names:
        if not is_path(name):
            raise InputError(f"{folder}: {reprlib.repr(name)} cannot be the name of an image; correct the annotation")
    stem = Path(names[0]).stem
    candidates = (*names, *(f"{stem}{suffix}" for suffix in sorted(IMAGE_SUFFIXES)))
    files = (str(folder / name) for name in candidates)
    return next(filter(os.path.isfile, files), str(folder / names[0]))


@dataclass(frozen=True)
class PixelObject:
    """One object in pixels: class, box, and rings (K, 2), empty for a plain box."""

    label: int
    box_xyxy: tuple[float, float, float, float]
    rings: list[np.ndarray]


def get_pixel_objects(index: ImageIndex, i: int) -> list[PixelObject]:
    """The objects of image i in pixels."""
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
    """Whether the rings are just the corners of the box."""
    return len(rings) == 1 and len(rings[0]) == 4 and np.array_equal(rings[0], box_to_polygon(box_xywhn))


def separate_holes(rings: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Split rings into parts, which have the orientation of the largest ring, and holes; parts start with that ring."""
    areas = [signed_area(ring) for ring in rings]
    order = sorted(range(len(rings)), key=lambda k: -abs(areas[k]))
    is_part = [areas[k] * areas[order[0]] >= 0 for k in order]
    parts = [rings[k] for k, part in zip(order, is_part, strict=True) if part]
    return parts, [rings[k] for k, part in zip(order, is_part, strict=True) if not part]


class ImageCopier:
    """Copies or links images into a new data set, with stems that are unique in their folder."""

    def __init__(self, *, link: bool) -> None:
        self.link = link
        self._names: dict[Path, UniqueNames] = {}

    def copy_images(self, index: ImageIndex, folder: Path) -> Iterator[tuple[Path, tuple[int, int], list[PixelObject]]]:
        """Copy or link every image into the folder; new path, height and width, and objects of each.

        Raises:
            InputError: the name of an image is not UTF-8, so that the annotations cannot refer to it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        names = self._names.setdefault(folder, UniqueNames())
        for i, (image, (height, width)) in enumerate(zip(index.paths, index.sizes_hw.tolist(), strict=True)):
            if not is_plain_text(Path(image).name):
                raise InputError(f"{image}: the name is not UTF-8 or has control characters; rename the file")
            target = folder / f"{names.assign(image, Path(image).stem, '')}{Path(image).suffix}"
            self._copy(os.path.realpath(image), target)
            yield target, (height, width), get_pixel_objects(index, i)

    def _copy(self, source: str, target: Path) -> None:
        if self.link:
            try:
                os.link(source, target)
            except OSError:  # another disk, or a file system without hard links
                self.link = False
                LOGGER.warning(f"WARNING {target.parent}: hard links failed, copying the images instead")
        if not target.exists():
            shutil.copyfile(source, target)


def write_json(file: Path, content: object) -> None:
    """Write a JSON file, creating its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_names(out: Path, names: Mapping[int, str]) -> None:
    """Write labels.txt, which keeps the numbers of the classes when the set is read again."""
    (out / NAMES_FILE).write_text("".join(f"{name}\n" for name in names.values()), encoding="utf-8")


def write_data_yaml(out: Path, splits: Mapping[str, Any], names: Mapping[int, str]) -> Path:
    """Write a data.yaml that can be trained from; a missing train or val split is replaced by the first split."""
    first = next(iter(splits.values()))
    content = {"path": ".", **{key: splits.get(key, first) for key in ("train", "val")}}
    content |= {key: value for key, value in splits.items() if key not in content} | {"names": dict(names)}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    missing = [key for key in ("train", "val") if key not in splits]
    note = f"# no {missing[0]} split: create one with `python -m utils.datasets split`\n" if missing else ""
    (out / "data.yaml").write_text(note + text, encoding="utf-8")
    return out / "data.yaml"
