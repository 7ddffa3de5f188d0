"""Conversion between annotation formats: `python -m utils.datasets convert`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from utils.config.datasets import ConvertConfig
from utils.core.errors import InputError
from utils.core.files import atomic_folder
from utils.core.logging import LOGGER
from utils.datasets.formats.base import ImageCopier, Splits
from utils.datasets.formats.registry import FORMATS


def run(config: ConvertConfig) -> Splits:
    """Read, check and write the data set; the output folder appears only once it is complete.

    Raises:
        InputError: the source cannot be read, or the output folder is not empty.
    """
    source, target = FORMATS[config.source_format], FORMATS[config.target_format]
    if target.write is None:
        raise InputError(f"--to {config.target_format}: this format can be read but not written")
    out = Path(config.out)
    with atomic_folder(out, "--out") as work:
        sets = source.read(Path(config.source), config.names, Path(config.images) if config.images else None)
        has_polygons = any(index.polygons is not None for index in sets.values())
        if config.boxes or not target.polygons:
            sets = {split: replace(index, polygons=None) for split, index in sets.items()}
            if has_polygons and not config.boxes:
                LOGGER.warning(f"WARNING --to {config.target_format}: stores boxes only, dropping the polygons")
        written = target.write(sets, work, ImageCopier(link=config.link))
    counts = (f"{split}: {len(index)} images, {index.num_objects} objects" for split, index in sets.items())
    LOGGER.info("; ".join(counts))
    LOGGER.info(f"Results saved to {out / written.relative_to(work)}")
    return sets
