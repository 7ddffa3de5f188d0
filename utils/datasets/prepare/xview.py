"""xView as YOLO labels: objects in satellite images (arXiv:1802.07856, xviewdataset.org)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.datasets.index.json_stream import stream_lists
from utils.datasets.index.label_files import LabelWriter, names_of, pixel_rows
from utils.datasets.prepare.manual import unpack_given
from utils.datasets.tools.autosplit import write_splits
from utils.imaging.read import image_size_hw

PAGE = "http://challenge.xviewdataset.org"
ARCHIVES = {"train_images.zip": "images/train", "val_images.zip": "images/val", "train_labels.zip": "."}
LABELS = "xView_train.geojson"
SHARES, SEED = (0.9, 0.1, 0.0), 0
TYPE_IDS = (  # of the classes, in the order of the data YAML; 75 and 82 occur too, but mean nothing
    *(11, 12, 13, 15, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 32, 33, 34, 35, 36, 37, 38, 40, 41, 42, 44, 45),
    *(47, 49, 50, 51, 52, 53, 54, 55, 56, 57, 59, 60, 61, 62, 63, 64, 65, 66, 71, 72, 73, 74, 76, 77, 79, 83, 84, 86),
    *(89, 91, 93, 94),
)

Objects = dict[str, tuple[list[int], list[list[float]], list[str]]]  # by image: classes, boxes_xyxy, places


def prepare_xview(root: Path, raw: Mapping[str, Any]) -> None:
    """Arrange xView below `root` from the archives that the user has put there; nine in ten images are for training.

    Raises:
        InputError: archives are missing (says which and where they come from), or hold something else.
    """
    unpack_given(root, ARCHIVES, PAGE)
    for split in ("train", "val"):
        nested = root / "images" / split / f"{split}_images"
        for file in nested.iterdir() if nested.is_dir() else ():
            file.replace(nested.parent / file.name)
    images = sorted((root / "images" / "train").glob("*.tif"))
    if not images:
        raise InputError(f"{root / 'images/train'}: no .tif images; get train_images.zip from {PAGE}")
    found, unknown = xview_objects(root / LABELS)
    writer, labels = LabelWriter(len(names_of(raw))), root / "labels" / "train"
    labels.mkdir(parents=True, exist_ok=True)
    for image in images:
        classes, boxes, places = found.get(image.name, ([], [], []))
        writer.write(labels / f"{image.stem}.txt", pixel_rows(classes, boxes, image_size_hw(image), places))
    writer.report("xView", f"{unknown} objects without a class or a box passed over")
    write_splits(root / "images", list(map(str, images)), SHARES, SEED)


def xview_objects(file: Path) -> tuple[Objects, int]:
    """Objects of a GeoJSON by image (`image_id`), and how many have no class or no box.

    Raises:
        InputError: the file is missing, or not xView's.
    """
    class_of = {type_id: number for number, type_id in enumerate(TYPE_IDS)}
    found: Objects = {}
    unknown = 0
    for number, (key, feature) in enumerate(stream_lists(file)):
        if key != "features":
            continue
        try:
            properties = feature["properties"]
            bounds = properties["bounds_imcoords"]
            corners = [float(value) for value in bounds.split(",") if value] if bounds else []
            label = class_of.get(int(properties["type_id"]))
            image = str(properties["image_id"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{file}: entry {number} of its lists is not an object of xView ({error!r})") from error
        if label is None or len(corners) != 4:
            unknown += 1
            continue
        classes, boxes, places = found.setdefault(image, ([], [], []))
        classes.append(label)
        boxes.append(corners)
        places.append(f"{file}: feature {properties.get('feature_id', number)}")
    return found, unknown
