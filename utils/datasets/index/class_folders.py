"""Sets of labelled images as folders: `<set>/<split>/<class>/image`, given by folder, known name or data YAML."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from utils.core.errors import InputError
from utils.core.files import expand_user
from utils.core.logging import LOGGER
from utils.datasets.index.cache import Findings, fingerprint, keep, load_cache
from utils.datasets.index.data_yaml import SPLITS, DataSpec, SplitSource, load_spec, read_spec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.labels import list_images, show_messages, verify_pairs
from utils.datasets.index.verify import LabelRows
from utils.datasets.prepare.archives import datasets_folder, fetch_data_set

RELEASE = "https://github.com/ultralytics/yolov5/releases/download/v1.0"
KNOWN_SETS = (  # archives of that release
    "caltech101", "caltech256", "cifar10", "cifar100", "fashion-mnist", "imagenette", "imagenette160", "imagenette320",
    "imagewoof", "imagewoof160", "imagewoof320", "mnist", "mnist160",
)  # fmt: skip
REGISTERED = ("imagenet", "imagenet1k", "imagenet-1k")
BUILTIN = "builtin:"
LAYOUT = "expected train/<class>/*.jpg and test/ or val/ of the same classes"
CROPS_HINT = "a detection set becomes one by `python -m utils.datasets crops`"
SHOWN_NAMES = 5


def load_class_data(data: str | Path, *, prepare: bool = True) -> DataSpec:
    """The set that `--data` means, as a `DataSpec` whose places hold a folder for each class.

    The split `val` is the folder test/ where there is one, else val/; classes are numbered in alphabetical order of
    the training folders. A data YAML says it all itself: its names are those of the folders, or as many.

    Args:
        data: a folder, one of KNOWN_SETS, `imagenet`, `builtin:NAME` or a data YAML.
        prepare: fetch or draw a set that is not there; without it, the names of one that is not there are empty.

    Raises:
        InputError: no such set, or a folder without splits.
    """
    text = str(data)
    if text.startswith(BUILTIN):
        text = f"{text.removeprefix(BUILTIN)}.yaml"
    elif text.lower() in REGISTERED and not Path(text).is_dir():
        text = "ImageNet.yaml"
    if Path(text).suffix.lower() in (".yaml", ".yml"):
        return load_spec(text) if prepare else read_spec(text)
    root = find_class_root(text)
    if not root.is_dir():
        if not prepare:
            return DataSpec(root, root, {}, {})
        LOGGER.info(f"{root} is not here: fetching it from {RELEASE}")
        fetch_data_set(f"{RELEASE}/{root.name}.zip", root)
    return spec_of_folder(root)


def is_class_data(data: str | Path) -> bool:
    """Whether `--data` means folders of classes without a YAML: a folder, a known name or `builtin:NAME`."""
    given = expand_user(data)
    return given.is_dir() or given.name in (*KNOWN_SETS, *REGISTERED) or str(data).startswith(BUILTIN)


def read_data(data: str | Path) -> DataSpec:
    """The set that `--data` of any task means, whether or not its images are there; errors as its readers."""
    if is_class_data(data):
        return load_class_data(data, prepare=False)
    return read_spec(data)


def find_class_root(data: str) -> Path:
    """The folder given, or where the set of a known name is kept; it need not be there.

    Raises:
        InputError: neither a folder nor a known name.
    """
    given = expand_user(data)
    if given.is_dir():
        return given.absolute()
    if given.name not in KNOWN_SETS:
        if given.name.lower() in REGISTERED:
            raise InputError(
                f"--data {data}: no such folder; its publisher gives it to registered users only; {LAYOUT}"
            )
        near = get_close_matches(given.name, KNOWN_SETS, n=3) or KNOWN_SETS
        raise InputError(f"--data {data}: no such folder; {LAYOUT}; sets known by name: {', '.join(near)}")
    if given.name != str(given):
        return Path(os.path.normpath(given.absolute()))
    return datasets_folder() / given.name


def spec_of_folder(root: Path) -> DataSpec:
    """The splits and classes of a folder.

    Raises:
        InputError: there is no split, or no class.
    """
    found = {split: root / split for split in SPLITS if (root / split).is_dir()}
    if not found:
        raise InputError(f"{root}: neither train, val nor test in it; {LAYOUT}; {CROPS_HINT}")
    first = found.get("train", next(iter(found.values())))
    folders = class_folders(first)
    if not folders:
        raise InputError(f"{first}: no folder of a class in it; {LAYOUT}; {CROPS_HINT}")
    measured = found.get("test", found.get("val"))
    places = {**found, **({"val": measured} if measured else {})}
    splits = {split: SplitSource(split, (place,)) for split, place in places.items()}
    return DataSpec(root, root, dict(enumerate(folders)), splits)


def class_folders(place: Path) -> list[str]:
    """Names of the folders in a split's folder, sorted; hidden ones are passed over."""
    return sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def class_numbers(spec: DataSpec) -> dict[str, int]:
    """The class of each folder name: by the names of the set, else by alphabetical order where there are as many.

    Raises:
        InputError: the folders are not those classes.
    """
    by_name = {name: number for number, name in spec.names.items()}
    source = spec.splits.get("train") or spec.splits["val"]
    folders = sorted({name for place in source.places if place.is_dir() for name in class_folders(place)})
    if set(folders) <= set(by_name):
        return by_name
    if len(folders) == len(by_name):
        return {name: number for number, name in enumerate(folders)}
    strange = [name for name in folders if name not in by_name]
    raise InputError(
        f"{spec.path}: {len(by_name)} names, but {len(folders)} folders of classes in {source.places[0]}, "
        f"{_listed(strange)} not among the names; they must agree"
    )


def load_class_index(spec: DataSpec, split: str, *, verbose: bool = False, workers: int = 8) -> ImageIndex:
    """The images of a split, each checked, with one whole-image label; remembered in a cache beside the folder.

    Raises:
        InputError: no such split, a folder of an unknown class, or no usable image.
    """
    index, findings = verify_class_split(spec, split, workers)
    _report(split, index, findings, spec.names, verbose=verbose)
    if not index.paths:
        place = split_places(spec, split)[0]
        raise InputError(f"{place}: {split}: none of the {findings.corrupt} images can be read")
    return ImageIndex(
        index.paths, index.sizes_hw, index.offsets, index.classes, index.boxes_xywhn, names=dict(spec.names)
    )


def verify_class_split(spec: DataSpec, split: str, workers: int = 8) -> tuple[ImageIndex, Findings]:
    """The images of a split, each checked now or in an earlier run, and what was found.

    Raises:
        InputError: no such split, a folder of an unknown class, or no image.
    """
    places = split_places(spec, split)
    numbers = class_numbers(spec)
    images, classes = list_class_images(places, numbers, split)
    if not images:
        raise InputError(f"{places[0]}: {split}: no images in folders of classes; {LAYOUT}; {CROPS_HINT}")
    key = fingerprint(images, "classes", sorted(numbers.items()))
    cache_file = places[0].with_name(f"{places[0].name}.cache")
    known = load_cache(cache_file, key)
    if known is None:
        labels = [whole_image(image, number) for image, number in zip(images, classes, strict=True)]
        known = keep(cache_file, key, verify_pairs(images, labels, len(numbers), split, workers))
    return known


def split_places(spec: DataSpec, split: str) -> tuple[Path, ...]:
    """The folders of a split; InputError where there are none."""
    source = spec.splits.get(split)
    if source is None:
        there = ", ".join(dict.fromkeys(str(s.places[0].name) for s in spec.splits.values()))
        raise InputError(f"{spec.path}: there is no {split} split, only {there or 'nothing'}; {LAYOUT}")
    if source.missing:
        raise InputError(f"{spec.path}: {split}: {source.missing[0]!r} not found under {spec.root}")
    return source.places


def list_class_images(places: Sequence[Path], numbers: dict[str, int], split: str) -> tuple[list[str], list[int]]:
    """Image files below the class folders and their classes; folders without any are named.

    Raises:
        InputError: a folder of a class that the set does not have, or a place that is no folder.
    """
    images: list[str] = []
    classes: list[int] = []
    for place in places:
        if not place.is_dir():
            raise InputError(f"{place}: {split}: not a folder; {LAYOUT}; {CROPS_HINT}")
        for name in class_folders(place):
            if name not in numbers:
                raise InputError(f"{place / name}: {split}: no class of that name, known are {_listed(list(numbers))}")
            found = list_images(place / name, place)
            images += found
            classes += [numbers[name]] * len(found)
    seen = set(classes)
    if images and (absent := [name for name, number in numbers.items() if number not in seen]):
        LOGGER.warning(f"WARNING {places[0]}: {split}: no images of {_listed(absent)}")
    return images, classes


def whole_image(image: str, number: int) -> LabelRows:
    """A class as the label of a box around the whole image."""
    return LabelRows(np.array([[number, 0.5, 0.5, 1, 1]], np.float32), places=[image])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(map(repr, names[:SHOWN_NAMES])) + more


def _report(split: str, index: ImageIndex, findings: Findings, names: dict[int, str], *, verbose: bool) -> None:
    show_messages(findings.messages, verbose=verbose)
    counts = np.bincount(index.classes, minlength=len(names))
    spread = f", {counts.min()} to {counts.max()} of each" if len(counts) else ""
    LOGGER.info(f"{split}: {findings.images} images of {len(names)} classes{spread}; {findings.corrupt} unusable")
