"""PASCAL VOC (host.robots.ox.ac.uk/pascal/VOC, development kit, section 2), converted to YOLO labels."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any
from xml.parsers import expat

from utils.core.errors import InputError
from utils.core.files import read_file, read_text
from utils.datasets.index.label_files import LabelWriter, get_class_names, get_source_url, make_label_rows
from utils.datasets.index.verify import LabelRows
from utils.datasets.prepare.archives import download_archive

SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC/"
ARCHIVES = (
    "voc2007/VOCtrainval_06-Nov-2007.tar",
    "voc2007/VOCtest_06-Nov-2007.tar",
    "voc2012/VOCtrainval_11-May-2012.tar",
)
MAX_BYTES = 16 << 20  # of an annotation or list; an object takes 300
MAX_NUMBER = 1e9  # pixels
SETS = (("2007", "train"), ("2007", "val"), ("2007", "test"), ("2012", "train"), ("2012", "val"))


def prepare_voc(root: Path, raw: Mapping[str, Any]) -> None:
    """Download VOC 2007 and 2012 into `root`, arranged as images/train2012, labels/train2012 and so on."""
    for archive in ARCHIVES:
        download_archive(f"{get_source_url(raw, SOURCE)}/{archive}", root)
    class_ids = {name: number for number, name in get_class_names(raw).items()}
    for year, image_set in SETS:
        _arrange_set(root, year, image_set, class_ids)


def _arrange_set(root: Path, year: str, image_set: str, class_ids: Mapping[str, int]) -> None:
    """Move the images of one set to images/ and write its labels."""
    kit = root / "VOCdevkit" / f"VOC{year}"
    listing = kit / "ImageSets" / "Main" / f"{image_set}.txt"
    if not listing.is_file():
        raise InputError(f"{listing}: missing in the archives; remove {root} and try again")
    images, labels = (root / kind / f"{image_set}{year}" for kind in ("images", "labels"))
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    stems = read_text(listing, max_bytes=MAX_BYTES).split()
    writer, num_skipped = LabelWriter(len(class_ids)), 0
    for stem in stems:
        if PureWindowsPath(stem).name != stem:
            raise InputError(f"{listing}: {stem[:60]!r} is not the name of an image; get other archives")
        annotation = kit / "Annotations" / f"{stem}.xml"
        rows, skipped = parse_voc_annotation(parse_xml(annotation), annotation, class_ids)
        num_skipped += skipped
        writer.write(labels / f"{stem}.txt", rows)
        image = kit / "JPEGImages" / f"{stem}.jpg"
        if image.is_file():
            image.replace(images / image.name)
    writer.report(f"{image_set}{year}", f"{num_skipped} objects that are difficult or of other classes skipped")


def parse_voc_annotation(
    tree: ElementTree.Element, annotation: Path, class_ids: Mapping[str, int]
) -> tuple[LabelRows, int]:
    """Unchecked rows of one annotation file, and the number of skipped objects.

    Objects marked difficult are skipped, as in VOC's evaluation. VOC counts pixels from 1 and includes the last one, so
    a box spans [xmin - 1, xmax].

    Raises:
        InputError: not a VOC annotation.
    """
    classes, boxes, places, skipped = [], [], [], 0
    try:
        height, width = (_number(tree, f"size/{side}") for side in ("height", "width"))
        if min(height, width) < 1:
            raise ValueError("image size is not positive")
        for number, item in enumerate(tree.iter("object")):
            name = item.findtext("name", "").strip()
            if name not in class_ids or item.findtext("difficult", "0").strip() == "1":
                skipped += 1
                continue
            xmin, ymin, xmax, ymax = (_number(item, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
            classes.append(class_ids[name])
            boxes.append([xmin - 1, ymin - 1, xmax, ymax])
            places.append(f"{annotation}: object {number}")
    except ValueError as error:
        raise InputError(f"{annotation}: not a VOC annotation ({error})") from error
    return make_label_rows(classes, boxes, (int(height), int(width)), places), skipped


def parse_xml(file: Path) -> ElementTree.Element:
    """The root element of an XML file; InputError if it is invalid or declares entities, which may grow without end."""
    data = read_file(file, max_bytes=MAX_BYTES)
    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler, parser.EntityDeclHandler = builder.data, _refuse_entity
    try:
        parser.Parse(data, True)
        return builder.close()
    except expat.ExpatError as error:
        raise InputError(f"{file}:{error.lineno}: not valid XML: {expat.ErrorString(error.code)}") from error
    except (ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise InputError(f"{file}: not a VOC annotation ({error})") from error


def _refuse_entity(name: str, *_: object) -> None:
    raise ValueError(f"it declares the entity {name[:40]!r}")


def _number(element: ElementTree.Element, tag: str) -> float:
    text = element.findtext(tag)
    if text is None:
        raise ValueError(f"<{tag}> is missing")
    if not abs(number := float(text)) <= MAX_NUMBER:  # also if it is not a number
        raise ValueError(f"<{tag}> {text[:40]!r} is not a number of pixels")
    return number
