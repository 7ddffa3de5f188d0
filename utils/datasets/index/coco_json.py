"""COCO instance annotations read as labels, without a conversion on disk (format: cocodataset.org/#format-data)."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.index.json_stream import read_json
from utils.datasets.index.verify import LabelRows
from utils.ops.masks import bitmap_rings, signed_area
from utils.ops.rle import decode_rle

NEEDED: dict[str, tuple[str, ...]] = {"images": ("id", "file_name"), "annotations": (), "categories": ("id", "name")}


def load_annotations(
    file: Path, names: Mapping[int, str], listed: Sequence[str], places: Sequence[Path]
) -> tuple[list[str], list[LabelRows]]:
    """Images named in an instances JSON and their label rows, normalized, not yet checked.

    Categories become classes by name where all their names are in `names`, else in order of their ids. Crowd regions
    are passed over. An image that is listed several times has the annotations of all its entries.

    Args:
        listed: image files known to exist; `file_name` is looked up among them, by the end of the path.
        places: folders under which an image not in `listed` is reported as missing.

    Raises:
        InputError: the file is no instances JSON, or has other categories than the data YAML.
    """
    content = _read(file, ("images", "annotations", "categories"))
    classes = _class_of_category(content["categories"], names, file)
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation.get("image_id")].append(annotation)
    finder = _PathFinder(listed, places, (str(image["file_name"]) for image in content["images"]))
    entries: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for image in content["images"]:
        entries[finder.find(str(image["file_name"]))].append(image)
    labels, crowds = [], 0
    for of_image in entries.values():
        rows = [row for number in dict.fromkeys(image["id"] for image in of_image) for row in by_image[number]]
        crowds += sum(bool(row.get("iscrowd")) for row in rows)
        labels.append(_image_rows(of_image[0], [row for row in rows if not row.get("iscrowd")], classes, file))
    if crowds:
        LOGGER.info(f"{file}: {crowds} crowd regions passed over")
    if again := len(content["images"]) - len(entries):
        LOGGER.warning(f"WARNING {file}: {again} images name a file listed before; their annotations are joined")
    return list(entries), labels


class _PathFinder:
    """Finds the images that a JSON names among those on disk: below a place, else by the end of the path.

    By its end a path takes the one file that agrees in most folders with it, unless another entry names that file or
    agrees with it as well; by the name alone, only where no other file has that name.
    """

    def __init__(self, listed: Sequence[str], places: Sequence[Path], wanted: Iterable[str]) -> None:
        self.places = places
        self.known = set(listed)
        self.found: dict[str, str] = {}
        astray = []
        for name in dict.fromkeys(wanted):
            if path := self._below_a_place(name):
                self.found[name] = path
            else:
                astray.append(name)
        if astray:
            self._find_by_end(astray, sorted(self.known.difference(self.found.values())))

    def find(self, file_name: str) -> str:
        """The image's file; where it should be if there is none."""
        return self.found.get(file_name) or os.path.normpath(self.places[0] / file_name)

    def _below_a_place(self, name: str) -> str | None:
        tries = (os.path.normpath(place / name) for place in self.places)
        return next((path for path in tries if path in self.known), None)

    def _find_by_end(self, names: Sequence[str], free: Sequence[str]) -> None:
        """Note the files of names that lie below no place; `free` are those that no entry names."""
        alike = Counter(Path(path).name for path in self.known)
        by_end: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for path in free:
            for length in (1, 2):
                by_end[Path(path).parts[-length:]].append(path)
        claims: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for name in names:
            parts = Path(name).parts
            files = by_end.get(parts[-2:], []) if len(parts) > 1 else []
            if not files and parts and alike[parts[-1]] == 1:
                files = by_end.get(parts[-1:], [])
            if best := _only_longest([(_same_end(name, file), file) for file in files]):
                claims[best[1]].append((best[0], name))
        for file, claimants in claims.items():
            if winner := _only_longest(claimants):
                self.found[winner[1]] = file


def _same_end(a: str, b: str) -> int:
    """Number of last parts in which two paths agree."""
    pairs = zip(reversed(Path(a).parts), reversed(Path(b).parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _only_longest(matches: Sequence[tuple[int, str]]) -> tuple[int, str] | None:
    """The match of greatest length; None where there is none, or several are as long."""
    best = max(matches, default=None)
    return best if best and sum(length == best[0] for length, _ in matches) == 1 else None


def categories_of(file: Path) -> list[str]:
    """Names of the categories of a COCO JSON, in the order of their ids; InputError where there are none."""
    categories = _read(file, ("images", "annotations", "categories"))["categories"]
    if not categories:
        raise InputError(f"{file}: no categories in it; expected COCO annotations")
    return [str(category["name"]) for category in sorted(categories, key=lambda category: category["id"])]


def image_names(file: Path) -> list[str]:
    """The `file_name` of every image that a COCO JSON lists, annotated or not."""
    return [str(image["file_name"]) for image in _read(file, ("images",))["images"]]


def _read(file: Path, keys: Sequence[str]) -> dict[str, Any]:
    content = read_json(file)
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(f"{file}: no list {key!r}; expected COCO annotations")
        _check_entries(content[key], key, file)
    return content


def _check_entries(entries: Sequence[Any], key: str, file: Path) -> None:
    """Every entry is an object whose ids are numbers or text, and has what its list cannot do without."""
    for number, entry in enumerate(entries):
        place = f"{file}: {key}[{number}]"
        if not isinstance(entry, dict):
            raise InputError(f"{place}: {str(entry)[:40]!r} is not an object; expected COCO annotations")
        for name in NEEDED[key]:
            if name not in entry:
                raise InputError(f"{place}: no {name!r}; COCO's {key} need {' and '.join(NEEDED[key])}")
        for name in ("id", "image_id", "category_id"):
            if isinstance(entry.get(name), list | dict):
                raise InputError(f"{place}: {name} {str(entry[name])[:40]} is not a number")


def _class_of_category(categories: Sequence[Mapping[str, Any]], names: Mapping[int, str], file: Path) -> dict[Any, int]:
    """Class number of each category id."""
    number_of = {name: number for number, name in names.items()}
    if all(category.get("name") in number_of for category in categories):
        return {category["id"]: number_of[category["name"]] for category in categories}
    if len(categories) != len(names):
        unknown = next(category.get("name") for category in categories if category.get("name") not in number_of)
        raise InputError(
            f"{file}: category {unknown!r} is not in the data YAML's names, and {len(categories)} categories cannot be "
            f"matched in order with {len(names)} names"
        )
    LOGGER.warning(f"WARNING {file}: category names differ from the data YAML's; matched in order of their ids")
    ids = sorted(category["id"] for category in categories)
    return {category_id: number for number, category_id in enumerate(ids)}


def _image_rows(
    image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], classes: Mapping[Any, int], file: Path
) -> LabelRows:
    """Rows of one image from its `bbox` (left, top, width, height in pixels) and `segmentation`."""
    labels, rows, polygons = LabelRows(), [], []
    sides = [image.get("width"), image.get("height")]
    size_wh = np.array([side if isinstance(side, int | float) and side > 0 else 0 for side in sides], np.float64)
    for annotation in annotations:
        place = f"{file}: annotation {annotation.get('id')}"
        box = annotation.get("bbox")
        if annotation.get("category_id") not in classes:
            labels.drop(place, f"category {annotation.get('category_id')} is not among the categories")
        elif not size_wh.all():
            labels.drop(place, f"image {image['id']} has no usable width and height")
        elif not _is_box(box):
            labels.drop(place, f"bbox {box!r} is not left, top, width, height")
        else:
            ltwh = np.array(box, np.float64).reshape(2, 2)
            center, size = (ltwh[0] + ltwh[1] / 2) / size_wh, ltwh[1] / size_wh
            rows.append([classes[annotation["category_id"]], *center, *size])
            polygons.append(_rings(annotation.get("segmentation"), size_wh))
            labels.places.append(place)
    labels.rows = np.array(rows, np.float32).reshape(-1, 5)
    labels.polygons = polygons if any(polygons) else None
    return labels


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box)


def _is_ring(ring: Any) -> bool:
    return isinstance(ring, list) and len(ring) % 2 == 0 and all(isinstance(v, int | float) for v in ring)


def _rings(segmentation: Any, size_wh: np.ndarray) -> list[np.ndarray]:
    """Normalized rings of an object; none where its segmentation is absent or not understood (the box then serves).

    The polygons of a list are parts of the object and made to run the same way; holes, which only run-length codes
    can have, run the other way.
    """
    if isinstance(segmentation, dict):
        fits = segmentation.get("size") == [size_wh[1], size_wh[0]]
        mask = decode_rle(segmentation) if fits else None
        rings = [] if mask is None else bitmap_rings(mask)
    elif isinstance(segmentation, list):
        parts = [np.array(ring, np.float64).reshape(-1, 2) for ring in segmentation if _is_ring(ring)]
        rings = [ring if len(parts) == 1 or signed_area(ring) >= 0 else ring[::-1] for ring in parts]
    else:
        rings = []
    return [(ring / size_wh).astype(np.float32) for ring in rings if len(ring) >= 3]
