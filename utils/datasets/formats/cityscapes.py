"""Cityscapes polygons (arXiv:1604.01685; github.com/mcordts/cityscapesScripts)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.core.errors import InputError
from utils.core.files import read_json
from utils.datasets.formats.base import PixelObjects, Splits, build_index, parse_points
from utils.datasets.index.verify import LabelRows

CLASSES = (
    *("car", "traffic sign", "rider", "person", "bicycle", "traffic light", "bus", "motorcycle", "truck", "train"),
)
LABELED_SPLITS = ("train", "val")  # the public files of test are empty
IMAGE, POLYGONS = "leftImg8bit", "gtFine"
PAGE = "https://www.cityscapes-dataset.com"


def read_cityscapes(source: Path, names: Sequence[str], images: Path | None) -> Splits:
    """Read train and val from <source>/gtFine and <source>/leftImg8bit, with ten object classes.

    Args:
        names: other classes of the polygons, or another order.
        images: folder to use instead of <source>/leftImg8bit.

    Raises:
        InputError: the folders are missing, or a file is not in the format of Cityscapes.
    """
    class_names = dict(enumerate(names or CLASSES))
    class_ids = {name: number for number, name in class_names.items()}
    image_folder = images or source / IMAGE
    sets = {}
    for split in LABELED_SPLITS:
        pairs = []
        for file in sorted((source / POLYGONS / split).glob(f"*/*_{POLYGONS}_polygons.json")):
            stem = file.name.removesuffix(f"_{POLYGONS}_polygons.json")
            image = image_folder / split / file.parent.name / f"{stem}_{IMAGE}.png"
            pairs.append((str(image), parse_cityscapes(read_json(file), class_ids, file)))
        if pairs:
            sets[split] = build_index(pairs, class_names, split)
    if not sets:
        raise InputError(
            f"--source {source}: no {POLYGONS}/train/*/*_polygons.json in it; this data set requires registration: "
            f"download gtFine_trainvaltest.zip and leftImg8bit_trainvaltest.zip from {PAGE} and unpack both there"
        )
    return sets


def parse_cityscapes(content: Mapping[str, Any], class_ids: Mapping[str, int], file: Path) -> LabelRows:
    """Unchecked rows of one file: each polygon, clipped to the image, and its bounding box.

    Groups of indistinguishable objects (`cargroup`) and all other classes are skipped.

    Raises:
        InputError: unexpected content.
    """
    try:
        height, width = int(content["imgHeight"]), int(content["imgWidth"])
        objects = PixelObjects((height, width))
        for number, item in enumerate(content["objects"]):
            if item["label"] in class_ids and not item.get("deleted"):
                ring = np.clip(parse_points(item["polygon"]), 0, (width, height))
                objects.add(class_ids[item["label"]], f"{file}: object {number}", rings=[ring])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{file}: not a polygon file of Cityscapes ({error!r})") from error
    return objects.to_rows(file)
