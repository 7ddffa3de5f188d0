"""COCO instance annotations (cocodataset.org/#format-data)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.core.errors import InputError
from utils.datasets.formats.base import (
    ImageCopier,
    PixelObject,
    Splits,
    build_index,
    resolve_class_names,
    separate_holes,
    write_data_yaml,
    write_json,
)
from utils.datasets.index.coco_file import read_category_names
from utils.datasets.index.coco_json import load_annotations
from utils.datasets.index.data_yaml import SPLITS
from utils.datasets.index.listing import list_images
from utils.ops.masks import rasterize, ring_area

PREFIX = "instances_"


def read_coco(source: Path, names: Sequence[str], images: Path | None) -> Splits:
    """Read a JSON file, or all in a folder or its annotations/; the file name determines the split.

    Args:
        names: classes and their order; by default the categories in the order of their ids.
        images: image folder; by default that of the set.

    Raises:
        InputError: no COCO JSON files, or two for one split.
    """
    files = _find_split_files(source)
    first = next(iter(files.values()))
    base = images or (first.parent.parent if first.parent.name == "annotations" else first.parent)
    class_names = resolve_class_names([], names or read_category_names(first), base)
    image_paths = list_images(base, base)
    sets = {}
    for split, file in files.items():
        stem = file.stem.removeprefix(PREFIX)
        folders = [base / "images" / stem, base / stem, base / "images" / split, base / split, base / "images", base]
        paths, labels = load_annotations(file, class_names, image_paths, folders)
        sets[split] = build_index(zip(paths, labels, strict=True), class_names, split)
    return sets


def _find_split_files(source: Path) -> dict[str, Path]:
    if source.is_file():
        files = [source]
    else:
        folder = source / "annotations" if (source / "annotations").is_dir() else source
        files = sorted(folder.glob(f"{PREFIX}*.json")) or sorted(folder.glob("*.json"))
    if not files:
        raise InputError(f"--source {source}: neither a JSON file nor a folder with any (annotations/instances_*.json)")
    split_files: dict[str, Path] = {}
    for file in files:
        split = next((split for split in SPLITS if split in file.stem.lower()), "train")
        if other := split_files.get(split):
            raise InputError(f"--source {source}: {other.name} and {file.name} are both for {split}; choose one")
        split_files[split] = file
    return {split: split_files[split] for split in SPLITS if split in split_files}


def write_coco(sets: Splits, out: Path, copier: ImageCopier) -> Path:
    """Write images/<split>/, annotations/instances_<split>.json and a data.yaml. Category ids start at 1."""
    splits = {}
    for split, index in sets.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id, (image, size_hw, items) in enumerate(copier.copy_images(index, out / "images" / split), 1):
            images.append({"id": image_id, "file_name": image.name, "width": size_hw[1], "height": size_hw[0]})
            for item in items:
                ids = {"id": len(annotations) + 1, "image_id": image_id, "category_id": item.label + 1, "iscrowd": 0}
                annotations.append(ids | to_coco_shape(item, size_hw))
        categories = [{"id": number + 1, "name": name, "supercategory": ""} for number, name in index.names.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        file = f"annotations/{PREFIX}{split}.json"
        write_json(out / file, {"info": {"description": split}} | content)
        splits[split] = {"images": f"images/{split}", "annotations": file}
    return write_data_yaml(out, splits, next(iter(sets.values())).names)


def to_coco_shape(item: PixelObject, size_hw: tuple[int, int]) -> dict[str, Any]:
    """bbox, area and segmentation: polygons, a run-length code for objects with holes, or empty for a box."""
    x1, y1, x2, y2 = item.box_xyxy
    shape: dict[str, Any] = {"bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)]}
    parts, holes = separate_holes(item.rings) if item.rings else ([], [])
    if holes:
        segmentation: Any = rasterize([item.rings], size_hw).rles()[0]
    else:
        segmentation = [[round(float(v), 3) for v in ring.flat] for ring in parts]
    rings_area = sum(map(ring_area, parts)) - sum(map(ring_area, holes))
    area = rings_area if parts else (x2 - x1) * (y2 - y1)
    return shape | {"area": round(float(area), 3), "segmentation": segmentation}
