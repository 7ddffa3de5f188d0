"""VisDrone2019-DET as YOLO labels (arXiv:2001.06303; format of the annotations: github.com/VisDrone).

A line of annotations is left, top, width, height, score, category, truncation, occlusion. A score of 0 marks what the
benchmark does not count. Categories are 0 for ignored regions, 1 to 10 for the classes in their order, 11 for others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.datasets.index.label_files import LabelWriter, names_of, pixel_rows, source_of
from utils.datasets.index.verify import LabelRows
from utils.datasets.prepare.archives import fetch_and_unpack
from utils.imaging.read import IMAGE_SUFFIXES, image_size_hw

SOURCE = "https://github.com/ultralytics/yolov5/releases/download/v1.0"
LABELLED = ("VisDrone2019-DET-train", "VisDrone2019-DET-val", "VisDrone2019-DET-test-dev")
PARTS = (*LABELLED, "VisDrone2019-DET-test-challenge")


def prepare_visdrone(root: Path, raw: Mapping[str, Any]) -> None:
    """Fetch VisDrone2019-DET below `root` and write labels/ beside images/ and annotations/ of each part.

    Args:
        raw: the data YAML; `source`, if given, replaces the official address.

    Raises:
        InputError: an archive cannot be fetched, or holds something else.
    """
    for part in PARTS:
        fetch_and_unpack(f"{source_of(raw, SOURCE)}/{part}.zip", root)
    for part in LABELLED:
        write_part(root / part, len(names_of(raw)))


def write_part(folder: Path, num_classes: int) -> None:
    """labels/ of one part from its annotations/; InputError where there are none."""
    annotations, writer, uncounted = sorted((folder / "annotations").glob("*.txt")), LabelWriter(num_classes), 0
    if not annotations:
        raise InputError(f"{folder / 'annotations'}: no annotations in it; remove {folder.parent} and try again")
    images = {file.stem: file for file in (folder / "images").iterdir() if file.suffix.lower() in IMAGE_SUFFIXES}
    (folder / "labels").mkdir(exist_ok=True)
    for file in annotations:
        if file.stem in images:
            labels, skipped = visdrone_rows(file, image_size_hw(images[file.stem]), num_classes)
            uncounted += skipped
            writer.write(folder / "labels" / file.name, labels)
    writer.report(folder.name, f"{uncounted} regions that the benchmark does not count")


def visdrone_rows(file: Path, size_hw: tuple[int, int], num_classes: int) -> tuple[LabelRows, int]:
    """Rows of one annotation file, not yet checked, and how many of its lines do not count.

    Raises:
        InputError: a line is no annotation.
    """
    classes, boxes, places, skipped = [], [], [], 0
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1):
        fields = line.strip().rstrip(",").split(",")
        if fields == [""]:
            continue
        try:
            left, top, width, height, score, category = (float(field) for field in fields[:6])
        except ValueError as error:
            raise InputError(f"{file}:{number}: {line[:60]!r} is not a VisDrone annotation of 8 numbers") from error
        if score == 0 or not 1 <= category <= num_classes:
            skipped += 1
            continue
        classes.append(category - 1)
        boxes.append([left, top, left + width, top + height])
        places.append(f"{file}:{number}")
    return pixel_rows(classes, boxes, size_hw, places), skipped
