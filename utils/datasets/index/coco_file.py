"""COCO annotation files: reading and checks (cocodataset.org/#format-data)."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.core.files import read_json
from utils.core.logging import LOGGER
from utils.datasets.index.listing import is_path

LISTS = ("images", "annotations", "categories")
LARGE_FILE, MEMORY_FACTOR = 1e9, 6  # bytes; measured with boxes and with polygons


def read_coco(file: Path, keys: Sequence[str] = LISTS, *, name_key: str = "file_name") -> dict[str, Any]:
    """Content of a COCO JSON with the entries of its lists checked.

    Args:
        keys: lists that it must have.
        name_key: key of an image's file name.

    Raises:
        InputError: the file is not valid JSON, has no such list, or an entry lacks a required key.
    """
    size = file.stat().st_size if file.is_file() else 0
    if size > LARGE_FILE:
        LOGGER.info(f"{file}: {size / 1e9:.1f} GB, reading takes about {size * MEMORY_FACTOR / 1e9:.0f} GB of memory")
    content = read_json(file)
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(f"{file}: no list {key!r}; expected COCO annotations")
        for number, entry in enumerate(content[key]):
            if not isinstance(entry, dict):
                raise InputError(
                    f"{file}: {key}[{number}]: {shorten(entry)} is not an object; expected COCO annotations"
                )
    if "images" in keys:
        _check_images(content["images"], name_key, file)
    if "annotations" in keys:
        _check_annotations(content["annotations"], file)
    if "categories" in keys:
        _check_categories_(content["categories"], file)
    return content


def read_category_names(file: Path) -> list[str]:
    """Category names in the order of their ids; InputError if there are none."""
    categories = read_coco(file)["categories"]
    if not categories:
        raise InputError(f"{file}: the list 'categories' is empty; expected COCO annotations")
    return [category["name"] for category in sorted(categories, key=lambda category: category["id"])]


def read_image_names(file: Path) -> list[str]:
    """The `file_name` of every image, annotated or not."""
    return [image["file_name"] for image in read_coco(file, ("images",))["images"]]


def count_crowds(content: Mapping[str, Any]) -> int:
    """Number of annotations that are crowd regions."""
    return sum(bool(annotation.get("iscrowd")) for annotation in content["annotations"])


def shorten(value: Any) -> str:
    """A value of the file for messages."""
    return str(value) if type(value) is int and abs(value) < 10**15 else reprlib.repr(value)  # an id: fast


def _check_images(images: Sequence[Mapping[str, Any]], name_key: str, file: Path) -> None:
    """InputError unless every image has a path and an id of its own."""
    numbers: dict[Any, int] = {}
    for number, image in enumerate(images):
        place = f"{file}: images[{number}]"
        _check_keys(image, ("id", name_key), place)
        if not is_path(image[name_key]):
            raise InputError(f"{place}: {name_key} {shorten(image[name_key])} is not a path")
        other = numbers.setdefault(image["id"], number)
        if images[other][name_key] != image[name_key]:
            raise InputError(f"{place}: id {shorten(image['id'])} is also that of images[{other}]; each needs its own")


def _check_annotations(annotations: Sequence[Mapping[str, Any]], file: Path) -> None:
    """InputError unless the ids in annotations are numbers or text."""
    for number, annotation in enumerate(annotations):
        for name in ("image_id", "category_id"):
            if isinstance(annotation.get(name), list | dict):
                value = shorten(annotation[name])
                raise InputError(f"{file}: annotations[{number}]: {name} {value} is not a number")


def _check_categories_(categories: Sequence[dict[str, Any]], file: Path) -> None:
    """InputError unless every category has a name and an id, which can be sorted; names become text."""
    numbers: dict[Any, int] = {}
    for number, category in enumerate(categories):
        place = f"{file}: categories[{number}]"
        _check_keys(category, ("id", "name"), place)
        if not isinstance(category["name"], str | int | float):
            raise InputError(f"{place}: name {shorten(category['name'])} is not text")
        category["name"] = str(category["name"])
        other = numbers.setdefault(category["id"], number)
        if other != number:
            raise InputError(f"{place}: id {shorten(category['id'])} is also that of categories[{other}]")
        if isinstance(category["id"], str) != isinstance(categories[0]["id"], str):
            raise InputError(f"{place}: id {shorten(category['id'])}: ids must be all numbers or all text")


def _check_keys(entry: Mapping[str, Any], required: Sequence[str], place: str) -> None:
    """InputError unless an entry has the required keys, and its id is a number or text."""
    for name in required:
        if name not in entry:
            raise InputError(f"{place}: no {name!r}; required keys: {', '.join(required)}")
    if isinstance(entry["id"], bool) or not isinstance(entry["id"], str | int | float) or entry["id"] != entry["id"]:
        raise InputError(f"{place}: id {shorten(entry['id'])} is not a number")
