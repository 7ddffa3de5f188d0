"""COCO instance annotations as a format of whole sets (cocodataset.org/#format-data)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.datasets.formats.base import (
    ImagePlacer,
    PixelObject,
    Splits,
    class_names,
    images_of,
    parts_and_holes,
    pixel_objects,
    verified,
    write_data_yaml,
    write_json,
)
from utils.datasets.index.coco_json import categories_of, load_annotations
from utils.datasets.index.data_yaml import SPLITS
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.labels import list_images
from utils.ops.masks import rasterize, ring_area

PREFIX = "instances_"


def read_coco(source: Path, names: Sequence[str], images: Path | None) -> Splits:
    """One JSON file, or all in a folder or its annotations/; which split a file is tells its name.

    Args:
        names: classes and their order; by default the categories, in the order of their ids.
        images: folder of the images; by default that of the set.

    Raises:
        InputError: no JSON of COCO's form there, or two of one split.
    """
    files = _files_of_splits(source)
    first = next(iter(files.values()))
    base = images or (first.parent.parent if first.parent.name == "annotations" else first.parent)
    numbered = class_names([], names or categories_of(first), base)
    listed = list_images(base, base)
    sets = {}
    for split, file in files.items():
        stem = file.stem.removeprefix(PREFIX)
        places = [base / "images" / stem, base / stem, base / "images" / split, base / split, base / "images", base]
        pictures, labels = load_annotations(file, numbered, listed, places)
        sets[split] = verified(zip(pictures, labels, strict=True), numbered, split)
    return sets


def _files_of_splits(source: Path) -> dict[str, Path]:
    if source.is_file():
        files = [source]
    else:
        folder = source / "annotations" if (source / "annotations").is_dir() else source
        files = sorted(folder.glob(f"{PREFIX}*.json")) or sorted(folder.glob("*.json"))
    if not files:
        raise InputError(f"--source {source}: neither a JSON file nor a folder with any (annotations/instances_*.json)")
    found: dict[str, Path] = {}
    for file in files:
        split = next((split for split in SPLITS if split in file.stem.lower()), "train")
        if split in found:
            raise InputError(f"--source {source}: {found[split].name} and {file.name} would both be {split}; name one")
        found[split] = file
    return {split: found[split] for split in SPLITS if split in found}


def write_coco(sets: Splits, out: Path, placer: ImagePlacer) -> Path:
    """images/<split>/, annotations/instances_<split>.json and a data.yaml that names both. Categories start from 1."""
    splits = {}
    for split, index in sets.items():
        content = coco_content(index, split, out, placer)
        file = Path("annotations") / f"{PREFIX}{split}.json"
        write_json(out / file, content)
        splits[split] = {"images": f"images/{split}", "annotations": file.as_posix()}
    return write_data_yaml(out, splits, next(iter(sets.values())).names)


def coco_content(index: ImageIndex, split: str, out: Path, placer: ImagePlacer) -> dict[str, Any]:
    """The JSON of one split, its images put into place."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, path, height, width in images_of(index):
        image = placer.place(path, out / "images" / split)
        images.append({"id": i + 1, "file_name": image.name, "width": width, "height": height})
        for thing in pixel_objects(index, i):
            common = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": thing.label + 1, "iscrowd": 0}
            annotations.append(common | coco_shape(thing, (height, width)))
    categories = [{"id": number + 1, "name": name, "supercategory": ""} for number, name in index.names.items()]
    return {"info": {"description": split}, "images": images, "annotations": annotations, "categories": categories}


def coco_shape(thing: PixelObject, size_hw: tuple[int, int]) -> dict[str, Any]:
    """bbox, area and segmentation: polygons, or a run-length code for what has holes; none for a box."""
    x1, y1, x2, y2 = thing.box_xyxy
    shape: dict[str, Any] = {"bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)]}
    parts, holes = parts_and_holes(thing.rings) if thing.rings else ([], [])
    if holes:
        segmentation: Any = rasterize([thing.rings], size_hw).rles()[0]
    else:
        segmentation = [[round(float(v), 3) for v in ring.flat] for ring in parts]
    rings_area = sum(map(ring_area, parts)) - sum(map(ring_area, holes))
    area = rings_area if parts else (x2 - x1) * (y2 - y1)
    return shape | {"area": round(float(area), 3), "segmentation": segmentation}
