"""COCO 2017 as YOLO labels, made from the annotations that cocodataset.org publishes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.datasets.index.coco_json import image_names, load_annotations
from utils.datasets.index.label_files import LabelWriter, names_of, source_of, write_list
from utils.datasets.prepare.archives import fetch_and_unpack

SOURCE = "http://images.cocodataset.org/"
ANNOTATIONS = "annotations/annotations_trainval2017.zip"
TEST_INFO = "annotations/image_info_test2017.zip"
IMAGES = ("zips/val2017.zip", "zips/train2017.zip", "zips/test2017.zip")  # 1, 19 and 7 GB


def prepare_coco(root: Path, raw: Mapping[str, Any]) -> None:
    """Fetch COCO 2017 below `root`: images/, box labels in labels/, and the lists train2017.txt, val2017.txt, ...

    Args:
        raw: the data YAML; `names` number the classes, `source`, if given, replaces the official address.

    Raises:
        InputError: an archive cannot be fetched, or holds something else.
    """
    source = source_of(raw, SOURCE)
    for archive in (ANNOTATIONS, TEST_INFO):
        fetch_and_unpack(f"{source}/{archive}", root)
    for archive in IMAGES:
        fetch_and_unpack(f"{source}/{archive}", root / "images")
    for split in ("train2017", "val2017"):
        write_box_labels(root, split, names_of(raw))
    test = image_names(root / "annotations" / "image_info_test-dev2017.json")
    _write_list(root / "test-dev2017.txt", "test2017", test)


def write_box_labels(root: Path, split: str, names: Mapping[int, str]) -> None:
    """Turn annotations/instances_SPLIT.json into labels/SPLIT/*.txt and the list SPLIT.txt. Crowds are left out."""
    annotations = root / "annotations" / f"instances_{split}.json"
    images, labels = load_annotations(annotations, names, [], [root / "images" / split])
    writer = LabelWriter(len(names))
    writer.write_all(root / "labels" / split, zip((Path(image).stem for image in images), labels, strict=True))
    _write_list(root / f"{split}.txt", split, [Path(image).name for image in images])
    writer.report(split)


def _write_list(file: Path, split: str, names: list[str]) -> None:
    write_list(file, (f"./images/{split}/{name}" for name in sorted(names)))
