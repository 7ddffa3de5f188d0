"""`python -m utils.datasets convert`: a data set in another annotation format, in a folder of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from utils.config.datasets import ConvertConfig
from utils.core.errors import InputError
from utils.core.files import new_folder
from utils.core.logging import LOGGER
from utils.datasets.formats.base import ImagePlacer, Splits
from utils.datasets.formats.table import FORMATS


def run(config: ConvertConfig) -> Splits:
    """Read, check and write the set; the folder is there only when it is complete.

    Raises:
        InputError: the source cannot be used, or the folder has something in it already.
    """
    source, target = FORMATS[config.source_format], FORMATS[config.target_format]
    if target.write is None:
        raise InputError(f"--to {config.target_format}: can be read, but not be written")
    out = Path(config.out)
    with new_folder(out, "--out") as work:
        sets = source.read(Path(config.source), config.names, Path(config.images) if config.images else None)
        outlines = any(index.polygons is not None for index in sets.values())
        if config.boxes or not target.polygons:
            sets = {split: replace(index, polygons=None) for split, index in sets.items()}
            if outlines and not config.boxes:
                LOGGER.warning(f"WARNING --to {config.target_format}: has boxes only, the outlines are left out")
        written = target.write(sets, work, ImagePlacer(link=config.link))
    LOGGER.info(summary(sets))
    LOGGER.info(f"Written to {out / written.relative_to(work)}")
    return sets


def summary(sets: Splits) -> str:
    """How many images and objects each split has."""
    parts = (f"{split} {len(index)} images with {index.num_objects} objects" for split, index in sets.items())
    return ", ".join(parts)
