"""PASCAL VOC as YOLO labels (annotation format: host.robots.ox.ac.uk/pascal/VOC, development kit, section 2)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.datasets.index.label_files import LabelWriter, names_of, pixel_rows, source_of
from utils.datasets.index.verify import LabelRows
from utils.datasets.prepare.archives import fetch_and_unpack

SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC/"
ARCHIVES = (
    "voc2007/VOCtrainval_06-Nov-2007.tar",
    "voc2007/VOCtest_06-Nov-2007.tar",
    "voc2012/VOCtrainval_11-May-2012.tar",
)
SETS = (("2007", "train"), ("2007", "val"), ("2007", "test"), ("2012", "train"), ("2012", "val"))


def prepare_voc(root: Path, raw: Mapping[str, Any]) -> None:
    """Fetch VOC 2007 and 2012 below `root` and lay them out as images/train2012, labels/train2012 and so on.

    Args:
        raw: the data YAML: `names` number the classes; `source`, if given, replaces the official address.

    Raises:
        InputError: an archive cannot be fetched, or an annotation is not VOC's.
    """
    for archive in ARCHIVES:
        fetch_and_unpack(f"{source_of(raw, SOURCE)}/{archive}", root)
    class_of = {name: number for number, name in names_of(raw).items()}
    for year, image_set in SETS:
        _arrange_set(root, year, image_set, class_of)


def _arrange_set(root: Path, year: str, image_set: str, class_of: Mapping[str, int]) -> None:
    """Move one set's images to images/ and write its labels."""
    kit = root / "VOCdevkit" / f"VOC{year}"
    listing = kit / "ImageSets" / "Main" / f"{image_set}.txt"
    if not listing.is_file():
        raise InputError(f"{listing}: missing in the archives; remove {root} and try again")
    images, labels = (root / kind / f"{image_set}{year}" for kind in ("images", "labels"))
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    stems = listing.read_text(encoding="utf-8").split()
    writer, skipped = LabelWriter(len(class_of)), 0
    for stem in stems:
        rows, unused = voc_labels(kit / "Annotations" / f"{stem}.xml", class_of)
        skipped += unused
        writer.write(labels / f"{stem}.txt", rows)
        image = kit / "JPEGImages" / f"{stem}.jpg"
        if image.is_file():
            image.replace(images / image.name)
    writer.report(f"{image_set}{year}", f"{skipped} difficult or unnamed objects passed over")


def voc_labels(annotation: Path, class_of: Mapping[str, int]) -> tuple[LabelRows, int]:
    """Rows of one annotation, not yet checked, and how many of its objects were passed over.

    Objects marked difficult are left out, as VOC's own evaluation does. VOC counts pixels from 1 and includes the last
    one, so a box spans [xmin - 1, xmax].

    Raises:
        InputError: the file is no VOC annotation.
    """
    tree = parse_annotation(annotation)
    classes, boxes, places, skipped = [], [], [], 0
    try:
        height, width = (_number(tree, f"size/{side}") for side in ("height", "width"))
        if min(height, width) <= 0:
            raise ValueError("an image without a size")
        for number, item in enumerate(tree.iter("object")):
            name = item.findtext("name", "").strip()
            if name not in class_of or item.findtext("difficult", "0").strip() == "1":
                skipped += 1
                continue
            xmin, ymin, xmax, ymax = (_number(item, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
            classes.append(class_of[name])
            boxes.append([xmin - 1, ymin - 1, xmax, ymax])
            places.append(f"{annotation}: object {number}")
    except ValueError as error:
        raise InputError(f"{annotation}: not a VOC annotation ({error})") from error
    return pixel_rows(classes, boxes, (int(height), int(width)), places), skipped


def parse_annotation(file: Path) -> ElementTree.Element:
    """The root of an XML file; InputError where it is none."""
    try:
        return ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise InputError(f"{file}:{error.position[0]}: not valid XML: {error.msg}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a VOC annotation ({error})") from error


def _number(element: ElementTree.Element, tag: str) -> float:
    text = element.findtext(tag)
    if text is None:
        raise ValueError(f"<{tag}> is missing")
    return float(text)
