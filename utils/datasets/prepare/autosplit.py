"""Random train, val and test splits as list files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from utils.core.errors import InputError
from utils.datasets.index.label_files import check_list_lines, write_image_list

LISTS = {split: f"autosplit_{split}.txt" for split in ("train", "val", "test")}


def split_indices(count: int, shares: Sequence[float], seed: int) -> list[np.ndarray]:
    """Split the indices 0 to count - 1 at random into groups with the given shares; each group is sorted.

    Group sizes match the shares exactly, up to rounding; a share above 0 gets at least one image if there are enough.

    Raises:
        InputError: a negative share, or only zeros.
    """
    parts = np.asarray(shares, np.float64)
    if not np.isfinite(parts).all() or (parts < 0).any() or not parts.sum():
        raise InputError(f"shares {' '.join(map(str, shares))}: must be 0 or more, and one of them above 0")
    sizes = np.diff(np.rint(np.cumsum([0, *parts]) / parts.sum() * count).astype(int))
    for empty in np.flatnonzero((parts > 0) & (sizes == 0)):
        if sizes.max() > 1:
            sizes[sizes.argmax()] -= 1
            sizes[empty] += 1
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(order[a:b]) for a, b in pairwise(np.cumsum([0, *sizes]))]


def write_splits(folder: Path, images: Sequence[str], shares: Sequence[float], seed: int) -> dict[str, int]:
    """Write autosplit_train.txt, autosplit_val.txt and autosplit_test.txt; returns the number of images in each.

    Existing lists are replaced, or removed if their split is empty; if an image cannot be listed, they are unchanged.

    Lines are relative to the folder (`./images/a.jpg`) for images below it, else absolute.

    Args:
        images: image paths, in an order that does not depend on the machine.
        shares: of train, val and test.

    Raises:
        InputError: invalid shares, or a name that a line cannot hold.
    """
    groups = split_indices(len(images), shares, seed)
    lines = [_format_line(image, folder) for image in images]
    check_list_lines(folder, lines)
    counts = {}
    for number, (split, name) in enumerate(LISTS.items()):
        if number < len(groups) and len(groups[number]):
            write_image_list(folder / name, (lines[i] for i in groups[number]))
            counts[split] = len(groups[number])
        else:
            (folder / name).unlink(missing_ok=True)
    return counts


def _format_line(image: str, folder: Path) -> str:
    path = os.path.relpath(os.path.abspath(image), os.path.abspath(folder))  # noqa: PTH100 (links stay)
    return os.path.abspath(image) if path.startswith("..") else f"./{Path(path).as_posix()}"  # noqa: PTH100
