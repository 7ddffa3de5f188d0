"""PASCAL VOC annotations: Annotations/, JPEGImages/, ImageSets/Main/ (VOC development kit, section 2)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.formats.base import (
    ImageCopier,
    Splits,
    build_index,
    find_image,
    get_pixel_objects,
    iter_images,
    resolve_class_names,
    write_names,
)
from utils.datasets.index.data_yaml import SPLITS
from utils.datasets.index.label_files import write_image_list
from utils.datasets.index.verify import LabelRows
from utils.datasets.prepare.voc import parse_xml, read_voc_annotation


def read_voc(source: Path, names: Sequence[str], images: Path | None) -> Splits:
    """Read the splits train, val and test of ImageSets/Main if present, else all annotations for training.

    Args:
        names: classes and their order, others are skipped; by default labels.txt, else all in alphabetical order.
        images: image folder; by default JPEGImages, or beside the annotations.

    Raises:
        InputError: no annotations, or an invalid one.
    """
    annotations = source / "Annotations" if (source / "Annotations").is_dir() else source
    files = {file.stem: file for file in sorted(annotations.glob("*.xml"))}
    if not files:
        raise InputError(f"--source {source}: no annotations (Annotations/*.xml) in it")
    objects = (item for file in files.values() for item in parse_xml(file).iter("object"))
    class_names = resolve_class_names((item.findtext("name", "").strip() for item in objects), names, source)
    class_ids = {name: number for number, name in class_names.items()}
    jpegs = source / "JPEGImages"
    image_folder = images or (jpegs if jpegs.is_dir() else annotations)
    return {
        split: build_index(_read_split(stems, files, image_folder, class_ids), class_names, split)
        for split, stems in _read_split_lists(source, list(files)).items()
    }


def _read_split_lists(source: Path, all_stems: list[str]) -> dict[str, list[str]]:
    files = {split: source / "ImageSets" / "Main" / f"{split}.txt" for split in SPLITS}
    lists = {split: _read_stems(file) for split, file in files.items() if file.is_file()}
    return {split: stems for split, stems in lists.items() if stems} or {"train": all_stems}


def _read_stems(file: Path) -> list[str]:
    """The stems in a list, one per line; they may contain spaces."""
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _read_split(
    stems: Sequence[str], files: dict[str, Path], images: Path, class_ids: dict[str, int]
) -> Iterator[tuple[str, LabelRows]]:
    num_skipped = 0
    for stem in stems:
        if stem not in files:
            raise InputError(f"{stem}: listed in ImageSets/Main, but the annotation {stem}.xml is missing")
        labels, skipped = read_voc_annotation(files[stem], class_ids)
        num_skipped += skipped
        filename = parse_xml(files[stem]).findtext("filename", "").strip()
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
        for i, path, height, width in iter_images(index):
            image = copier.copy(path, out / "JPEGImages")
            stems.append(image.stem)
            root = ElementTree.Element("annotation")
            _add_fields(root, {"folder": "JPEGImages", "filename": image.name})
            _add_fields(ElementTree.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
            _add_fields(root, {"segmented": 0})
            for item in get_pixel_objects(index, i):
                node = ElementTree.SubElement(root, "object")
                fields = {"name": index.names[item.label], "pose": "Unspecified", "truncated": 0, "difficult": 0}
                _add_fields(node, fields)
                _add_fields(ElementTree.SubElement(node, "bndbox"), to_voc_box(item.box_xyxy))
            ElementTree.indent(root)
            tree = ElementTree.ElementTree(root)
            tree.write(out / "Annotations" / f"{image.stem}.xml", encoding="utf-8")
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
