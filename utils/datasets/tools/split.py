"""`python -m utils.datasets split`: images dealt out to train, val and test."""

from __future__ import annotations

from pathlib import Path

from utils.config.datasets import SplitConfig
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.index.labels import label_path, list_images
from utils.datasets.tools.autosplit import LISTS, check_shares, write_splits


def run(config: SplitConfig) -> dict[str, int]:
    """The command `split`; images of each list.

    Raises:
        InputError: no images there, too few shares, or lists that would be overwritten.
    """
    place = Path(config.images)
    if not place.exists():
        raise InputError(f"--images {place}: no such folder or list file")
    if len(config.shares) > len(LISTS):
        raise InputError(f"--shares {' '.join(map(str, config.shares))}: give up to three, for train, val and test")
    check_shares(config.shares)  # before lists that are there are removed
    folder = Path(config.out) if config.out else place.absolute().parent
    there = [str(folder / name) for name in LISTS.values() if (folder / name).exists()]
    if there and not config.exist_ok:
        raise InputError(f"{', '.join(there)}: there already; --exist-ok replaces them, --out names another place")
    images = list_images(place, place.parent)
    found = [image for image in images if not config.annotated_only or Path(label_path(image)).is_file()]
    if not found:
        wanted = "with a label file " if config.annotated_only and images else ""
        raise InputError(f"--images {place}: no images {wanted}in it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be made: {error.strerror}; name another folder") from error
    for name in LISTS.values():
        (folder / name).unlink(missing_ok=True)
    counts = write_splits(folder, found, config.shares, config.seed)
    for split, count in counts.items():
        LOGGER.info(f"{split}: {count} images in {folder / LISTS[split]}")
    if len(found) < len(images):
        LOGGER.info(f"{len(images) - len(found)} images without a label file left out")
    return counts
