"""Argoverse-HD as YOLO labels: street scenes from the front camera (arXiv:2005.10420, format: github.com/mtli/sAP)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.datasets.index.coco_large import load_boxes
from utils.datasets.index.label_files import LabelWriter, names_of, source_of
from utils.datasets.prepare.archives import fetch_and_unpack

SOURCE = "https://argoverse-hd.s3.us-east-2.amazonaws.com"
ARCHIVE = "Argoverse-HD-Full.zip"
LABELLED = ("train", "val")  # what is annotated of test/ is not published
FILMS = "tracking/"  # folder of the images in the archive; here it is called images/


def prepare_argoverse(root: Path, raw: Mapping[str, Any]) -> None:
    """Fetch Argoverse-HD below `root` and write Argoverse-1.1/labels/ beside Argoverse-1.1/images/.

    Args:
        raw: the data YAML; `source`, if given, replaces the official address.

    Raises:
        InputError: the archive cannot be fetched, or holds something else.
    """
    fetch_and_unpack(f"{source_of(raw, SOURCE)}/{ARCHIVE}", root)
    films, images = root / "Argoverse-1.1" / FILMS, root / "Argoverse-1.1" / "images"
    if films.is_dir() and not images.exists():
        films.replace(images)
    for split in LABELLED:
        annotations = root / "Argoverse-HD" / "annotations" / f"{split}.json"
        write_film_labels(annotations, root / "Argoverse-1.1" / "labels", len(names_of(raw)))


def write_film_labels(annotations: Path, folder: Path, num_classes: int) -> None:
    """A label file below `folder` for each image, in the folder of its film.

    Raises:
        InputError: the file is no Argoverse-HD annotation.
    """
    table, writer = load_boxes(annotations), LabelWriter(num_classes)
    places = [folder / film.rpartition(FILMS)[2].strip("/") for film in table.folders]
    for place in places:
        if not place.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{annotations}: seq_dirs: {place} lies outside the data set")
        place.mkdir(parents=True, exist_ok=True)
    for i, labels in table.images(num_classes):
        if not 0 <= table.sequences[i] < len(places):
            raise InputError(f"{annotations}: image {table.names[i]!r}: no film of number {table.sequences[i]}")
        writer.write(places[table.sequences[i]] / f"{Path(table.names[i]).stem}.txt", labels)
    writer.report(annotations.stem, f"{table.crowds} crowd regions and {table.malformed} malformed boxes passed over")
