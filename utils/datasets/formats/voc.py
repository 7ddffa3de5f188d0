"""PASCAL VOC as a format of whole sets: Annotations/, JPEGImages/, ImageSets/Main/ (VOC development kit, section 2)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.formats.base import (
    ImagePlacer,
    Splits,
    class_names,
    find_image,
    images_of,
    pixel_objects,
    verified,
    write_names,
)
from utils.datasets.index.data_yaml import SPLITS
from utils.datasets.index.label_files import write_list
from utils.datasets.index.verify import LabelRows
from utils.datasets.prepare.voc import parse_annotation, voc_labels


def read_voc(source: Path, names: Sequence[str], images: Path | None) -> Splits:
    """The sets train, val and test of ImageSets/Main where they are there, else all annotations for training.

    Args:
        names: classes and their order, others are passed over; by default labels.txt, else all in alphabetical order.
        images: folder of the images; by default JPEGImages, or beside the annotations.

    Raises:
        InputError: no annotations there, or one that is not VOC's.
    """
    annotations = source / "Annotations" if (source / "Annotations").is_dir() else source
    files = {file.stem: file for file in sorted(annotations.glob("*.xml"))}
    if not files:
        raise InputError(f"--source {source}: no annotations (Annotations/*.xml) in it")
    objects = (item for file in files.values() for item in parse_annotation(file).iter("object"))
    numbered = class_names((item.findtext("name", "").strip() for item in objects), names, source)
    jpegs = source / "JPEGImages"
    pictures = images or (jpegs if jpegs.is_dir() else annotations)
    return {
        split: verified(_labelled(stems, files, pictures, {n: k for k, n in numbered.items()}), numbered, split)
        for split, stems in _sets(source, list(files)).items()
    }


def _sets(source: Path, stems: list[str]) -> dict[str, list[str]]:
    lists = {split: source / "ImageSets" / "Main" / f"{split}.txt" for split in SPLITS}
    there = {split: _lines(file) for split, file in lists.items() if file.is_file()}
    return {split: listed for split, listed in there.items() if listed} or {"train": stems}


def _lines(file: Path) -> list[str]:
    """The stems in a list, which may have spaces in them."""
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _labelled(
    stems: Sequence[str], files: dict[str, Path], images: Path, class_of: dict[str, int]
) -> Iterator[tuple[str, LabelRows]]:
    skipped = 0
    for stem in stems:
        if stem not in files:
            raise InputError(f"{stem}: listed in ImageSets/Main, but it has no annotation {stem}.xml")
        labels, unused = voc_labels(files[stem], class_of)
        skipped += unused
        named = parse_annotation(files[stem]).findtext("filename", "").strip()
        yield find_image(images, *dict.fromkeys((f"{stem}.jpg", Path(named).name or f"{stem}.jpg"))), labels
    if skipped:
        LOGGER.info(f"{skipped} difficult or unnamed objects passed over")


def write_voc(sets: Splits, out: Path, placer: ImagePlacer) -> Path:
    """Write the set. Corners are whole pixels counted from 1, the last one included, so half a pixel may be lost."""
    lists = out / "ImageSets" / "Main"
    for folder in (lists, out / "Annotations"):
        folder.mkdir(parents=True)
    for split, index in sets.items():
        stems = []
        for i, path, height, width in images_of(index):
            image = placer.place(path, out / "JPEGImages")
            stems.append(image.stem)
            root = ElementTree.Element("annotation")
            _fill(root, {"folder": "JPEGImages", "filename": image.name})
            _fill(ElementTree.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
            _fill(root, {"segmented": 0})
            for thing in pixel_objects(index, i):
                item = ElementTree.SubElement(root, "object")
                _fill(item, {"name": index.names[thing.label], "pose": "Unspecified", "truncated": 0, "difficult": 0})
                _fill(ElementTree.SubElement(item, "bndbox"), corners_from_1(thing.box_xyxy))
            ElementTree.indent(root)
            tree = ElementTree.ElementTree(root)
            tree.write(out / "Annotations" / f"{image.stem}.xml", encoding="utf-8")
        write_list(lists / f"{split}.txt", stems)
    write_names(out, next(iter(sets.values())).names)
    return out


def corners_from_1(box_xyxy: Sequence[float]) -> dict[str, int]:
    """xmin, ymin, xmax and ymax of the pixels that a box covers, at least one each way."""
    x1, y1, x2, y2 = (round(v) for v in box_xyxy)
    return {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": max(x2, x1 + 1), "ymax": max(y2, y1 + 1)}


def _fill(element: ElementTree.Element, values: Mapping[str, object]) -> None:
    for tag, value in values.items():
        ElementTree.SubElement(element, tag).text = str(value)
