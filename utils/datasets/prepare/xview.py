"""xView satellite images (arXiv:1802.07856, xviewdataset.org), converted to YOLO labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.core.files import read_json
from utils.datasets.index.label_files import LabelWriter, get_class_names, make_label_rows
from utils.datasets.prepare.autosplit import write_splits
from utils.datasets.prepare.manual import unpack_local_archives
from utils.imaging.read import read_image_size_hw

PAGE = "http://challenge.xviewdataset.org"
ARCHIVES = {"train_images.zip": "images/train", "val_images.zip": "images/val", "train_labels.zip": "."}
LABELS = "xView_train.geojson"
SHARES, SEED = (0.9, 0.1, 0.0), 0
TYPE_IDS = (  # of the classes, in the order of the data YAML; the files also have 75 and 82, which are undefined
    *(11, 12, 13, 15, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 32, 33, 34, 35, 36, 37, 38, 40, 41, 42, 44, 45),
    *(47, 49, 50, 51, 52, 53, 54, 55, 56, 57, 59, 60, 61, 62, 63, 64, 65, 66, 71, 72, 73, 74, 76, 77, 79, 83, 84, 86),
    *(89, 91, 93, 94),
)

Objects = dict[str, tuple[list[int], list[list[float]], list[str]]]  # by image: classes, boxes_xyxy, places


def prepare_xview(root: Path, raw: Mapping[str, Any]) -> None:
    """Arrange xView below `root` from local archives; nine in ten images are for training."""
    unpack_local_archives(root, ARCHIVES, PAGE)
    for split in ("train", "val"):
        nested = root / "images" / split / f"{split}_images"
        for file in nested.glob("*"):
            file.replace(nested.parent / file.name)
    images = sorted((root / "images" / "train").glob("*.tif"))
    if not images:
        raise InputError(f"{root / 'images/train'}: no .tif images; get train_images.zip from {PAGE}")
    objects, skipped = read_xview_objects(root / LABELS)
    writer, labels = LabelWriter(len(get_class_names(raw))), root / "labels" / "train"
    labels.mkdir(parents=True, exist_ok=True)
    for image in images:
        classes, boxes, places = objects.get(image.name, ([], [], []))
        writer.write(labels / f"{image.stem}.txt", make_label_rows(classes, boxes, read_image_size_hw(image), places))
    writer.report("xView", f"{skipped} objects without a class or a box skipped")
    write_splits(root / "images", list(map(str, images)), SHARES, SEED)


def read_xview_objects(file: Path) -> tuple[Objects, int]:
    """Read the objects of a GeoJSON file by image (`image_id`), and count those without a class or a box.

    Raises:
        InputError: the file is missing or not from xView.
    """
    class_ids = {type_id: number for number, type_id in enumerate(TYPE_IDS)}
    objects: Objects = {}
    skipped = 0
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("features"), list):
        raise InputError(f"{file}: no list 'features'; expected xView's GeoJSON")
    for number, feature in enumerate(content["features"]):
        try:
            properties = feature["properties"]
            bounds = properties["bounds_imcoords"]
            corners = [float(value) for value in bounds.split(",") if value] if bounds else []
            label = class_ids.get(int(properties["type_id"]))
            image = str(properties["image_id"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"{file}: features[{number}] is not an object of xView ({error!r})") from error
        if label is None or len(corners) != 4:
            skipped += 1
            continue
        classes, boxes, places = objects.setdefault(image, ([], [], []))
        classes.append(label)
        boxes.append(corners)
        places.append(f"{file}: feature {properties.get('feature_id', number)}")
    return objects, skipped
