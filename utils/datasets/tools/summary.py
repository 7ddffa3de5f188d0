"""Data set statistics."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.downloads import file_sha256
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.verify import MORE_PROBLEMS

SMALL, MEDIUM = 32.0, 96.0  # COCO's limits of small and medium objects: square roots of areas in pixels
UNKNOWN_CLASS = re.compile(r": class (-?[\d.e+]+), but the data YAML names")
USED_IMAGE = re.compile(r"; (image )?used$")
MAX_NAMES = 5  # in a message


def get_box_sizes(index: ImageIndex) -> np.ndarray:
    """(M, 2) width and height of every box in pixels."""
    sizes_wh = np.repeat(index.sizes_hw[:, ::-1], np.diff(index.offsets), axis=0)
    return sizes_wh * index.boxes_xywhn[:, 2:]


def format_class_table(indexes: Mapping[str, ImageIndex], names: Mapping[int, str]) -> str:
    """Table with a row per class: its objects and the images that contain it, for each split."""
    counts = [_count_classes(index, len(names)) for index in indexes.values()]
    rows = [(name, [(objects[k], images[k]) for objects, images in counts]) for k, name in names.items()]
    totals = [(index.num_objects, len(index)) for index in indexes.values()]
    return _format_table([f"{split}: objects" for split in indexes], [*rows, ("all", totals)])


def _format_table(columns: Iterable[str], rows: Sequence[tuple[str, Iterable[tuple[Any, int]]]]) -> str:
    """Table with a row per class: a quantity and a number of images in each column."""
    width = max(12, *(len(name) for name, _ in rows))
    lines = [f"{'class':>{width}}" + "".join(f"{column:>18}{'images':>10}" for column in columns)]
    for name, cells in rows:
        lines.append(f"{name:>{width}}" + "".join(f"{quantity:>18}{images:>10}" for quantity, images in cells))
    return "\n".join(lines)


def _count_classes(index: ImageIndex, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(num_classes,) number of objects, and of images with at least one."""
    owners = np.repeat(np.arange(len(index)), np.diff(index.offsets))
    pairs = np.unique(np.stack([owners, index.classes.astype(np.int64)], axis=1), axis=0)
    return (
        np.bincount(index.classes, minlength=num_classes),
        np.bincount(pairs[:, 1], minlength=num_classes),
    )


def format_pixel_table(indexes: Mapping[str, ImageIndex], names: Mapping[int, str]) -> str:
    """Table with a row per class of semantic masks: its share of the labeled pixels and its images, for each split."""
    counts = [np.asarray(index.pixels) for index in indexes.values()]
    shares = [pixels.sum(axis=0) / max(pixels.sum(), 1) for pixels in counts]
    images = [np.count_nonzero(pixels, axis=0) for pixels in counts]
    rows = [
        (name, [(f"{share[k]:.2%}", number[k]) for share, number in zip(shares, images, strict=True)])
        for k, name in names.items()
    ]
    return _format_table([f"{split}: pixels" for split in indexes], rows)


def describe_sizes(split: str, index: ImageIndex) -> list[str]:
    """Lines about the sizes of images and objects of a split."""
    heights, widths = index.sizes_hw[:, 0], index.sizes_hw[:, 1]
    sizes = Counter(zip(widths.tolist(), heights.tolist(), strict=True)).most_common(3)
    common = ", ".join(f"{w}x{h} ({count})" for (w, h), count in sizes)
    num_sizes = len(np.unique(index.sizes_hw, axis=0))
    extent = f"width {widths.min()} to {widths.max()}, height {heights.min()} to {heights.max()} pixels"
    lines = [f"{split}: image {extent}; {num_sizes} {'size' if num_sizes == 1 else 'sizes'}, most common {common}"]
    if index.num_objects:
        sides = np.sqrt(get_box_sizes(index).prod(axis=1))
        small, medium = (sides < SMALL).mean(), ((sides >= SMALL) & (sides < MEDIUM)).mean()
        per_image = np.diff(index.offsets)
        low, median, high = np.quantile(sides, (0.01, 0.5, 0.99))
        lines.append(
            f"{split}: {per_image.mean():.1f} objects per image, at most {per_image.max()}; square root of area mostly "
            f"{low:.0f} to {high:.0f} pixels, median {median:.0f}; {small:.0%} small, {medium:.0%} medium, "
            f"{1 - small - medium:.0%} large by COCO's limits"
        )
    return lines


def find_absent_classes(indexes: Mapping[str, ImageIndex], names: Mapping[int, str]) -> list[str]:
    """A line for each split that lacks objects of some classes."""
    lines = []
    for split, index in indexes.items():
        absent = [name for number, name in names.items() if not (index.classes == number).any()]
        if absent:
            more = f" and {len(absent) - MAX_NAMES} more" if len(absent) > MAX_NAMES else ""
            lines.append(f"{split}: no objects of {', '.join(absent[:MAX_NAMES])}{more}")
    return lines


def describe_unknown_classes(messages: Sequence[str], names: Mapping[int, str]) -> str:
    """A line about classes in the labels that the data YAML does not define; empty if there are none."""
    counts = Counter(match[1] for message in messages if (match := UNKNOWN_CLASS.search(message)))
    if not counts:
        return ""
    least = "at least " if any(message.endswith(MORE_PROBLEMS) for message in messages) else ""
    rows = ", ".join(
        f"{number} ({least}{count} {'row' if count == 1 else 'rows'})" for number, count in counts.most_common(10)
    )
    more = f" and {len(counts) - 10} others" if len(counts) > 10 else ""
    hint = "; do the class numbers start at 1?" if set(counts) == {str(len(names))} else ""
    return f"classes that do not exist: {rows}{more}; the data YAML names {len(names)} (0-{len(names) - 1}){hint}"


def describe_damaged_images(messages: Iterable[str]) -> str:
    """A line about images that are damaged in part but used; empty if there are none."""
    count = sum(USED_IMAGE.search(message) is not None for message in messages)
    return f"{count} {'image is' if count == 1 else 'images are'} damaged in part, but used" if count else ""


def find_duplicate_images(indexes: Mapping[str, ImageIndex]) -> list[str]:
    """Lines about byte-identical images within a split or in two splits."""
    by_size: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for split, index in indexes.items():
        for path in index.paths:
            by_size[Path(path).stat().st_size].append((split, path))
    by_content: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for files in by_size.values():
        if len(files) > 1:
            for split, path in files:
                by_content[file_sha256(Path(path))].append((split, path))
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for files in by_content.values():
        for (split, path), (other_split, other) in pairwise(files):
            pairs[split, other_split].append((path, other))
    return [_describe_duplicates(splits, duplicates) for splits, duplicates in pairs.items()]


def _describe_duplicates(splits: tuple[str, str], duplicates: Sequence[tuple[str, str]]) -> str:
    examples = ", ".join(f"{first} = {second}" for first, second in duplicates[:2] if first != second)
    suffix = f": {examples}{' ...' if len(duplicates) > 2 else ''}" if examples else " (the same files)"
    where = f"twice in {splits[0]}" if splits[0] == splits[1] else f"in {splits[0]} and in {splits[1]}"
    return f"{len(duplicates)} images are {where}{suffix}"
