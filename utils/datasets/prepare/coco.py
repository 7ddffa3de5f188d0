"""COCO 2017 (cocodataset.org), converted to YOLO labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.datasets.index.coco_file import read_image_names
from utils.datasets.index.coco_json import load_annotations
from utils.datasets.index.label_files import LabelWriter, get_class_names, get_source_url, write_image_list
from utils.datasets.prepare.archives import download_archive

SOURCE = "http://images.cocodataset.org/"
ANNOTATIONS = "annotations/annotations_trainval2017.zip"
TEST_INFO = "annotations/image_info_test2017.zip"
IMAGES = ("zips/val2017.zip", "zips/train2017.zip", "zips/test2017.zip")  # 1, 19 and 7 GB


def prepare_coco(root: Path, raw: Mapping[str, Any]) -> None:
    """Download COCO 2017 into `root`: images/, box labels in labels/, and the lists train2017.txt, val2017.txt, ..."""
    source = get_source_url(raw, SOURCE)
    for archive in (ANNOTATIONS, TEST_INFO):
        download_archive(f"{source}/{archive}", root)
    for archive in IMAGES:
        download_archive(f"{source}/{archive}", root / "images")
    for split in ("train2017", "val2017"):
        _write_box_labels(root, split, get_class_names(raw))
    test = read_image_names(root / "annotations" / "image_info_test-dev2017.json")
    _write_list(root / "test-dev2017.txt", "test2017", test)


def _write_box_labels(root: Path, split: str, names: Mapping[int, str]) -> None:
    """Convert annotations/instances_SPLIT.json to labels/SPLIT/*.txt and the list SPLIT.txt, without crowds."""
    annotations = root / "annotations" / f"instances_{split}.json"
    images, labels = load_annotations(annotations, names, [], [root / "images" / split])
    writer = LabelWriter(len(names))
    writer.write_all(root / "labels" / split, zip((Path(image).stem for image in images), labels, strict=True))
    _write_list(root / f"{split}.txt", split, [Path(image).name for image in images])
    writer.report(split)


def _write_list(file: Path, split: str, names: list[str]) -> None:
    write_image_list(file, (f"./images/{split}/{name}" for name in sorted(names)))
