"""Argoverse-HD (arXiv:2005.10420, format: github.com/mtli/sAP), converted to YOLO labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.datasets.index.coco_file import count_crowds, read_coco
from utils.datasets.index.coco_json import iter_image_labels
from utils.datasets.index.label_files import LabelWriter, get_class_names, get_source_url
from utils.datasets.prepare.archives import download_archive

SOURCE = "https://argoverse-hd.s3.us-east-2.amazonaws.com"
ARCHIVE = "Argoverse-HD-Full.zip"
LABELED_SPLITS = ("train", "val")  # the annotations of test/ are not public
TRACKING = "tracking/"  # image folder in the archive, renamed to images/


def prepare_argoverse(root: Path, raw: Mapping[str, Any]) -> None:
    """Download Argoverse-HD into `root` and write Argoverse-1.1/labels/ beside Argoverse-1.1/images/."""
    download_archive(f"{get_source_url(raw, SOURCE)}/{ARCHIVE}", root)
    tracking, images = root / "Argoverse-1.1" / TRACKING, root / "Argoverse-1.1" / "images"
    if tracking.is_dir() and not images.exists():
        tracking.replace(images)
    for split in LABELED_SPLITS:
        annotations = root / "Argoverse-HD" / "annotations" / f"{split}.json"
        _write_sequence_labels(annotations, root / "Argoverse-1.1" / "labels", len(get_class_names(raw)))


def _write_sequence_labels(annotations: Path, folder: Path, num_classes: int) -> None:
    """Write a label file for each image, in a subfolder of `folder` for its sequence."""
    content, writer = read_coco(annotations, name_key="name"), LabelWriter(num_classes)
    if not isinstance(content.get("seq_dirs"), list):
        raise InputError(f"{annotations}: no list 'seq_dirs'; expected Argoverse-HD annotations")
    sequences = [folder / str(name).rpartition(TRACKING)[2].strip("/") for name in content["seq_dirs"]]
    for sequence in sequences:
        if not sequence.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{annotations}: seq_dirs: {sequence} is outside the data set")
        sequence.mkdir(parents=True, exist_ok=True)
    for image, labels in iter_image_labels(content, num_classes, annotations):
        number = image.get("sid")
        if not isinstance(number, int) or number not in range(len(sequences)):
            raise InputError(f"{annotations}: image {image['name']!r}: no sequence {number}")
        writer.write(sequences[number] / f"{Path(str(image['name'])).stem}.txt", labels)
    writer.report(annotations.stem, f"{count_crowds(content)} crowd regions skipped")
