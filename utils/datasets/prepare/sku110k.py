"""SKU-110K (arXiv:1904.00853, github.com/eg4000/SKU110K_CVPR19), converted to YOLO labels."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.core.files import read_text
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
MAX_SIDE = 1_000_000  # pixels


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
    if not file.is_file():
        raise InputError(f"{file}: missing in the archive; remove {file.parents[1]} and try again")
    rows = csv.reader(read_text(file).splitlines())
    try:
        for row in rows:
            if not row:
                continue
            x1, y1, x2, y2, width, height = (float(value) for value in (*row[1:5], *row[6:8]))
            if not 1 <= min(width, height) <= max(width, height) <= MAX_SIDE:
                raise ValueError("invalid image size")
            boxes.setdefault(row[0], []).append([x1, y1, x2, y2])
            places.setdefault(row[0], []).append(f"{file}:{rows.line_num}")
            sizes[row[0]] = int(height), int(width)
    except (ValueError, csv.Error) as error:
        raise InputError(f"{file}:{rows.line_num}: not name, x1, y1, x2, y2, class, width, height ({error})") from error
    return {name: make_label_rows([0] * len(rows), rows, sizes[name], places[name]) for name, rows in boxes.items()}
