"""VisDrone2019-DET (arXiv:2001.06303; annotation format: github.com/VisDrone), converted to YOLO labels.

An annotation line is left, top, width, height, score, category, truncation, occlusion. A score of 0 marks a region that
the benchmark ignores. Category 0 is ignored regions, 1 to 10 are the classes in their order, 11 is others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.core.files import read_text
from utils.datasets.index.label_files import LabelWriter, get_class_names, get_source_url, make_label_rows
from utils.datasets.index.verify import LabelRows
from utils.datasets.prepare.archives import download_archive
from utils.imaging.read import IMAGE_SUFFIXES, read_image_size_hw

SOURCE = "https://github.com/ultralytics/yolov5/releases/download/v1.0"
LABELED_PARTS = ("VisDrone2019-DET-train", "VisDrone2019-DET-val", "VisDrone2019-DET-test-dev")
MAX_BYTES = 16 << 20  # of an annotation file; a line takes 40
PARTS = (*LABELED_PARTS, "VisDrone2019-DET-test-challenge")


def prepare_visdrone(root: Path, raw: Mapping[str, Any]) -> None:
    """Download VisDrone2019-DET into `root` and write labels/ beside images/ and annotations/ of each part."""
    for part in PARTS:
        download_archive(f"{get_source_url(raw, SOURCE)}/{part}.zip", root)
    for part in LABELED_PARTS:
        _write_part_labels(root / part, len(get_class_names(raw)))


def _write_part_labels(folder: Path, num_classes: int) -> None:
    """Convert annotations/ of one part to labels/; InputError if there are none."""
    annotations, writer, num_ignored = sorted((folder / "annotations").glob("*.txt")), LabelWriter(num_classes), 0
    if not annotations:
        raise InputError(f"{folder / 'annotations'}: no annotations found; remove {folder.parent} and try again")
    images = {file.stem: file for file in (folder / "images").glob("*") if file.suffix.lower() in IMAGE_SUFFIXES}
    (folder / "labels").mkdir(exist_ok=True)
    for file in annotations:
        if file.stem in images:
            labels, ignored = read_visdrone_annotation(file, read_image_size_hw(images[file.stem]), num_classes)
            num_ignored += ignored
            writer.write(folder / "labels" / file.name, labels)
    writer.report(folder.name, f"{num_ignored} regions ignored by the benchmark skipped")


def read_visdrone_annotation(file: Path, size_hw: tuple[int, int], num_classes: int) -> tuple[LabelRows, int]:
    """Read unchecked rows of one annotation file, and count the regions that the benchmark ignores.

    Raises:
        InputError: a line is not an annotation.
    """
    classes, boxes, places, ignored = [], [], [], 0
    for number, line in enumerate(read_text(file, max_bytes=MAX_BYTES).splitlines(), 1):
        if not line.strip():
            continue
        try:
            left, top, width, height, score, category = (float(field) for field in line.split(",")[:6])
        except ValueError as error:
            raise InputError(f"{file}:{number}: {line[:60]!r} is not a VisDrone annotation of 8 numbers") from error
        if score == 0 or not 1 <= category <= num_classes:
            ignored += 1
            continue
        classes.append(category - 1)
        boxes.append([left, top, left + width, top + height])
        places.append(f"{file}:{number}")
    return make_label_rows(classes, boxes, size_hw, places), ignored
