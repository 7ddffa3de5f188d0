"""PASCAL VOC annotations: Annotations/, JPEGImages/, ImageSets/Main/ (VOC development kit, section 2)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from utils.core.errors import InputError
from utils.core.files import read_text
from utils.core.logging import LOGGER
from utils.datasets.formats.base import (
    ImageCopier,
    Splits,
    build_index,
    find_image,
    resolve_class_names,
    write_names,
)
from utils.datasets.index.data_yaml import SPLITS
from utils.datasets.index.label_files import write_image_list
from utils.datasets.index.verify import LabelRows
from utils.datasets.prepare.voc import MAX_BYTES, parse_voc_annotation, parse_xml


def read_voc(source: Path, names: Sequence[str], images: Path | None) -> Splits:
    """Read the splits train, val and test of ImageSets/Main if present, else all annotations for training.

    Args:
        names: classes and their order, others are skipped; by default labels.txt, else all in alphabetical order.
        images: image folder; by default JPEGImages, or beside the annotations.

    Raises:
        InputError: no annotations, or an invalid one.
    """
    annotations = source / "Annotations" if (source / "Annotations").is_dir() else source
    trees = {file: parse_xml(file) for file in sorted(annotations.glob("*.xml"))}
    if not trees:
        raise InputError(f"--source {source}: no annotations (Annotations/*.xml) in it")
    objects = (item for tree in trees.values() for item in tree.iter("object"))
    class_names = resolve_class_names((item.findtext("name", "").strip() for item in objects), names, source)
    class_ids = {name: number for number, name in class_names.items()}
    jpegs = source / "JPEGImages"
    image_folder = images or (jpegs if jpegs.is_dir() else annotations)
    sets = {}
    for split in SPLITS:
        listing = source / "ImageSets" / "Main" / f"{split}.txt"
        lines = read_text(listing, max_bytes=MAX_BYTES).splitlines() if listing.is_file() else []
        if files := [annotations / f"{line.strip()}.xml" for line in lines if line.strip()]:
            sets[split] = build_index(_read_split(files, trees, image_folder, class_ids), class_names, split)
    return sets or {"train": build_index(_read_split(trees, trees, image_folder, class_ids), class_names, "train")}


def _read_split(
    files: Iterable[Path], trees: Mapping[Path, ElementTree.Element], images: Path, class_ids: Mapping[str, int]
) -> Iterator[tuple[str, LabelRows]]:
    num_skipped = 0
    for file in files:
        if file not in trees:
            raise InputError(f"{file.stem}: listed in ImageSets/Main, but the annotation {file.name} is missing")
        labels, skipped = parse_voc_annotation(trees[file], file, class_ids)
        num_skipped += skipped
        stem, filename = file.stem, trees[file].findtext("filename", "").strip()
        yield find_image(images, *dict.fromkeys((f"{stem}.jpg", Path(filename).name or f"{stem}.jpg"))), labels
    if num_skipped:
        LOGGER.info(f"{num_skipped} objects that are difficult or of other classes skipped")


def write_voc(sets: Splits, out: Path, copier: ImageCopier) -> Path:
    """Write the set. Corners are integer pixels counted from 1, last pixel included, so half a pixel may be lost."""
    lists = out / "ImageSets" / "Main"
    for folder in (lists, out / "Annotations"):
        folder.mkdir(parents=True)
    for split, index in sets.items():
        stems = []
        for image, (height, width), items in copier.copy_images(index, out / "JPEGImages"):
            stems.append(image.stem)
            root = ElementTree.Element("annotation")
            _add_fields(root, {"folder": "JPEGImages", "filename": image.name})
            _add_fields(ElementTree.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
            _add_fields(root, {"segmented": 0})
            for item in items:
                node = ElementTree.SubElement(root, "object")
                name = index.names[item.label]
                _add_fields(node, {"name": name, "pose": "Unspecified", "truncated": 0, "difficult": 0})
                _add_fields(ElementTree.SubElement(node, "bndbox"), to_voc_box(item.box_xyxy))
            ElementTree.indent(root)
            file = out / "Annotations" / f"{image.stem}.xml"
            ElementTree.ElementTree(root).write(file, encoding="utf-8")
        write_image_list(lists / f"{split}.txt", stems)
    write_names(out, next(iter(sets.values())).names)
    return out


def to_voc_box(box_xyxy: Sequence[float]) -> dict[str, int]:
    """xmin, ymin, xmax and ymax of the covered pixels, counted from 1, at least one pixel per side."""
    x1, y1, x2, y2 = (round(v) for v in box_xyxy)
    return {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": max(x2, x1 + 1), "ymax": max(y2, y1 + 1)}


def _add_fields(element: ElementTree.Element, values: Mapping[str, object]) -> None:
    for tag, value in values.items():
        ElementTree.SubElement(element, tag).text = str(value)
