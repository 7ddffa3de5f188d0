"""Boxes and outlines from the polygons of Cityscapes (arXiv:1604.01685; github.com/mcordts/cityscapesScripts)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.errors import InputError
from utils.datasets.formats.base import PixelObjects, Splits, read_object, verified
from utils.datasets.index.verify import LabelRows

CLASSES = (
    *("car", "traffic sign", "rider", "person", "bicycle", "traffic light", "bus", "motorcycle", "truck", "train"),
)
LABELLED = ("train", "val")  # what is published of test is empty
IMAGE, POLYGONS = "leftImg8bit", "gtFine"
PAGE = "https://www.cityscapes-dataset.com"


def read_cityscapes(source: Path, names: Sequence[str], images: Path | None) -> Splits:
    """Train and val of <source>/gtFine and <source>/leftImg8bit, with ten classes of things.

    Args:
        names: other classes of the polygons, or another order.
        images: folder to take for <source>/leftImg8bit.

    Raises:
        InputError: the folders are not there, or a file is not Cityscapes'.
    """
    numbered = dict(enumerate(names or CLASSES))
    class_of = {name: number for number, name in numbered.items()}
    pictures = images or source / IMAGE
    sets = {}
    for split in LABELLED:
        pairs = []
        for file in sorted((source / POLYGONS / split).glob(f"*/*_{POLYGONS}_polygons.json")):
            stem = file.name.removesuffix(f"_{POLYGONS}_polygons.json")
            image = pictures / split / file.parent.name / f"{stem}_{IMAGE}.png"
            pairs.append((str(image), cityscapes_rows(read_object(file), class_of, file)))
        if pairs:
            sets[split] = verified(pairs, numbered, split)
    if not sets:
        raise InputError(
            f"--source {source}: no {POLYGONS}/train/*/*_polygons.json in it; only people who register get this set: "
            f"download gtFine_trainvaltest.zip and leftImg8bit_trainvaltest.zip from {PAGE} and unpack both there"
        )
    return sets


def cityscapes_rows(content: Mapping[str, Any], class_of: Mapping[str, int], file: Path) -> LabelRows:
    """Rows of one file, not yet checked: the box around each polygon, cut at the frame, and the polygon.

    Groups that could not be told apart (`cargroup`), and all other classes, are passed over.

    Raises:
        InputError: it is not of that form.
    """
    try:
        height, width = int(content["imgHeight"]), int(content["imgWidth"])
        if min(height, width) <= 0:
            raise ValueError("an image without a size")
        objects = PixelObjects((height, width))
        for number, thing in enumerate(content["objects"]):
            if thing["label"] in class_of and not thing.get("deleted"):
                ring = np.clip(np.array(thing["polygon"], np.float64).reshape(-1, 2), 0, (width, height))
                objects.add(class_of[thing["label"]], f"{file}: object {number}", rings=[ring])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: not a polygon file of Cityscapes ({error!r})") from error
    return objects.labels()
