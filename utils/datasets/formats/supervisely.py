"""Supervisely projects: meta.json and folders with img/ and ann/ (docs.supervisely.com, annotation format)."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
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
)
from utils.datasets.index.data_yaml import SPLITS
from utils.datasets.index.verify import LabelRows
from utils.imaging.draw import class_color_bgr
from utils.imaging.read import decode
from utils.ops.masks import rasterize, trace_rings

MAX_BITMAP = 1 << 26  # bytes of a decompressed bitmap, so that a small file cannot fill the memory


def read_supervisely(source: Path, names: Sequence[str], images: Path | None) -> Splits:
    """Read the data sets train, val and test of a project as splits, or a single data set of any name.

    Args:
        names: classes and their order, others are skipped; by default those of meta.json.
        images: not supported, images are in img/ beside ann/.

    Raises:
        InputError: not a project, data sets with other names, or an invalid annotation.
    """
    if images:
        raise InputError("--images: a Supervisely project has its images in img/ beside ann/; remove the flag")
    meta = source / "meta.json"
    try:
        titles = [str(item["title"]) for item in read_json(meta)["classes"]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{meta}: no list 'classes' of objects with a title ({error!r})") from error
    class_names = resolve_class_names([], names or titles, source)
    class_ids = {name: number for number, name in class_names.items()}
    sets = {}
    for split, folder in _find_split_folders(source).items():
        files = sorted((folder / "ann").glob("*.json"))
        pairs = ((find_image(folder / "img", f.stem), parse_supervisely(read_json(f), class_ids, f)) for f in files)
        sets[split] = build_index(pairs, class_names, split)
    return sets


def _find_split_folders(source: Path) -> dict[str, Path]:
    folders = sorted(path.parent for path in source.rglob("ann") if path.is_dir())
    if len(folders) == 1:
        return {folders[0].name if folders[0].name in SPLITS else "train": folders[0]}
    data_sets = {folder.name: folder for folder in folders}
    if unknown := [name for name in data_sets if name not in SPLITS]:
        raise InputError(f"{source}: the data sets {', '.join(unknown)} are not named {', '.join(SPLITS)}; rename them")
    if not data_sets:
        raise InputError(f"{source}: no data set (a folder with ann/ and img/) in it")
    return {split: data_sets[split] for split in SPLITS if split in data_sets}


def parse_supervisely(content: Mapping[str, Any], class_ids: Mapping[str, int], file: Path) -> LabelRows:
    """Unchecked rows of one annotation: rectangles, polygons with holes, and bitmaps.

    Raises:
        InputError: unexpected content.
    """
    try:
        objects = PixelObjects((int(content["size"]["height"]), int(content["size"]["width"])))
        for number, item in enumerate(content["objects"]):
            label = class_ids.get(str(item["classTitle"]))
            if label is None or item.get("geometryType") not in ("rectangle", "polygon", "bitmap"):
                objects.skipped += 1
                continue
            _add_object(objects, label, item, f"{file}: object {number}")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, zlib.error) as error:
        raise InputError(f"{file}: not a Supervisely annotation ({error!r})") from error
    return objects.to_rows(file)


def _add_object(objects: PixelObjects, label: int, item: Mapping[str, Any], place: str) -> None:
    if item["geometryType"] == "bitmap":
        mask = decode_bitmap(item["bitmap"]["data"])
        (left_top,) = parse_points(item["bitmap"]["origin"])
        left, top, width, height = cv2.boundingRect(mask)
        low = left_top + np.array([left, top])
        rings = [ring + left_top for ring in trace_rings(mask)]
        objects.add(label, place, box_xyxy=[*low, *(low + np.array([width, height]))], rings=rings)
        return
    exterior = parse_points(item["points"]["exterior"])
    if item["geometryType"] == "rectangle":
        objects.add(label, place, box_xyxy=[*exterior.min(0), *exterior.max(0)])
        return
    holes = [parse_points(ring) for ring in item["points"].get("interior") or []]
    objects.add(label, place, rings=[exterior, *(_orient_hole(exterior, hole) for hole in holes)])


def _orient_hole(part: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The hole with the orientation opposite to its part."""
    return hole if separate_holes([part, hole])[1] else hole[::-1]


def decode_bitmap(text: str) -> np.ndarray:
    """Decode a base64-encoded, zlib-compressed PNG to (H, W) uint8, 1 for the object; ValueError for anything else."""
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(base64.b64decode(text, validate=True), MAX_BITMAP)
    frame, _ = decode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED, "bitmap")
    channels = frame.reshape(*frame.shape[:2], -1)
    return (channels[..., 3 if channels.shape[2] == 4 else 0] > 0).astype(np.uint8)  # alpha channel


def encode_bitmap(mask: np.ndarray) -> str:
    """Encode a bitmap (H, W) bool as a base64-encoded, zlib-compressed PNG."""
    png = cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()
    return base64.b64encode(zlib.compress(png)).decode("ascii")


def write_supervisely(sets: Splits, out: Path, copier: ImageCopier) -> Path:
    """Write meta.json, <split>/img and <split>/ann. Objects of several parts become bitmaps."""
    for split, index in sets.items():
        for image, (height, width), items in copier.copy_images(index, out / split / "img"):
            objects = [to_supervisely_object(item, index.names[item.label], (height, width)) for item in items]
            size = {"height": height, "width": width}
            content = {"description": "", "tags": [], "size": size, "objects": objects}
            write_json(out / split / "ann" / f"{image.name}.json", content)
    names = next(iter(sets.values())).names
    classes = [{"title": name, "shape": "any", "color": _get_hex_color(number)} for number, name in names.items()]
    write_json(out / "meta.json", {"classes": classes, "tags": [], "projectType": "images"})
    return out


def to_supervisely_object(item: PixelObject, name: str, size_hw: tuple[int, int]) -> dict[str, Any]:
    """A rectangle, a polygon with its holes, or a bitmap."""
    common = {"description": "", "tags": [], "classTitle": name}
    x1, y1, x2, y2 = (round(v, 3) for v in item.box_xyxy)
    parts, holes = separate_holes(item.rings) if item.rings else ([], [])
    if len(parts) > 1:
        masks = rasterize([item.rings], size_hw)
        left, top = (int(v) for v in masks.windows_xyxy[0, :2])
        bitmap = {"origin": [left, top], "data": encode_bitmap(masks.bitmaps[0])}
        return common | {"geometryType": "bitmap", "bitmap": bitmap}
    if parts:
        exterior, *interior = (np.round(ring, 3).tolist() for ring in (*parts, *holes))
        points = {"exterior": exterior, "interior": interior}
        return common | {"geometryType": "polygon", "points": points}
    return common | {"geometryType": "rectangle", "points": {"exterior": [[x1, y1], [x2, y2]], "interior": []}}


def _get_hex_color(number: int) -> str:
    blue, green, red = class_color_bgr(number)
    return f"#{red:02X}{green:02X}{blue:02X}"
