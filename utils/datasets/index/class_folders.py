"""Classification data sets: one folder per class, `<set>/<split>/<class>/<image>`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import numpy as np

from utils.core.errors import InputError
from utils.core.files import expand_user
from utils.core.logging import LOGGER
from utils.datasets.index.cache import Findings, compute_fingerprint, load_or_build
from utils.datasets.index.data_yaml import SPLITS, DataSpec, SplitSource, load_spec, read_spec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.labels import get_split_source, log_messages, verify_images
from utils.datasets.index.listing import is_plain_text, list_images
from utils.datasets.index.verify import LabelRows
from utils.datasets.prepare.archives import datasets_folder, download_dataset

RELEASE = "https://github.com/ultralytics/yolov5/releases/download/v1.0"
KNOWN_SETS = (  # archives in that release
    "caltech101", "caltech256", "cifar10", "cifar100", "fashion-mnist", "imagenette", "imagenette160", "imagenette320",
    "imagewoof", "imagewoof160", "imagewoof320", "mnist", "mnist160",
)  # fmt: skip
REGISTERED = ("imagenet", "imagenet1k", "imagenet-1k")
BUILTIN = "builtin:"
LAYOUT = "expected train/<class>/*.jpg, and test/ or val/ with the same classes"
CROPS_HINT = "convert a detection set with `python -m utils.datasets crops`"
MAX_NAMES = 5  # in messages


def load_class_data(data: str | Path, *, prepare: bool = True) -> DataSpec:
    """The data set of `--data`; each of its splits is a folder with one folder per class.

    The split `val` is the folder test/ if it exists, else val/. Classes are numbered in the alphabetical order of the
    training folders. For a data YAML, `names` must match the folders by name or in number.

    Args:
        data: a folder, one of KNOWN_SETS, `imagenet`, `builtin:NAME` or a data YAML.
        prepare: download or generate a missing data set; otherwise its names are empty.

    Raises:
        InputError: no such data set, or a folder without splits.
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
        LOGGER.info(f"{root} not found: downloading it from {RELEASE}")
        download_dataset(f"{RELEASE}/{root.name}.zip", root)
    return build_folder_spec(root)


def is_class_data(data: str | Path) -> bool:
    """Whether `--data` is a classification set without a YAML: a folder, a known name or `builtin:NAME`."""
    given = expand_user(data)
    return given.is_dir() or given.name in (*KNOWN_SETS, *REGISTERED) or str(data).startswith(BUILTIN)


def read_data(data: str | Path) -> DataSpec:
    """The data set of `--data` of any task, whether or not its images exist."""
    if is_class_data(data):
        return load_class_data(data, prepare=False)
    return read_spec(data)


def find_class_root(data: str) -> Path:
    """The root folder of a classification set: an existing folder, or where a known set is stored.

    Raises:
        InputError: neither a folder nor a known name.
    """
    given = expand_user(data)
    if given.is_dir():
        return given.absolute()
    if given.name not in KNOWN_SETS:
        if given.name.lower() in REGISTERED:
            raise InputError(
                f"--data {data}: no such folder; download it yourself, which requires registration; {LAYOUT}"
            )
        near = get_close_matches(given.name, KNOWN_SETS, n=3) or KNOWN_SETS
        raise InputError(f"--data {data}: no such folder; {LAYOUT}; known names: {', '.join(near)}")
    if given.name != str(given):
        return Path(os.path.normpath(given.absolute()))
    return datasets_folder() / given.name


def build_folder_spec(root: Path) -> DataSpec:
    """The splits and classes of a folder.

    Raises:
        InputError: there is no split, or no class.
    """
    folders = {split: root / split for split in SPLITS if (root / split).is_dir()}
    if not folders:
        raise InputError(f"{root}: no folder train, val or test; {LAYOUT}; {CROPS_HINT}")
    first = folders.get("train", next(iter(folders.values())))
    names = list_class_folders(first)
    if not names:
        raise InputError(f"{first}: no class folders; {LAYOUT}; {CROPS_HINT}")
    if invalid := [name for name in names if not is_plain_text(name)]:
        raise InputError(f"{first}: {invalid[0]!r} is not UTF-8 or has control characters; rename the folder")
    if val := folders.get("test", folders.get("val")):
        folders["val"] = val
    splits = {split: SplitSource(split, (folder,)) for split, folder in folders.items()}
    return DataSpec(root, root, dict(enumerate(names)), splits)


def list_class_folders(folder: Path) -> list[str]:
    """Names of the class folders of a split, sorted, without hidden ones."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def match_class_folders(spec: DataSpec) -> dict[str, int]:
    """Class number of each folder name: by the class names, else in alphabetical order if the numbers agree.

    Raises:
        InputError: the folders do not match the classes.
    """
    by_name = {name: number for number, name in spec.names.items()}
    source = spec.splits.get("train") or spec.splits["val"]
    folders = sorted({name for path in source.paths if path.is_dir() for name in list_class_folders(path)})
    if set(folders) <= set(by_name):
        return by_name
    if len(folders) == len(by_name):
        return {name: number for number, name in enumerate(folders)}
    unknown = [name for name in folders if name not in by_name]
    raise InputError(
        f"{spec.path}: {len(by_name)} names, but {len(folders)} class folders in {source.paths[0]}, of which "
        f"{_format_names(unknown)} are not among the names; make names and folders agree"
    )


def load_class_index(spec: DataSpec, split: str, *, verbose: bool = False, workers: int = 8) -> ImageIndex:
    """The verified images of a split with one label each; cached next to the folder.

    Raises:
        InputError: no such split, a folder of an unknown class, or no usable image.
    """
    index, findings = verify_class_split(spec, split, workers)
    _log_summary(split, index, findings, spec.names, verbose=verbose)
    if not index.paths:
        folder = get_split_source(spec, split).paths[0]
        raise InputError(f"{folder}: {split}: none of the {findings.corrupt} images can be read")
    return replace(index, names=dict(spec.names))


def verify_class_split(spec: DataSpec, split: str, workers: int = 8) -> tuple[ImageIndex, Findings]:
    """The verified images of a split, from the cache if it is valid.

    Raises:
        InputError: no such split, a folder of an unknown class, or no image.
    """
    folders = get_split_source(spec, split).paths
    numbers = match_class_folders(spec)
    images, classes = list_class_images(folders, numbers, split)
    if not images:
        raise InputError(f"{folders[0]}: {split}: no images in class folders; {LAYOUT}; {CROPS_HINT}")
    key = compute_fingerprint(images, "classes", sorted(numbers.items()))
    cache_file = folders[0].parent / f"{folders[0].name}.cache"
    rows = np.array([[number, 0.5, 0.5, 1, 1] for number in classes], np.float32)  # boxes around the whole images
    labels = [LabelRows(row[None], locations=[image]) for image, row in zip(images, rows, strict=True)]
    return load_or_build(cache_file, key, partial(verify_images, images, labels, len(numbers), split, workers))


def list_class_images(folders: Sequence[Path], numbers: dict[str, int], split: str) -> tuple[list[str], list[int]]:
    """Image files in the class folders and their classes; warns about classes without images.

    Raises:
        InputError: a folder of an unknown class, or a path that is not a folder.
    """
    images: list[str] = []
    classes: list[int] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: {split}: not a folder; {LAYOUT}; {CROPS_HINT}")
        by_class: dict[str, list[str]] = {name: [] for name in list_class_folders(folder)}
        if unknown := [name for name in by_class if name not in numbers]:
            raise InputError(
                f"{folder / unknown[0]}: {split}: not the name of a class; classes: {_format_names(list(numbers))}"
            )
        for image in list_images(folder, folder):
            name, separator, _ = image.removeprefix(f"{folder}{os.sep}").partition(os.sep)
            if separator and name in by_class:  # not a hidden folder
                by_class[name].append(image)
        for name, class_images in by_class.items():
            images += class_images
            classes += [numbers[name]] * len(class_images)
    present = set(classes)
    if images and (missing := [name for name, number in numbers.items() if number not in present]):
        LOGGER.warning(f"WARNING {folders[0]}: {split}: no images of {_format_names(missing)}")
    return images, classes


def _format_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(map(repr, names[:MAX_NAMES])) + more


def _log_summary(split: str, index: ImageIndex, findings: Findings, names: dict[int, str], *, verbose: bool) -> None:
    log_messages(findings.messages, verbose=verbose)
    counts = np.bincount(index.classes, minlength=len(names))
    spread = f", {counts.min()} to {counts.max()} each" if len(counts) else ""
    LOGGER.info(f"{split}: {findings.images} images of {len(names)} classes{spread}; {findings.corrupt} corrupt")
