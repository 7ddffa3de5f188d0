"""Labels from COCO instance annotations (cocodataset.org/#format-data)."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.errors import InputError
from utils.core.limits import describe_excess
from utils.core.logging import LOGGER
from utils.datasets.index.coco_file import count_crowds, read_coco, shorten
from utils.datasets.index.verify import LabelRows
from utils.imaging.read import MAX_PIXELS
from utils.ops.masks import signed_area, trace_rings
from utils.ops.rle import decode_rle

MAX_VALUE = 1e9  # pixels


def load_annotations(
    file: Path, names: Mapping[int, str], listed: Sequence[str], folders: Sequence[Path]
) -> tuple[list[str], list[LabelRows]]:
    """Images in an instances JSON and their label rows, normalized, not yet checked.

    Categories are matched to classes by name if all their names are in `names`, else in the order of their ids. Crowd
    regions are skipped. An image with several entries gets the annotations of all of them. A `file_name` may lead out
    of the folders, as a line of a list may: images are only read.

    Args:
        names: class names by number.
        listed: existing image files, which `file_name` is matched against.
        folders: folders that `file_name` may be relative to.

    Raises:
        InputError: the file is not an instances JSON, or has other categories than the data YAML.
    """
    content = read_coco(file)
    classes = _match_categories(content["categories"], names, file)
    by_image = _group_by_image(content, file)
    finder = _PathFinder(listed, folders, (image["file_name"] for image in content["images"]))
    entries: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for image in content["images"]:
        entries[finder.find(image["file_name"])].append(image)
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
    by_image = _group_by_image(content, file)
    for image in content["images"]:
        yield image, _image_rows(image, by_image[image["id"]], classes, file)


def _group_by_image(content: Mapping[str, Any], file: Path) -> dict[Any, list[dict[str, Any]]]:
    """Annotations of each image id, without crowd regions; warns about those of unknown images."""
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd"):
            by_image[annotation.get("image_id")].append(annotation)
    image_ids = {image["id"] for image in content["images"]}
    if unknown := [image_id for image_id in by_image if image_id not in image_ids]:
        count = sum(len(by_image[image_id]) for image_id in unknown)
        LOGGER.warning(
            f"WARNING {file}: {count} annotations skipped: their image is not in the list 'images', such as "
            f"{shorten(unknown[0])}"
        )
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


def _match_categories(categories: Sequence[Mapping[str, Any]], names: Mapping[int, str], file: Path) -> dict[Any, int]:
    """Class number of each category id."""
    numbers = {name: number for number, name in names.items()}
    if all(category["name"] in numbers for category in categories):
        return {category["id"]: numbers[category["name"]] for category in categories}
    if len(categories) != len(names):
        unknown = next(category["name"] for category in categories if category["name"] not in numbers)
        raise InputError(
            f"{file}: category {shorten(unknown)} is not in the data YAML's names, and {len(categories)} categories "
            f"cannot be matched in order with {len(names)} names"
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
    size_wh = np.array([side if _is_side(side) else 0 for side in sides], np.float64)
    for annotation in annotations:
        location = f"{file}: annotation {shorten(annotation.get('id'))}"
        box: Any = annotation.get("bbox")
        if annotation.get("category_id") not in classes:
            labels.drop(location, f"category {shorten(annotation.get('category_id'))} is not in the list 'categories'")
        elif not size_wh.all():
            labels.drop(location, f"image {shorten(image['id'])} has no valid width and height")
        elif not _is_numbers(box) or len(box) != 4:
            labels.drop(location, f"bbox {shorten(box)} is not left, top, width, height")
        else:
            ltwh = np.array(box, np.float64).reshape(2, 2)
            center, size = (ltwh[0] + ltwh[1] / 2) / size_wh, ltwh[1] / size_wh
            rows.append([classes[annotation["category_id"]], *center, *size])
            rings, problem = _parse_segmentation(annotation.get("segmentation"), size_wh)
            polygons.append(rings)
            labels.locations.append(location)
            if problem:
                labels.messages.append(f"{location}: segmentation: {problem}")
    labels.rows = np.array(rows, np.float32).reshape(-1, 5)
    labels.polygons = polygons if any(polygons) else None
    return labels


def _is_side(value: Any) -> bool:
    return type(value) in (int, float) and 1 <= value <= MAX_VALUE


def _is_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) in (int, float) and -MAX_VALUE <= v <= MAX_VALUE for v in values)


def _parse_segmentation(segmentation: Any, size_wh: np.ndarray) -> tuple[list[np.ndarray], str]:
    """Normalized rings of an object, and what is wrong with its segmentation; without rings, its box is used.

    The polygons of a list are parts of the object and get the same orientation. Holes, which only run-length encodings
    can have, get the opposite one.
    """
    problem = ""
    if isinstance(segmentation, dict) and segmentation:
        rings, problem = _trace_mask(segmentation, size_wh)
    elif isinstance(segmentation, list):
        valid = [ring for ring in segmentation if _is_numbers(ring) and len(ring) % 2 == 0]
        if len(valid) < len(segmentation):
            problem = f"{len(segmentation) - len(valid)} of {len(segmentation)} polygons are not lists of x, y; skipped"
        parts = [np.array(ring, np.float64).reshape(-1, 2) for ring in valid]
        rings = [ring if len(parts) == 1 or signed_area(ring) >= 0 else ring[::-1] for ring in parts]
    else:
        rings, problem = [], f"{shorten(segmentation)} is neither polygons nor a mask; skipped" if segmentation else ""
    return [(ring / size_wh).astype(np.float32) for ring in rings if len(ring) >= 3], problem


def _trace_mask(rle: Mapping[str, Any], size_wh: np.ndarray) -> tuple[list[np.ndarray], str]:
    """Rings of a run-length encoding in pixels, and what is wrong with it."""
    if excess := describe_excess("pixels", size_wh.prod(), MAX_PIXELS):
        return [], excess
    mask = decode_rle(rle) if rle.get("size") == size_wh[::-1].tolist() else None
    if mask is None:
        return [], "not a run-length encoding of the image's size; skipped"
    return trace_rings(mask), ""
