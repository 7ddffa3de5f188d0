"""Supervisely projects: meta.json and folders with img/ and ann/ (docs.supervisely.com, annotation format)."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
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
    verified,
    write_json,
)
from utils.datasets.index.data_yaml import SPLITS
from utils.datasets.index.verify import LabelRows
from utils.imaging.draw import palette
from utils.imaging.read import ImageError, decode
from utils.ops.masks import bitmap_rings, rasterize

MAX_BITMAP = 1 << 26  # bytes of a compressed bitmap once unpacked, lest a small file fill the memory
ANNOTATION = "expected objects with classTitle and geometryType"


def read_supervisely(source: Path, names: Sequence[str], images: Path | None) -> Splits:
    """The data sets of a project as splits: those called train, val and test, or a single one of any name.

    Args:
        names: classes and their order, others are passed over; by default those of meta.json.
        images: does not apply, images lie in img/ beside ann/.

    Raises:
        InputError: no project there, data sets of other names, or an annotation of another form.
    """
    if images:
        raise InputError("--images: a Supervisely project has its images in img/ beside ann/; leave it out")
    meta = read_object(source / "meta.json")
    titles = [item.get("title") for item in meta.get("classes") or [] if isinstance(item, dict)]
    numbered = class_names([], names or [str(title) for title in titles if title], source)
    class_of = {name: number for number, name in numbered.items()}
    sets = {}
    for split, folder in _data_sets(source).items():
        pairs = []
        for file in sorted((folder / "ann").glob("*.json")):
            content = read_object(file)
            pairs.append((find_image(folder / "img", file.stem), supervisely_rows(content, class_of, file)))
        sets[split] = verified(pairs, numbered, split)
    return sets


def _data_sets(source: Path) -> dict[str, Path]:
    folders = sorted(place.parent for place in source.rglob("ann") if place.is_dir())
    if len(folders) == 1:
        return {folders[0].name if folders[0].name in SPLITS else "train": folders[0]}
    found = {folder.name: folder for folder in folders}
    if strange := [name for name in found if name not in SPLITS]:
        raise InputError(
            f"{source}: the data sets {', '.join(strange)} are not called {', '.join(SPLITS)}; rename them"
        )
    if not found:
        raise InputError(f"{source}: no data set (a folder with ann/ and img/) in it")
    return {split: found[split] for split in SPLITS if split in found}


def supervisely_rows(content: Mapping[str, Any], class_of: Mapping[str, int], file: Path) -> LabelRows:
    """Rows of one annotation, not yet checked: rectangles, polygons with their holes and bitmaps.

    Raises:
        InputError: it is not of that form.
    """
    try:
        objects = PixelObjects((int(content["size"]["height"]), int(content["size"]["width"])))
        if min(objects.size_hw) <= 0:
            raise ValueError("an image without a size")
        passed = 0
        for number, thing in enumerate(content["objects"]):
            label = class_of.get(str(thing["classTitle"]))
            if label is None or thing.get("geometryType") not in ("rectangle", "polygon", "bitmap"):
                passed += 1
                continue
            _add_object(objects, label, thing, f"{file}: object {number}")
    except (KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
        raise InputError(f"{file}: not a Supervisely annotation ({error!r}); {ANNOTATION}") from error
    if passed:
        LOGGER.info(f"{file}: {passed} objects of other kinds or classes passed over")
    return objects.labels()


def _add_object(objects: PixelObjects, label: int, thing: Mapping[str, Any], place: str) -> None:
    if thing["geometryType"] == "bitmap":
        mask = decode_bitmap(thing["bitmap"]["data"])
        left_top = np.array(thing["bitmap"]["origin"], np.float64)
        left, top, width, height = cv2.boundingRect(mask)
        low = left_top + np.array([left, top])
        rings = [ring + left_top for ring in bitmap_rings(mask)]
        objects.add(label, place, box_xyxy=[*low, *(low + np.array([width, height]))], rings=rings)
        return
    exterior = np.array(thing["points"]["exterior"], np.float64).reshape(-1, 2)
    if thing["geometryType"] == "rectangle":
        objects.add(label, place, box_xyxy=[*exterior.min(0), *exterior.max(0)])
        return
    holes = [np.array(ring, np.float64).reshape(-1, 2) for ring in thing["points"].get("interior") or []]
    parts, _ = parts_and_holes([exterior])
    objects.add(label, place, rings=[*parts, *(_against(parts[0], hole) for hole in holes)])


def _against(part: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """A hole, running the other way than its part."""
    return hole if parts_and_holes([part, hole])[1] else hole[::-1]


def decode_bitmap(text: str) -> np.ndarray:
    """(H, W) uint8, 1 where the object is: a PNG, compressed once more, in base64. ValueError for anything else."""
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(base64.b64decode(text, validate=True), MAX_BITMAP)
    try:
        frame, _ = decode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED, "bitmap")
    except ImageError as error:
        raise ValueError("its bitmap is not a PNG") from error
    channels = frame.reshape(*frame.shape[:2], -1)
    return (channels[..., 3 if channels.shape[2] == 4 else 0] > 0).astype(np.uint8)  # the alpha channel tells


def encode_bitmap(mask: np.ndarray) -> str:
    """The text of a bitmap (H, W) bool."""
    png = cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()
    return base64.b64encode(zlib.compress(png)).decode("ascii")


def write_supervisely(sets: Splits, out: Path, placer: ImagePlacer) -> Path:
    """Write meta.json and <split>/img and <split>/ann. Objects of several parts become bitmaps."""
    for split, index in sets.items():
        for i, path, height, width in images_of(index):
            image = placer.place(path, out / split / "img")
            things = pixel_objects(index, i)
            objects = [supervisely_object(thing, index.names[thing.label], (height, width)) for thing in things]
            size = {"height": height, "width": width}
            content = {"description": "", "tags": [], "size": size, "objects": objects}
            write_json(out / split / "ann" / f"{image.name}.json", content)
    names = next(iter(sets.values())).names
    classes = [{"title": name, "shape": "any", "color": _hex(number)} for number, name in names.items()]
    write_json(out / "meta.json", {"classes": classes, "tags": [], "projectType": "images"})
    return out


def supervisely_object(thing: PixelObject, name: str, size_hw: tuple[int, int]) -> dict[str, Any]:
    """A rectangle, a polygon with its holes, or a bitmap."""
    common = {"description": "", "tags": [], "classTitle": name}
    x1, y1, x2, y2 = (round(v, 3) for v in thing.box_xyxy)
    parts, holes = parts_and_holes(thing.rings) if thing.rings else ([], [])
    if len(parts) > 1:
        masks = rasterize([thing.rings], size_hw)
        left, top = (int(v) for v in masks.windows_xyxy[0, :2])
        bitmap = {"origin": [left, top], "data": encode_bitmap(masks.bitmaps[0])}
        return common | {"geometryType": "bitmap", "bitmap": bitmap}
    if parts:
        points = {
            "exterior": np.round(parts[0], 3).tolist(),
            "interior": [np.round(hole, 3).tolist() for hole in holes],
        }
        return common | {"geometryType": "polygon", "points": points}
    return common | {"geometryType": "rectangle", "points": {"exterior": [[x1, y1], [x2, y2]], "interior": []}}


def _hex(number: int) -> str:
    blue, green, red = palette(number)
    return f"#{red:02X}{green:02X}{blue:02X}"
