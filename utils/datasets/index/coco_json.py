"""Labels from COCO instance annotations (cocodataset.org/#format-data)."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.errors import InputError
from utils.core.files import read_json
from utils.core.logging import LOGGER
from utils.datasets.index.verify import LabelRows
from utils.ops.masks import signed_area, trace_rings
from utils.ops.rle import decode_rle

LISTS = ("images", "annotations", "categories")


def load_annotations(
    file: Path, names: Mapping[int, str], listed: Sequence[str], folders: Sequence[Path]
) -> tuple[list[str], list[LabelRows]]:
    """Images in an instances JSON and their label rows, normalized, not yet checked.

    Categories are matched to classes by name if all their names are in `names`, else in the order of their ids. Crowd
    regions are skipped. An image with several entries gets the annotations of all of them.

    Args:
        names: class names by number.
        listed: existing image files, which `file_name` is matched against.
        folders: folders that `file_name` may be relative to.

    Raises:
        InputError: the file is not an instances JSON, or has other categories than the data YAML.
    """
    content = read_coco(file)
    classes = _match_categories(content["categories"], names, file)
    by_image = _group_by_image(content["annotations"])
    finder = _PathFinder(listed, folders, (str(image["file_name"]) for image in content["images"]))
    entries: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for image in content["images"]:
        entries[finder.find(str(image["file_name"]))].append(image)
    labels = []
    for images in entries.values():
        image_ids = dict.fromkeys(image["id"] for image in images)
        annotations = [annotation for image_id in image_ids for annotation in by_image[image_id]]
        labels.append(_image_rows(images[0], annotations, classes, file))
    if crowds := count_crowds(content):
        LOGGER.info(f"{file}: {crowds} crowd regions skipped")
    if duplicates := len(content["images"]) - len(entries):
        LOGGER.warning(f"WARNING {file}: {duplicates} images have a duplicate file_name; their annotations are merged")
    return list(entries), labels


def iter_image_labels(
    content: Mapping[str, Any], num_classes: int, file: Path
) -> Iterator[tuple[dict[str, Any], LabelRows]]:
    """Each entry of `images` with its label rows, normalized, not yet checked, without crowd regions.

    Args:
        content: from `read_coco`.
        num_classes: expected number of categories; classes follow the order of the category ids.
        file: for messages.

    Raises:
        InputError: another number of categories.
    """
    classes = _number_categories(content["categories"])
    if len(classes) != num_classes:
        raise InputError(f"{file}: {len(classes)} categories, but the data YAML names {num_classes} classes")
    by_image = _group_by_image(content["annotations"])
    for image in content["images"]:
        yield image, _image_rows(image, by_image[image["id"]], classes, file)


def count_crowds(content: Mapping[str, Any]) -> int:
    """Number of annotations that are crowd regions."""
    return sum(bool(annotation.get("iscrowd")) for annotation in content["annotations"])


def _group_by_image(annotations: Iterable[dict[str, Any]]) -> dict[Any, list[dict[str, Any]]]:
    """Annotations of each image id, without crowd regions."""
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        if not annotation.get("iscrowd"):
            by_image[annotation.get("image_id")].append(annotation)
    return by_image


class _PathFinder:
    """Matches the `file_name`s of a JSON to files on disk: relative to a folder, else by the end of the path.

    By the end of the path, a name gets the file with the longest common end, unless this is ambiguous or the file
    belongs to another entry. A match of the last part alone counts only if no other file has that name.
    """

    def __init__(self, listed: Sequence[str], folders: Sequence[Path], file_names: Iterable[str]) -> None:
        self.folders = folders
        self.listed = set(listed)
        names = list(dict.fromkeys(file_names))
        self.matches = {name: path for name in names if (path := self._find_in_folders(name))}
        self._match_by_end([name for name in names if name not in self.matches])

    def find(self, file_name: str) -> str:
        """The image's file; its expected path if there is none."""
        return self.matches.get(file_name) or os.path.normpath(self.folders[0] / file_name)

    def _find_in_folders(self, name: str) -> str | None:
        candidates = (os.path.normpath(folder / name) for folder in self.folders)
        return next((path for path in candidates if path in self.listed), None)

    def _match_by_end(self, names: Sequence[str]) -> None:
        """Match names that are in no folder to the files that have no entry yet, by ever shorter ends."""
        counts = Counter(Path(path).name for path in self.listed)
        files = {path: Path(path).parts for path in sorted(self.listed.difference(self.matches.values()))}
        parts = {name: Path(name).parts for name in names}
        for length in range(max(map(len, parts.values()), default=0), 0, -1):
            names_by_end, files_by_end = _group_by_end(parts, length), _group_by_end(files, length)
            for end, group in names_by_end.items():
                paths = files_by_end.get(end, [])
                if len(group) == len(paths) == 1 and (length > 1 or counts[end[0]] == 1):
                    self.matches[group[0]] = paths[0]
                    del parts[group[0]], files[paths[0]]


def _group_by_end(parts: Mapping[str, tuple[str, ...]], length: int) -> dict[tuple[str, ...], list[str]]:
    """Paths by their last `length` parts, without those that are shorter."""
    groups = defaultdict(list)
    for path, names in parts.items():
        if len(names) >= length:
            groups[names[-length:]].append(path)
    return groups


def read_category_names(file: Path) -> list[str]:
    """Category names in the order of their ids; InputError if there are none."""
    categories = read_coco(file)["categories"]
    if not categories:
        raise InputError(f"{file}: the list 'categories' is empty; expected COCO annotations")
    return [str(category["name"]) for category in sorted(categories, key=lambda category: category["id"])]


def read_image_names(file: Path) -> list[str]:
    """The `file_name` of every image, annotated or not."""
    return [str(image["file_name"]) for image in read_coco(file, ("images",))["images"]]


def read_coco(file: Path, keys: Sequence[str] = LISTS, *, name_key: str = "file_name") -> dict[str, Any]:
    """Content of a COCO JSON with the entries of its lists checked.

    Args:
        keys: lists that it must have.
        name_key: key of an image's file name.

    Raises:
        InputError: the file is not valid JSON, has no such list, or an entry lacks a required key.
    """
    content = read_json(file)
    required = {"images": ("id", name_key), "annotations": (), "categories": ("id", "name")}
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(f"{file}: no list {key!r}; expected COCO annotations")
        _check_entries(content[key], required[key], f"{file}: {key}")
    return content


def _check_entries(entries: Sequence[Any], required: Sequence[str], where: str) -> None:
    """InputError unless every entry is an object with the required keys whose ids are numbers or text."""
    for number, entry in enumerate(entries):
        place = f"{where}[{number}]"
        if not isinstance(entry, dict):
            raise InputError(f"{place}: {str(entry)[:40]!r} is not an object; expected COCO annotations")
        for name in required:
            if name not in entry:
                raise InputError(f"{place}: no {name!r}; required keys: {', '.join(required)}")
        for name in ("id", "image_id", "category_id"):
            if isinstance(entry.get(name), list | dict):
                raise InputError(f"{place}: {name} {str(entry[name])[:40]} is not a number")


def _match_categories(categories: Sequence[Mapping[str, Any]], names: Mapping[int, str], file: Path) -> dict[Any, int]:
    """Class number of each category id."""
    numbers = {name: number for number, name in names.items()}
    if all(category.get("name") in numbers for category in categories):
        return {category["id"]: numbers[category["name"]] for category in categories}
    if len(categories) != len(names):
        unknown = next(category.get("name") for category in categories if category.get("name") not in numbers)
        raise InputError(
            f"{file}: category {unknown!r} is not in the data YAML's names, and {len(categories)} categories cannot be "
            f"matched in order with {len(names)} names"
        )
    LOGGER.warning(f"WARNING {file}: category names differ from the data YAML's; matched in order of their ids")
    return _number_categories(categories)


def _number_categories(categories: Sequence[Mapping[str, Any]]) -> dict[Any, int]:
    """Class number of each category id, in the order of the ids."""
    ids = sorted(category["id"] for category in categories)
    return {category_id: number for number, category_id in enumerate(ids)}


def _image_rows(
    image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], classes: Mapping[Any, int], file: Path
) -> LabelRows:
    """Rows of one image from `bbox` (left, top, width, height in pixels) and `segmentation`."""
    labels, rows, polygons = LabelRows(), [], []
    sides = [image.get("width"), image.get("height")]
    size_wh = np.array([side if isinstance(side, int | float) and side > 0 else 0 for side in sides], np.float64)
    for annotation in annotations:
        location = f"{file}: annotation {annotation.get('id')}"
        box: Any = annotation.get("bbox")
        if annotation.get("category_id") not in classes:
            labels.drop(location, f"category {annotation.get('category_id')} is not in the list 'categories'")
        elif not size_wh.all():
            labels.drop(location, f"image {image['id']} has no valid width and height")
        elif not _is_numbers(box) or len(box) != 4:
            labels.drop(location, f"bbox {box!r} is not left, top, width, height")
        else:
            ltwh = np.array(box, np.float64).reshape(2, 2)
            center, size = (ltwh[0] + ltwh[1] / 2) / size_wh, ltwh[1] / size_wh
            rows.append([classes[annotation["category_id"]], *center, *size])
            polygons.append(_rings(annotation.get("segmentation"), size_wh))
            labels.locations.append(location)
    labels.rows = np.array(rows, np.float32).reshape(-1, 5)
    labels.polygons = polygons if any(polygons) else None
    return labels


def _is_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, int | float) for v in values)


def _rings(segmentation: Any, size_wh: np.ndarray) -> list[np.ndarray]:
    """Normalized rings of an object; none if its segmentation is missing or invalid, so that only its box is used.

    The polygons of a list are parts of the object and get the same orientation. Holes, which only run-length encodings
    can have, get the opposite one.
    """
    if isinstance(segmentation, dict):
        same_size = segmentation.get("size") == [size_wh[1], size_wh[0]]
        mask = decode_rle(segmentation) if same_size else None
        rings = [] if mask is None else trace_rings(mask)
    elif isinstance(segmentation, list):
        valid = (ring for ring in segmentation if _is_numbers(ring) and len(ring) % 2 == 0)
        parts = [np.array(ring, np.float64).reshape(-1, 2) for ring in valid]
        rings = [ring if len(parts) == 1 or signed_area(ring) >= 0 else ring[::-1] for ring in parts]
    else:
        rings = []
    return [(ring / size_wh).astype(np.float32) for ring in rings if len(ring) >= 3]
