"""Annotations with odd content end in one line that names the file, or lose the object with a message."""

from __future__ import annotations

import base64
import json
import os
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from utils.core.errors import InputError
from utils.datasets.formats.base import ImageCopier, Splits, find_image, parse_points
from utils.datasets.formats.cityscapes import read_cityscapes
from utils.datasets.formats.coco import read_coco
from utils.datasets.formats.labelme import read_labelme
from utils.datasets.formats.registry import FORMATS
from utils.datasets.formats.supervisely import encode_bitmap, read_supervisely
from utils.datasets.formats.voc import read_voc

HUGE = 10**400
ODD_VALUES = (
    *(None, True, 0, -1, 5, 10**9, HUGE, 0.5, float("nan"), float("inf"), -1e308, "", "x", "\ud800", "a\nb", "a\0b"),
    *("x" * 9999, "../../../x", [], {}, [[]], [1, 2], [[1, 2]] * 3, [[HUGE, 1]] * 3, [float("nan")] * 4, {"a": 1}),
)
RING = [[10, 5], [40, 5], [40, 35], [10, 35]]
LABELME = {
    "imagePath": "a.png",
    "imageHeight": 50,
    "imageWidth": 100,
    "shapes": [
        {"label": "cat", "points": RING, "shape_type": "polygon", "group_id": 1},
        {"label": "cat", "points": RING[:2], "shape_type": "circle", "group_id": None},
        {"label": "cat", "points": RING[:2], "shape_type": "mask", "mask": "iVBORw0KGgo="},
    ],
}
SUPERVISELY = {
    "size": {"height": 50, "width": 100},
    "objects": [
        {"classTitle": "cat", "geometryType": "polygon", "points": {"exterior": RING, "interior": [RING[:3]]}},
        {"classTitle": "cat", "geometryType": "rectangle", "points": {"exterior": RING[::2], "interior": []}},
        {
            "classTitle": "cat",
            "geometryType": "bitmap",
            "bitmap": {"data": encode_bitmap(np.eye(6, dtype=bool)), "origin": [2, 3]},
        },
    ],
}
CITYSCAPES = {"imgHeight": 50, "imgWidth": 100, "objects": [{"label": "car", "deleted": 0, "polygon": RING}]}
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 50}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 2,
            "bbox": [1, 2, 3, 4],
            "iscrowd": 0,
            "segmentation": [[1, 2, 9, 2, 9, 9]],
        }
    ],
    "categories": [{"id": 2, "name": "cat"}],
}
PLACES: dict[Callable[..., Splits], tuple[str, str, Any]] = {  # annotation file, image, content
    read_labelme: ("a.json", "a.png", LABELME),
    read_supervisely: ("ds/ann/a.png.json", "ds/img/a.png", SUPERVISELY),
    read_cityscapes: (*("gtFine/train/x/x_gtFine_polygons.json", "leftImg8bit/train/x/x_leftImg8bit.png", CITYSCAPES),),
    read_coco: ("instances.json", "a.png", COCO),
}


def put(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def encode_png(height: int = 50, width: int = 100) -> bytes:
    return cv2.imencode(".png", np.zeros((height, width, 3), np.uint8))[1].tobytes()


def iter_changes(tree: Any) -> Iterator[Any]:
    """Copies of a tree with each value replaced by each odd one, and each key removed."""
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            for value in (*ODD_VALUES, *iter_changes(tree[key])):
                changed = deepcopy(tree)
                changed[key] = value
                yield changed
            if isinstance(tree, dict):
                yield {name: value for name, value in tree.items() if name != key}


@pytest.mark.parametrize("read", PLACES)
def test_every_value_may_be_odd(read: Callable[..., Splits], tmp_path: Path) -> None:
    annotation, image, content = PLACES[read]
    put(tmp_path / image, encode_png())
    put(tmp_path / "meta.json", b'{"classes": [{"title": "cat"}]}') if read is read_supervisely else None
    refused = 0
    for changed in (*ODD_VALUES, *iter_changes(content)):
        put(tmp_path / annotation, json.dumps(changed).encode())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                read(tmp_path, [], None)
            except InputError as error:
                refused += 1
                assert len(str(error)) < 900 and str(error).isprintable()
    assert refused > 100


@pytest.mark.parametrize("meta", ["[]", "5", '{"classes": 5}', '{"classes": [5]}', '{"classes": [{"title": "a\\nb"}]}'])
def test_odd_supervisely_projects(meta: str, tmp_path: Path) -> None:
    put(tmp_path / "meta.json", meta.encode())
    with pytest.raises(InputError, match=r"meta\.json: no list 'classes'|has control characters"):
        read_supervisely(tmp_path, [], None)


@pytest.mark.parametrize("read", [read_labelme, read_supervisely])
def test_a_giant_mask_is_not_decoded(read: Callable[..., Splits], tmp_path: Path) -> None:
    """A PNG of 16 kB with 32,000 x 32,000 pixels, of which only the header is right."""
    png = bytearray(encode_png(8, 8))
    png[16:24] = (32_000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    annotation, image, content = PLACES[read]
    changed = deepcopy(content)
    if read is read_labelme:
        changed["shapes"][2]["mask"] = base64.b64encode(png).decode()
    else:
        changed["objects"][2]["bitmap"]["data"] = base64.b64encode(zlib.compress(png)).decode()
    put(tmp_path / image, encode_png())
    put(tmp_path / "meta.json", b'{"classes": [{"title": "cat"}]}') if read is read_supervisely else None
    put(tmp_path / annotation, json.dumps(changed).encode())
    with pytest.raises(InputError, match=r"1,024,000,000 pixels, the limit is 268,435,456"):
        read(tmp_path, [], None)


XML = (
    "<annotation><filename>{filename}</filename><size><width>{width}</width><height>50</height></size>"
    "<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{xmin}</xmin><ymin>3</ymin><xmax>12</xmax>"
    "<ymax>11</ymax></bndbox></object></annotation>"
)


@pytest.mark.parametrize("key", ["filename", "width", "name", "xmin"])
def test_odd_values_in_voc_annotations(key: str, tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", encode_png())
    plain = {"filename": "a.jpg", "width": "100", "name": "cat", "xmin": "2"}
    for value in ("", "nan", "inf", "-3", "0.5", "1e300", "9" * 5000, "x" * 5000, "&#x85;", "../x", "<x/>"):
        put(tmp_path / "a.xml", XML.format(**plain | {key: value}).encode())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with suppress(InputError):
                read_voc(tmp_path, [], None)


@pytest.mark.parametrize("name", ["caf\udce9.jpg", "two\nlines.jpg"])
def test_images_are_copied_under_names_that_can_be_written(name: str, tmp_path: Path) -> None:
    put(tmp_path / "source" / name, encode_png())
    (tmp_path / "source" / name).with_suffix(".xml").write_text(
        XML.format(filename="", width=100, name="cat", xmin=2), encoding="utf-8"
    )
    sets = read_voc(tmp_path / "source", [], None)
    for target in FORMATS.values():
        if target.write is not None:
            with pytest.raises(InputError, match=r"the name is not UTF-8 or has control characters; rename the file"):
                target.write(sets, tmp_path / str(id(target)), ImageCopier(link=False))


def test_lists_of_classes(tmp_path: Path) -> None:
    put(tmp_path / "a.xml", XML.format(filename="a.jpg", width=100, name="cat", xmin=2).encode())
    for content, message in (
        (b"cat\ncaf\xe9\n", r"labels\.txt:2: byte 0xe9 is not UTF-8"),
        (b"cat\nr\x1b[31med\n", r"the class 'r\\x1b\[31med' has control characters; choose others with --names"),
        (bytes(1 << 25), r"labels\.txt: 33,554,432 bytes, the limit is"),
    ):
        put(tmp_path / "labels.txt", content)
        with pytest.raises(InputError, match=message):
            read_voc(tmp_path, [], None)


@pytest.mark.parametrize("name", ["ImageSets/Main/train.txt", "labels.txt", "a.json", "a.xml"])
def test_a_pipe_among_the_annotations_does_not_block(name: str, tmp_path: Path) -> None:
    put(tmp_path / "b.xml", XML.format(filename="b.jpg", width=100, name="cat", xmin=2).encode())
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / name)

    def read() -> None:
        with suppress(InputError):
            (read_labelme if name == "a.json" else read_voc)(tmp_path, [], None)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_names_of_images(tmp_path: Path) -> None:
    assert find_image(tmp_path, "x" * 300) == str(tmp_path / ("x" * 300))
    for name in ("", "a\0b", "x" * 5000, "\ud800"):
        with pytest.raises(InputError, match=r"cannot be the name of an image; correct the annotation"):
            find_image(tmp_path, name)


@pytest.mark.parametrize(
    "values", [None, "x", 5, [1], [[1, 2], [3]], {"a": 1}, [[float("nan"), 1]], [[HUGE, 1]], [[1e10, 0]]]
)
def test_points_are_finite_pairs(values: Any) -> None:
    with pytest.raises(ValueError, match=r"is not a list of x, y|has a coordinate beyond 1e\+09"):
        parse_points(values)
    assert parse_points([]).shape == (0, 2)
