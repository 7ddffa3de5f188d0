"""labelme annotations, one JSON file per image (github.com/wkentaro/labelme)."""

from __future__ import annotations

import base64
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from utils.core.errors import InputError
from utils.core.files import read_json
from utils.datasets.formats.base import (
    ImageCopier,
    PixelObject,
    PixelObjects,
    Splits,
    build_index,
    find_image,
    parse_points,
    resolve_class_names,
    separate_holes,
    write_json,
    write_names,
)
from utils.datasets.index.data_yaml import SPLITS
from utils.datasets.index.verify import LabelRows
from utils.imaging.read import decode_image
from utils.ops.masks import trace_rings
from utils.ops.polygons import join_rings

CIRCLE_CORNERS = 64
VERSION = "5.4.1"  # of the written files


def read_labelme(source: Path, names: Sequence[str], images: Path | None) -> Splits:
    """Read the JSON files of a folder, or of its subfolders train, val and test.

    Args:
        names: classes and their order, others are skipped; by default labels.txt, else all in alphabetical order.
        images: image folder; by default as in each file, or beside it.

    Raises:
        InputError: no annotations, or a file that is not in labelme's format.
    """
    folders = {split: source / split for split in SPLITS if (source / split).is_dir()} or {"train": source}
    files = {split: sorted(folder.glob("**/*.json")) for split, folder in folders.items()}
    contents = {file: read_json(file) for split_files in files.values() for file in split_files}
    if not contents:
        raise InputError(f"--source {source}: no labelme files (*.json) in it")
    labels = {str(shape.get("label")) for file, content in contents.items() for shape in _get_shapes(content, file)}
    class_names = resolve_class_names(labels, names, source)
    class_ids = {name: number for number, name in class_names.items()}
    sets = {}
    for split, split_files in files.items():
        pairs = [
            (_find_image(file, contents[file], images), parse_labelme(contents[file], class_ids, file))
            for file in split_files
        ]
        if pairs:
            sets[split] = build_index(pairs, class_names, split)
    return sets


def _get_shapes(content: Any, file: Path) -> list[dict[str, Any]]:
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise InputError(f"{file}: no list 'shapes'; expected labelme annotations")
    return shapes


def _find_image(file: Path, content: Mapping[str, Any], images: Path | None) -> str:
    path = str(content.get("imagePath") or f"{file.stem}.jpg").replace("\\", "/")
    name = PureWindowsPath(path).name or f"{file.stem}.jpg"
    return find_image(images, name) if images else find_image(file.parent, path, name)


def parse_labelme(content: Mapping[str, Any], class_ids: Mapping[str, int], file: Path) -> LabelRows:
    """Unchecked rows of one file; polygons with the same label and `group_id` are parts of one object.

    Raises:
        InputError: the image size or the points of a shape are missing.
    """
    height, width = content.get("imageHeight"), content.get("imageWidth")
    try:
        objects = PixelObjects((height, width))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        shown = f"imageHeight {reprlib.repr(height)} or imageWidth {reprlib.repr(width)}"
        raise InputError(f"{file}: invalid {shown}; save the file again") from error
    groups: dict[tuple[int, str], tuple[str, list[np.ndarray]]] = {}
    for number, shape in enumerate(_get_shapes(content, file)):
        place, label = f"{file}: shape {number}", class_ids.get(str(shape.get("label")))
        box, rings = _parse_shape(shape, place) if label is not None else ((), [])
        if label is None or (not len(box) and not rings):
            objects.skipped += 1
        elif shape.get("group_id") is not None and rings:
            groups.setdefault((label, str(shape["group_id"])), (place, []))[1].extend(rings)
        else:
            objects.add(label, place, box_xyxy=box, rings=rings)
    for (label, _), (place, rings) in groups.items():
        objects.add(label, place, rings=rings)
    return objects.to_rows(file)


def _parse_shape(shape: Mapping[str, Any], place: str) -> tuple[Sequence[float], list[np.ndarray]]:
    """Box and rings of a shape; both empty for points and lines."""
    kind = shape.get("shape_type") or "polygon"
    try:
        points = parse_points(shape.get("points"))
    except ValueError as error:
        raise InputError(f"{place}: points: {error}") from error
    if kind in ("rectangle", "mask") and len(points) == 2:
        low, high = points.min(0), points.max(0)
        if kind == "rectangle":
            return [*low, *high], []
        try:
            data = np.frombuffer(base64.b64decode(shape["mask"], validate=True), np.uint8)
            mask = decode_image(data, place, channels=1)[..., 0] > 0
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{place}: the mask is not a base64-encoded PNG ({error})") from error
        return [*low, *(low + mask.shape[::-1])], [ring + low for ring in trace_rings(mask)]
    if kind == "circle" and len(points) == 2:
        radius = float(np.hypot(*(points[1] - points[0])))
        angles = np.linspace(0, 2 * np.pi, CIRCLE_CORNERS, endpoint=False)
        ring = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return [*(points[0] - radius), *(points[0] + radius)], [ring]
    if kind in ("polygon", "rectangle", "oriented_rectangle") and len(points) >= 3:
        return (), [points]
    return (), []


def write_labelme(sets: Splits, out: Path, copier: ImageCopier) -> Path:
    """Write images and JSON files to <split>/. Parts of an object share a group_id, holes are joined to them."""
    for split, index in sets.items():
        for image, (height, width), items in copier.copy_images(index, out / split):
            shapes: list[dict[str, Any]] = []
            for number, item in enumerate(items):
                shapes += to_labelme_shapes(item, index.names[item.label], number)
            size = {"imagePath": image.name, "imageData": None, "imageHeight": height, "imageWidth": width}
            content = {"version": VERSION, "flags": {}, "shapes": shapes} | size
            write_json(image.with_suffix(".json"), content)
    write_names(out, next(iter(sets.values())).names)
    return out


def to_labelme_shapes(item: PixelObject, name: str, number: int) -> list[dict[str, Any]]:
    """One shape, or a group of shapes with the id `number` for an object of several parts."""
    x1, y1, x2, y2 = item.box_xyxy
    kind, outlines = "rectangle", [np.array([[x1, y1], [x2, y2]])]
    if item.rings:
        parts, holes = separate_holes(item.rings)
        kind, outlines = "polygon", [join_rings(item.rings)] if holes else parts
    group = number if len(outlines) > 1 else None
    common: dict[str, Any] = {"label": name, "group_id": group, "description": "", "shape_type": kind, "flags": {}}
    return [common | {"mask": None, "points": np.round(outline, 3).tolist()} for outline in outlines]
