"""labelme's JSON files, one beside each image (github.com/wkentaro/labelme)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.datasets.formats.base import (
    ImagePlacer,
    PixelObject,
    PixelObjects,
    Splits,
    class_names,
    find_image,
    images_of,
    parts_and_holes,
    pixel_objects,
    read_object,
    split_folders,
    verified,
    write_json,
    write_names,
)
from utils.datasets.index.verify import LabelRows
from utils.imaging.read import ImageError, decode_image
from utils.ops.masks import bitmap_rings
from utils.ops.polygons import join_rings

CIRCLE_CORNERS = 64
VERSION = "5.4.1"  # whose form is written


def read_labelme(source: Path, names: Sequence[str], images: Path | None) -> Splits:
    """The JSON files of a folder, or of its folders train, val and test.

    Args:
        names: classes and their order, others are passed over; by default labels.txt, else all in alphabetical order.
        images: folder of the images; by default where each file says, or beside it.

    Raises:
        InputError: no annotations there, or one that is not labelme's.
    """
    files = {split: sorted(folder.glob("**/*.json")) for split, folder in split_folders(source).items()}
    contents = {file: read_object(file) for listed in files.values() for file in listed}
    if not contents:
        raise InputError(f"--source {source}: no labelme files (*.json) in it")
    found = {str(shape.get("label")) for file, content in contents.items() for shape in _shapes(content, file)}
    numbered = class_names(found, names, source)
    class_of = {name: number for number, name in numbered.items()}
    sets = {}
    for split, listed in files.items():
        if listed:
            pairs = [
                (_image(file, contents[file], images), labelme_rows(contents[file], class_of, file)) for file in listed
            ]
            sets[split] = verified(pairs, numbered, split)
    return sets


def _shapes(content: Mapping[str, Any], file: Path) -> list[dict[str, Any]]:
    shapes = content.get("shapes")
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise InputError(f"{file}: no list 'shapes'; expected labelme's annotations")
    return shapes


def _image(file: Path, content: Mapping[str, Any], images: Path | None) -> str:
    named = str(content.get("imagePath") or f"{file.stem}.jpg").replace("\\", "/")
    last = PureWindowsPath(named).name
    return find_image(images, last) if images else find_image(file.parent, named, last)


def labelme_rows(content: Mapping[str, Any], class_of: Mapping[str, int], file: Path) -> LabelRows:
    """Rows of one file, not yet checked; outlines of one label and `group_id` are parts of one object.

    Raises:
        InputError: it has no size, or a shape without its points.
    """
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
        raise InputError(f"{file}: imageHeight {height!r} and imageWidth {width!r} are no size; save it again")
    objects, passed = PixelObjects((height, width)), 0
    groups: dict[tuple[int, str], tuple[str, list[np.ndarray]]] = {}
    for number, shape in enumerate(_shapes(content, file)):
        place = f"{file}: shape {number}"
        if str(shape.get("label")) not in class_of:
            passed += 1
            continue
        label = class_of[str(shape["label"])]
        box, rings = _outline(shape, place)
        if not len(box) and not rings:
            passed += 1
        elif shape.get("group_id") is not None and rings:
            groups.setdefault((label, str(shape["group_id"])), (place, []))[1].extend(rings)
        else:
            objects.add(label, place, box_xyxy=box, rings=rings)
    for (label, _), (place, rings) in groups.items():
        objects.add(label, place, rings=rings)
    if passed:
        LOGGER.info(f"{file}: {passed} shapes of other kinds or classes passed over")
    return objects.labels()


def _outline(shape: Mapping[str, Any], place: str) -> tuple[Sequence[float], list[np.ndarray]]:
    """Box and rings of a shape; neither for points and lines."""
    kind = shape.get("shape_type") or "polygon"
    try:
        points = np.array(shape["points"], np.float64).reshape(-1, 2)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{place}: points {str(shape.get('points'))[:40]!r} are not a list of x, y") from error
    if kind in ("rectangle", "mask") and len(points) == 2:
        low, high = points.min(0), points.max(0)
        if kind == "rectangle":
            return [*low, *high], []
        mask = _decode_mask(shape.get("mask"), place)
        return [*low, *(low + mask.shape[::-1])], [ring + low for ring in bitmap_rings(mask)]
    if kind == "circle" and len(points) == 2:
        radius = float(np.hypot(*(points[1] - points[0])))
        angles = np.linspace(0, 2 * np.pi, CIRCLE_CORNERS, endpoint=False)
        ring = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return [*(points[0] - radius), *(points[0] + radius)], [ring]
    if kind in ("polygon", "rectangle", "oriented_rectangle") and len(points) >= 3:
        return (), [points]
    return (), []


def _decode_mask(text: Any, place: str) -> np.ndarray:
    try:
        data = np.frombuffer(base64.b64decode(str(text), validate=True), np.uint8)
        return (decode_image(data, place, channels=1)[..., 0] > 0).astype(np.uint8)
    except (binascii.Error, ImageError, ValueError) as error:
        raise InputError(f"{place}: its mask is not a PNG in base64 ({error})") from error


def write_labelme(sets: Splits, out: Path, placer: ImagePlacer) -> Path:
    """<split>/ with images and their JSON files. Parts of an object share a group_id, holes are joined to them."""
    for split, index in sets.items():
        for i, path, height, width in images_of(index):
            image = placer.place(path, out / split)
            shapes: list[dict[str, Any]] = []
            for number, thing in enumerate(pixel_objects(index, i)):
                shapes += labelme_shapes(thing, index.names[thing.label], number)
            size = {"imagePath": image.name, "imageData": None, "imageHeight": height, "imageWidth": width}
            content = {"version": VERSION, "flags": {}, "shapes": shapes} | size
            write_json(image.with_suffix(".json"), content)
    write_names(out, next(iter(sets.values())).names)
    return out


def labelme_shapes(thing: PixelObject, name: str, number: int) -> list[dict[str, Any]]:
    """One shape, or several of the group `number` for an object of several parts."""
    x1, y1, x2, y2 = thing.box_xyxy
    kind, outlines = "rectangle", [np.array([[x1, y1], [x2, y2]])]
    if thing.rings:
        parts, holes = parts_and_holes(thing.rings)
        kind, outlines = "polygon", [join_rings(thing.rings)] if holes else parts
    group = number if len(outlines) > 1 else None
    common: dict[str, Any] = {
        "label": name,
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
    }
    return [common | {"points": np.round(outline, 3).tolist()} for outline in outlines]
