"""Random split of images into train, val and test: `python -m utils.datasets split`."""

from __future__ import annotations

from pathlib import Path

from utils.config.datasets import SplitConfig
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.index.labels import get_label_path
from utils.datasets.index.listing import list_images
from utils.datasets.prepare.autosplit import LISTS, write_splits


def run(config: SplitConfig) -> dict[str, int]:
    """Write the lists; returns the number of images in each.

    Raises:
        InputError: no images, invalid shares, or lists that would be overwritten.
    """
    source = Path(config.images)
    if not source.exists():
        raise InputError(f"--images {source}: no such folder or list file")
    if len(config.shares) > len(LISTS):
        raise InputError(f"--shares {' '.join(map(str, config.shares))}: pass up to three, for train, val and test")
    folder = Path(config.out) if config.out else source.absolute().parent
    existing = [str(folder / name) for name in LISTS.values() if (folder / name).exists()]
    if existing and not config.exist_ok:
        raise InputError(f"{', '.join(existing)}: already exists; replace with --exist-ok or choose another --out")
    all_images = list_images(source, source.parent)
    images = [image for image in all_images if not config.annotated_only or Path(get_label_path(image)).is_file()]
    if not images:
        condition = " with a label file" if config.annotated_only and all_images else ""
        raise InputError(f"--images {source}: no images{condition} in it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be created: {error.strerror}; choose another folder") from error
    counts = write_splits(folder, images, config.shares, config.seed)
    for split, count in counts.items():
        LOGGER.info(f"{split}: {count} images in {folder / LISTS[split]}")
    if len(images) < len(all_images):
        LOGGER.info(f"{len(all_images) - len(images)} images without a label file skipped")
    return counts
