"""SKU-110K (arXiv:1904.00853, github.com/eg4000/SKU110K_CVPR19), converted to YOLO labels."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.datasets.index.label_files import (
    LabelWriter,
    get_class_names,
    get_source_url,
    make_label_rows,
    write_image_list,
)
from utils.datasets.index.verify import LabelRows
from utils.datasets.prepare.archives import download_archive

SOURCE = "http://trax-geometry.s3.amazonaws.com/cvpr_challenge"
ARCHIVE = "SKU110K_fixed.tar.gz"
SPLITS = ("train", "val", "test")


def prepare_sku110k(root: Path, raw: Mapping[str, Any]) -> None:
    """Download SKU-110K into `root`: images/, labels/, annotations/ and the lists train.txt, val.txt and test.txt."""
    download_archive(f"{get_source_url(raw, SOURCE)}/{ARCHIVE}", root)
    unpacked = root / ARCHIVE.removesuffix(".tar.gz")
    for item in unpacked.glob("*"):
        item.replace(root / item.name)
    if unpacked.is_dir():
        unpacked.rmdir()
    for split in SPLITS:
        writer = LabelWriter(len(get_class_names(raw)))
        labels = read_sku110k_annotations(root / "annotations" / f"annotations_{split}.csv")
        writer.write_all(root / "labels", ((Path(name).stem, rows) for name, rows in labels.items()))
        write_image_list(root / f"{split}.txt", (f"./images/{name}" for name in sorted(labels)))
        writer.report(split)


def read_sku110k_annotations(file: Path) -> dict[str, LabelRows]:
    """Read unchecked rows by image from a CSV of name, x1, y1, x2, y2, class, image width, image height.

    All objects belong to one class.

    Raises:
        InputError: the file is missing or a line has another form.
    """
    boxes: dict[str, list[list[float]]] = {}
    places: dict[str, list[str]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            for number, row in enumerate(csv.reader(stream), 1):
                if not row:
                    continue
                x1, y1, x2, y2, width, height = (float(value) for value in (*row[1:5], *row[6:8]))
                if min(width, height) <= 0:
                    raise ValueError("image size is not positive")
                boxes.setdefault(row[0], []).append([x1, y1, x2, y2])
                places.setdefault(row[0], []).append(f"{file}:{number}")
                sizes[row[0]] = int(height), int(width)
    except OSError as error:
        raise InputError(f"{file}: missing in the archive; remove {file.parents[1]} and try again") from error
    except ValueError as error:
        raise InputError(f"{file}:{number}: not name, x1, y1, x2, y2, class, width, height ({error})") from error
    return {name: make_label_rows([0] * len(rows), rows, sizes[name], places[name]) for name, rows in boxes.items()}
