"""Images dealt out to train, val and test by a seed, as list files that a data YAML can name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from utils.core.errors import InputError
from utils.datasets.index.label_files import write_list

LISTS = {split: f"autosplit_{split}.txt" for split in ("train", "val", "test")}


def check_shares(shares: Sequence[float]) -> None:
    """InputError unless all are 0 or more, and one of them above 0."""
    parts = np.asarray(shares, np.float64)
    if not np.isfinite(parts).all() or (parts < 0).any() or not parts.sum():
        raise InputError(f"shares {' '.join(map(str, shares))}: must be 0 or more, and one of them above 0")


def deal_out(count: int, shares: Sequence[float], seed: int) -> list[np.ndarray]:
    """Numbers 0 to count - 1 in groups of the given shares, each sorted; the same for the same seed.

    Sizes are exact: the parts of a shuffled row, cut where the shares, brought to a sum of 1, say. A share above 0
    gets an image where there are enough of them.

    Raises:
        InputError: shares that are negative, or all 0.
    """
    check_shares(shares)
    parts = np.asarray(shares, np.float64)
    sizes = np.diff(np.rint(np.cumsum([0, *parts]) / parts.sum() * count).astype(int))
    for poor in np.flatnonzero((parts > 0) & (sizes == 0)):
        if sizes.max() > 1:
            sizes[sizes.argmax()] -= 1
            sizes[poor] += 1
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(order[a:b]) for a, b in pairwise(np.cumsum([0, *sizes]))]


def write_splits(folder: Path, images: Sequence[str], shares: Sequence[float], seed: int) -> dict[str, int]:
    """Write autosplit_train.txt, autosplit_val.txt and, if it has a share, autosplit_test.txt; images of each.

    Lines count from the lists' folder (`./images/a.jpg`) where the image lies below it, else they are absolute.

    Args:
        folder: where the lists go.
        images: image files, in an order that does not depend on the machine.
        shares: of train, val and test.
    """
    counts = {}
    for (split, name), numbers in zip(LISTS.items(), deal_out(len(images), shares, seed), strict=False):
        if len(numbers):
            write_list(folder / name, (list_line(images[i], folder) for i in numbers))
            counts[split] = len(numbers)
    return counts


def list_line(image: str, folder: Path) -> str:
    """An image as a line of a list file in `folder`."""
    inside = os.path.relpath(os.path.abspath(image), os.path.abspath(folder))  # noqa: PTH100 (links stay)
    return os.path.abspath(image) if inside.startswith("..") else f"./{Path(inside).as_posix()}"  # noqa: PTH100
