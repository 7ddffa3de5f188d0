"""What is in a data set, in numbers and words."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from utils.datasets.index.image_index import ImageIndex

SMALL, MEDIUM = 32.0, 96.0  # pixels: square roots of the areas at which COCO divides small, medium and large
UNKNOWN_CLASS = re.compile(r": class (-?[\d.e+]+), but the data YAML names")
SHOWN = 5


def box_sides(index: ImageIndex) -> np.ndarray:
    """(M, 2) width and height in pixels of every box."""
    sizes_wh = np.repeat(index.sizes_hw[:, ::-1], np.diff(index.offsets), axis=0)
    return sizes_wh * index.boxes_xywhn[:, 2:]


def class_table(sets: Mapping[str, ImageIndex], names: Mapping[int, str]) -> str:
    """A line for each class, with its objects and the images that have some, for each split."""
    width = max(12, *(len(name) for name in names.values()))
    head = f"{'class':>{width}}" + "".join(f"{f'{split}: objects':>18}{'images':>10}" for split in sets)
    lines = [head]
    counts = {split: _class_counts(index, len(names)) for split, index in sets.items()}
    for number, name in names.items():
        cells = (f"{objects[number]:>18}{images[number]:>10}" for objects, images in counts.values())
        lines.append(f"{name:>{width}}" + "".join(cells))
    totals = (f"{index.num_objects:>18}{len(index):>10}" for index in sets.values())
    return "\n".join([*lines, f"{'all':>{width}}" + "".join(totals)])


def _class_counts(index: ImageIndex, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(num_classes,) objects, and images with at least one."""
    owners = np.repeat(np.arange(len(index)), np.diff(index.offsets))
    pairs = np.unique(np.stack([owners, index.classes.astype(np.int64)], axis=1), axis=0)
    return (
        np.bincount(index.classes, minlength=num_classes),
        np.bincount(pairs[:, 1], minlength=num_classes),
    )


def pixel_table(sets: Mapping[str, ImageIndex], names: Mapping[int, str]) -> str:
    """A line for each class of semantic masks, with its share of the labelled pixels and its images, for each split."""
    width = max(12, *(len(name) for name in names.values()))
    lines = [f"{'class':>{width}}" + "".join(f"{f'{split}: pixels':>18}{'images':>10}" for split in sets)]
    counts = {split: np.asarray(index.pixels) for split, index in sets.items()}
    shares = {split: pixels.sum(axis=0) / max(pixels.sum(), 1) for split, pixels in counts.items()}
    for number, name in names.items():
        cells = (f"{shares[split][number]:>18.2%}{np.count_nonzero(counts[split][:, number]):>10}" for split in sets)
        lines.append(f"{name:>{width}}" + "".join(cells))
    return "\n".join(lines)


def size_lines(split: str, index: ImageIndex) -> list[str]:
    """Sizes of images and objects of a split, in words."""
    heights, widths = index.sizes_hw[:, 0], index.sizes_hw[:, 1]
    sizes = Counter(zip(widths.tolist(), heights.tolist(), strict=True)).most_common(3)
    common = ", ".join(f"{w}x{h} ({count})" for (w, h), count in sizes)
    kinds = len(np.unique(index.sizes_hw, axis=0))
    extent = f"{widths.min()} to {widths.max()} pixels wide, {heights.min()} to {heights.max()} high"
    lines = [f"{split}: images {extent}; {kinds} {'size' if kinds == 1 else 'sizes'}, most often {common}"]
    if index.num_objects:
        sides = np.sqrt(box_sides(index).prod(axis=1))
        small, medium = (sides < SMALL).mean(), ((sides >= SMALL) & (sides < MEDIUM)).mean()
        per_image = np.diff(index.offsets)
        low, middle, high = np.quantile(sides, (0.01, 0.5, 0.99))
        lines.append(
            f"{split}: {per_image.mean():.1f} objects an image, at most {per_image.max()}; square roots of areas "
            f"mostly {low:.0f} to {high:.0f} pixels, median {middle:.0f}; {small:.0%} small, {medium:.0%} medium, "
            f"{1 - small - medium:.0%} large as COCO divides them"
        )
    return lines


def absent_classes(sets: Mapping[str, ImageIndex], names: Mapping[int, str]) -> list[str]:
    """A line for each split that has no object of some class."""
    lines = []
    for split, index in sets.items():
        absent = [name for number, name in names.items() if not (index.classes == number).any()]
        if absent:
            lines.append(f"{split}: no object of {_listed(absent)}")
    return lines


def unknown_classes(messages: Iterable[str], names: Mapping[int, str]) -> str:
    """What is to be said of classes that labels name, but the data YAML does not; nothing where there are none."""
    found = Counter(match[1] for message in messages if (match := UNKNOWN_CLASS.search(message)))
    if not found:
        return ""
    rows = ", ".join(f"{number} ({count} {'row' if count == 1 else 'rows'})" for number, count in found.most_common(10))
    more = f" and {len(found) - 10} others" if len(found) > 10 else ""
    hint = "; do the labels count classes from 1?" if set(found) == {str(len(names))} else ""
    return f"classes that do not exist: {rows}{more}; the data YAML names {len(names)} (0-{len(names) - 1}){hint}"


def repeated_images(sets: Mapping[str, ImageIndex]) -> list[str]:
    """Lines that say which images occur twice, byte for byte, within a split or in two of them."""
    by_size: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for split, index in sets.items():
        for path in index.paths:
            by_size[Path(path).stat().st_size].append((split, path))
    by_content: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    for alike in by_size.values():
        if len(alike) > 1:
            for split, path in alike:
                by_content[_digest(path)].append((split, path))
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for owners in by_content.values():
        for (split, path), (other_split, other) in pairwise(owners):
            pairs[split, other_split].append((path, other))
    return [_repeated(splits, found) for splits, found in pairs.items()]


def _repeated(splits: tuple[str, str], found: Sequence[tuple[str, str]]) -> str:
    examples = ", ".join(f"{first} = {second}" for first, second in found[:2] if first != second)
    shown = f": {examples}{' ...' if len(found) > 2 else ''}" if examples else " (the same files)"
    where = f"twice in {splits[0]}" if splits[0] == splits[1] else f"in {splits[0]} and in {splits[1]}"
    return f"{len(found)} images are {where}{shown}"


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
