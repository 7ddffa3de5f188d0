"""Annotation formats: reading files as written by the original programs, and round trips."""

from __future__ import annotations

import base64
import json
import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from loopback import IMAGE, put

from utils.config.datasets import READABLE, WRITABLE, ConvertConfig
from utils.core.errors import InputError
from utils.datasets.formats.base import PixelObject, Splits
from utils.datasets.formats.cityscapes import CLASSES, parse_cityscapes, read_cityscapes
from utils.datasets.formats.coco import read_coco, to_coco_shape
from utils.datasets.formats.labelme import read_labelme, to_labelme_shapes
from utils.datasets.formats.registry import FORMATS
from utils.datasets.formats.supervisely import decode_bitmap, encode_bitmap, read_supervisely, to_supervisely_object
from utils.datasets.formats.voc import read_voc, to_voc_box
from utils.datasets.index.data_yaml import load_spec
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.labels import load_index
from utils.datasets.tools.convert import run
from utils.ops.masks import rasterize, signed_area
from utils.ops.polygons import join_rings

SIZE_HW = (50, 100)
SQUARE = np.array([[10, 5], [40, 5], [40, 35], [10, 35]], np.float64)
HOLE = np.array([[20, 15], [20, 25], [30, 25], [30, 15]], np.float64)  # opposite orientation
SECOND = SQUARE + np.array([50, 10])


def convert(*flags: object) -> Splits:
    return run(ConvertConfig.from_args([str(flag) for flag in flags]))


def get_corners(index: ImageIndex, i: int = 0) -> np.ndarray:
    """(n, 4) x1, y1, x2, y2 in pixels of image i."""
    boxes, size_wh = index.labels(i)[1].astype(np.float64), index.sizes_hw[i][::-1]
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1) * np.tile(size_wh, 2)


@pytest.fixture
def polygon_data(tmp_path: Path) -> Path:
    """A data YAML with train, val and test: polygons, a plain box, an empty image, equal names in two folders."""
    root = tmp_path / "outlined set"
    polygon = "1 0.1 0.1 0.4 0.1 0.4 0.7 0.25 0.9\n"
    labels = {"train/a": f"{polygon}0 0.5 0.5 0.2 0.4\n", "train/more/a": "0 0.3 0.3 0.2 0.2\n", "val/ü b": polygon}
    for name, text in (labels | {"train/empty": "", "test/c": polygon}).items():
        put(root / "images" / f"{name}.jpg", IMAGE)
        put(root / "labels" / f"{name}.txt", text.encode())
    lines = [f"{split}: images/{split}" for split in ("train", "val", "test")]
    (root / "set.yaml").write_text("\n".join([*lines, "names: [zebra, ant]"]))
    return root / "set.yaml"


# -- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITABLE)
def test_round_trip(polygon_data: Path, tmp_path: Path, name: str) -> None:
    written = convert("--source", polygon_data, "--to", name, "--out", tmp_path / "converted")
    source = tmp_path / "converted" / "data.yaml" if name == "yolo" else tmp_path / "converted"
    convert("--from", name, "--source", source, "--out", tmp_path / "back")
    spec, origin = load_spec(tmp_path / "back" / "data.yaml"), load_spec(polygon_data)
    assert spec.names == origin.names == {0: "zebra", 1: "ant"}
    tolerance = 0.51 if name == "voc" else 0.01  # pixels; VOC rounds to integers
    for split in ("train", "val", "test"):
        before, after = load_index(origin, split), load_index(spec, split, require_labels=False)
        assert len(before) == len(after) == len(written[split])
        assert sorted(before.classes) == sorted(after.classes)
        by_content = {_get_content(after, k): k for k in range(len(after))}
        for i in range(len(before)):
            k = by_content[_get_content(before, i)]
            assert np.abs(get_corners(before, i) - get_corners(after, k)).max(initial=0) < tolerance
        assert (after.polygons is not None) == FORMATS[name].polygons
    assert sorted(p.stem for p in (tmp_path / "back" / "images" / "train").iterdir()) == ["a", "a_2", "empty"]


def _get_content(index: ImageIndex, i: int) -> int:
    """Number of objects, which identifies an image under any name."""
    return len(index.labels(i)[0])


@pytest.mark.parametrize("name", ["yolo", "coco", "labelme", "supervisely"])
def test_polygons_survive(polygon_data: Path, tmp_path: Path, name: str) -> None:
    convert("--source", polygon_data, "--to", name, "--out", tmp_path / "converted")
    source = tmp_path / "converted" / "data.yaml" if name == "yolo" else tmp_path / "converted"
    polygons = FORMATS[name].read(source, [], None)["val"].polygons
    assert polygons is not None
    expected = [[0.1, 0.1], [0.4, 0.1], [0.4, 0.7], [0.25, 0.9]]
    assert np.abs(polygons.rings(0)[0] - expected).max() < 1e-5


def test_formats_match_the_flags() -> None:
    assert tuple(FORMATS) == READABLE
    assert tuple(name for name, entry in FORMATS.items() if entry.write) == WRITABLE


def test_boxes_only_and_links(polygon_data: Path, tmp_path: Path) -> None:
    convert("--source", polygon_data, "--boxes", "--link", "--out", tmp_path / "boxes")
    label = (tmp_path / "boxes" / "labels" / "val" / "ü b.txt").read_text()
    assert label == "1 0.250000 0.500000 0.300000 0.800000\n"
    assert (tmp_path / "boxes" / "images" / "val" / "ü b.jpg").stat().st_nlink == 2
    assert (tmp_path / "boxes").stat().st_mode & 0o777 == 0o755


def test_missing_split_is_skipped(polygon_data: Path, tmp_path: Path) -> None:
    text = polygon_data.read_text().replace("test: images/test", "test: images/nowhere")
    polygon_data.write_text(text)
    assert sorted(convert("--source", polygon_data, "--out", tmp_path / "out")) == ["train", "val"]


def test_written_coco_set_can_be_trained(polygon_data: Path, tmp_path: Path) -> None:
    convert("--source", polygon_data, "--to", "coco", "--out", tmp_path / "coco")
    index = load_index(load_spec(tmp_path / "coco" / "data.yaml"), "train")
    assert index.num_objects == 3
    content = json.loads((tmp_path / "coco" / "annotations" / "instances_train.json").read_text())
    assert [c["id"] for c in content["categories"]] == [1, 2]
    assert all(a["segmentation"] == [] for a in content["annotations"] if a["category_id"] == 1)


def test_set_without_val(tmp_path: Path) -> None:
    labelme_file(tmp_path / "flat" / "a.json", [shape("cat", "rectangle", [[10, 5], [30, 15]])])
    convert("--from", "labelme", "--source", tmp_path / "flat", "--out", tmp_path / "out")
    assert "no val split" in (tmp_path / "out" / "data.yaml").read_text()
    spec = load_spec(tmp_path / "out" / "data.yaml")
    assert spec.splits["val"].paths == spec.splits["train"].paths


def test_failed_conversion_leaves_no_files(polygon_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="remove them with --from yolo"):
        convert("--source", polygon_data, "--names", "cat", "--out", tmp_path / "x" / "out")
    assert not list((tmp_path / "x").iterdir())
    put(tmp_path / "full" / "precious.txt", b"1")
    with pytest.raises(InputError, match=r"--out .*full: is not empty; give a new folder"):
        convert("--source", polygon_data, "--out", tmp_path / "full")


# -- VOC --------------------------------------------------------------------------------------------------------------


def voc_xml(filename: str, *objects: tuple[str, str, int]) -> bytes:
    items = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        + "".join(f"<{tag}>{v}</{tag}>" for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=True))
        + "</bndbox></object>"
        for name, box, difficult in objects
    )
    size = "<size><width>100</width><height>50</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{size}{items}</annotation>".encode()


def test_voc_annotations_beside_the_images(tmp_path: Path) -> None:
    put(tmp_path / "b.xml", voc_xml("b.png", ("dog", "11 6 30 15", 0), ("cat", "1 1 100 50", 0), ("cat", "1 1 9 9", 1)))
    put(tmp_path / "b.png", IMAGE)
    sets = read_voc(tmp_path, [], None)
    assert sets["train"].names == {0: "cat", 1: "dog"}
    assert sets["train"].classes.tolist() == [1, 0]
    assert get_corners(sets["train"]).tolist() == [pytest.approx([10, 5, 30, 15]), pytest.approx([0, 0, 100, 50])]
    assert read_voc(tmp_path, ["dog"], None)["train"].classes.tolist() == [0]


def test_voc_boxes_are_integer_pixels_from_1() -> None:
    assert to_voc_box((10.2, 5.4, 29.6, 15)) == {"xmin": 11, "ymin": 6, "xmax": 30, "ymax": 15}
    assert to_voc_box((10.1, 5.1, 10.2, 5.2)) == {"xmin": 11, "ymin": 6, "xmax": 11, "ymax": 6}


def test_voc_list_with_a_missing_annotation(tmp_path: Path) -> None:
    put(tmp_path / "Annotations" / "a.xml", voc_xml("a.jpg", ("dog", "1 1 9 9", 0)))
    put(tmp_path / "ImageSets" / "Main" / "train.txt", b"a\nb\n")
    with pytest.raises(InputError, match=r"b: listed in ImageSets/Main, but the annotation b\.xml is missing"):
        read_voc(tmp_path, [], None)


# -- labelme ----------------------------------------------------------------------------------------------------------


def shape(label: str, kind: str, points: Any, **more: Any) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": points, "group_id": None, "flags": {}} | more


def labelme_file(file: Path, shapes: list[dict[str, Any]], **more: Any) -> Path:
    put(file.with_suffix(".jpg"), IMAGE)
    content = {"version": "5.4.1", "imagePath": f"{file.stem}.jpg", "imageData": None, "imageHeight": 50} | more
    return put(file, json.dumps({"imageWidth": 100, "shapes": shapes} | content).encode())


def test_labelme_shapes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[2:8, 3:18] = 255
    png = base64.b64encode(cv2.imencode(".png", mask)[1].tobytes()).decode()
    shapes = [
        shape("cat", "rectangle", [[30, 15], [10, 5]]),
        shape("cat", "polygon", SQUARE.tolist()),
        shape("dog", "circle", [[50, 25], [53, 29]]),
        shape("dog", "mask", [[40, 10], [60, 20]], mask=png),
        shape("dog", "polygon", SQUARE.tolist(), group_id=7),
        shape("dog", "polygon", SECOND.tolist(), group_id=7),
        shape("dog", "point", [[1, 1]]),
        shape("dog", "line", [[1, 1], [5, 5]]),
    ]
    labelme_file(tmp_path / "train" / "a.json", shapes, imagePath="..\\train\\a.jpg")
    with caplog.at_level(logging.INFO):
        index = read_labelme(tmp_path, [], None)["train"]
    assert index.classes.tolist() == [0, 0, 1, 1, 1]
    expected = [[10, 5, 30, 15], [10, 5, 40, 35], [45, 20, 55, 30], [40, 10, 60, 20], [10, 5, 90, 45]]
    assert np.abs(get_corners(index) - expected).max() < 1e-3
    assert index.polygons is not None
    assert [len(index.polygons.rings(k)) for k in range(5)] == [1, 1, 1, 1, 2]
    ring = index.polygons.rings(3)[0] * (100, 50)
    assert np.concatenate([ring.min(0), ring.max(0)]).tolist() == pytest.approx([43.5, 12.5, 57.5, 17.5])
    assert "2 objects of other kinds or classes skipped" in caplog.text


def test_labelme_parts_and_holes() -> None:
    item = PixelObject(0, (10, 5, 90, 45), [SQUARE, SECOND])
    shapes = to_labelme_shapes(item, "cat", 3)
    assert [s["group_id"] for s in shapes] == [3, 3]
    (holed,) = to_labelme_shapes(PixelObject(0, (10, 5, 40, 35), [SQUARE, HOLE]), "cat", 3)
    assert holed["group_id"] is None
    one = rasterize([[np.array(holed["points"])]], SIZE_HW).dense()[0]
    two = rasterize([[SQUARE, HOLE]], SIZE_HW).dense()[0]
    assert np.count_nonzero(one ^ two) <= 60  # the connecting line and the inner border


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"a\.json:1: not valid JSON"),
        ("[]", "no list 'shapes'"),
        ('{"shapes": 5}', "no list 'shapes'"),
        ('{"shapes": [{"label": "a"}]}', "invalid imageHeight None or imageWidth None"),
        (
            '{"shapes": [{"label": "a", "points": "x"}], "imageHeight": 9, "imageWidth": 9}',
            "shape 0: points: 'x' is not a list of x, y",
        ),
        (
            '{"shapes": [{"label": "a", "shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": "?"}],'
            '"imageHeight": 9, "imageWidth": 9}',
            "shape 0: the mask is not a base64-encoded PNG",
        ),
    ],
)
def test_invalid_labelme_files(tmp_path: Path, content: str, message: str) -> None:
    put(tmp_path / "a.json", content.encode())
    with pytest.raises(InputError, match=message):
        read_labelme(tmp_path, [], None)


# -- Supervisely ------------------------------------------------------------------------------------------------------


def supervisely_project(root: Path, objects: list[dict[str, Any]], sets: tuple[str, ...] = ("ds0",)) -> Path:
    put(root / "meta.json", json.dumps({"classes": [{"title": "cat"}, {"title": "ant"}], "tags": []}).encode())
    for name in sets:
        put(root / name / "img" / "a.jpg", IMAGE)
        content = {"description": "", "tags": [], "size": {"height": 50, "width": 100}, "objects": objects}
        put(root / name / "ann" / "a.jpg.json", json.dumps(content).encode())
    return root


def points(exterior: Any, interior: Any = ()) -> dict[str, Any]:
    return {"points": {"exterior": np.array(exterior).tolist(), "interior": [np.array(i).tolist() for i in interior]}}


def test_supervisely_objects(tmp_path: Path) -> None:
    rgba = np.zeros((10, 20, 4), np.uint8)
    rgba[2:8, 3:18] = 255
    png = base64.b64encode(zlib.compress(cv2.imencode(".png", rgba)[1].tobytes())).decode()
    objects = [
        {"classTitle": "ant", "geometryType": "rectangle", **points([[30, 15], [10, 5]])},
        {"classTitle": "cat", "geometryType": "polygon", **points(SQUARE, [HOLE[::-1]])},
        {"classTitle": "cat", "geometryType": "bitmap", "bitmap": {"data": png, "origin": [40, 10]}},
        {"classTitle": "cat", "geometryType": "point", **points([[1, 1]])},
    ]
    index = read_supervisely(supervisely_project(tmp_path, objects), [], None)["train"]
    assert index.names == {0: "cat", 1: "ant"}
    assert index.classes.tolist() == [1, 0, 0]
    assert np.abs(get_corners(index) - [[10, 5, 30, 15], [10, 5, 40, 35], [43, 12, 58, 18]]).max() < 1e-3
    assert index.polygons is not None
    holed = [ring * (100, 50) for ring in index.polygons.rings(1)]
    assert [round(signed_area(ring)) for ring in holed] == [900, -100]


def test_supervisely_parts_and_holes() -> None:
    holed = to_supervisely_object(PixelObject(0, (10, 5, 40, 35), [SQUARE, HOLE]), "cat", SIZE_HW)
    assert holed["geometryType"] == "polygon"
    assert len(holed["points"]["interior"]) == 1
    parts = to_supervisely_object(PixelObject(0, (10, 5, 90, 45), [SQUARE, SECOND]), "cat", SIZE_HW)
    mask = np.zeros(SIZE_HW, np.uint8)
    (left, top), bitmap = parts["bitmap"]["origin"], decode_bitmap(parts["bitmap"]["data"])
    mask[top : top + bitmap.shape[0], left : left + bitmap.shape[1]] = bitmap
    assert np.array_equal(mask, rasterize([[SQUARE, SECOND]], SIZE_HW).dense()[0])
    assert np.array_equal(decode_bitmap(encode_bitmap(bitmap > 0)), bitmap)


def test_supervisely_data_sets_must_be_named_after_splits(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the data sets one, two are not named train, val, test"):
        read_supervisely(supervisely_project(tmp_path, [], ("one", "two")), [], None)
    with pytest.raises(InputError, match="remove the flag"):
        read_supervisely(tmp_path, [], tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"classTitle": "cat", "geometryType": "bitmap", "bitmap": {"data": "AAAA", "origin": [0, 0]}},
        {"classTitle": "cat", "geometryType": "bitmap"},
        {"classTitle": "cat", "geometryType": "polygon", "points": {"exterior": "x"}},
        {"geometryType": "polygon"},
        5,
    ],
)
def test_invalid_supervisely_objects(tmp_path: Path, change: Any) -> None:
    with pytest.raises(InputError, match=r"a\.jpg\.json: not a Supervisely annotation"):
        read_supervisely(supervisely_project(tmp_path, [change]), [], None)


def test_bitmap_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.datasets.formats.supervisely.MAX_BITMAP", 100)
    with pytest.raises(ValueError, match="not an image"):
        decode_bitmap(base64.b64encode(zlib.compress(bytes(10**6))).decode())


# -- COCO -------------------------------------------------------------------------------------------------------------


def coco_file(file: Path, name: str) -> None:
    row = {"id": 1, "image_id": 5, "category_id": 18, "bbox": [10, 5, 20, 10], "iscrowd": 0}
    image = {"id": 5, "file_name": name, "width": 100, "height": 50}
    categories = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]
    put(file, json.dumps({"images": [image], "annotations": [row], "categories": categories}).encode())


def test_coco_same_names_in_two_splits(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        coco_file(tmp_path / "annotations" / f"instances_{split}.json", "0.jpg")
        put(tmp_path / split / "0.jpg", IMAGE)
    sets = read_coco(tmp_path, [], None)
    assert {split: index.paths for split, index in sets.items()} == {
        "train": [str(tmp_path / "train2017" / "0.jpg")],
        "val": [str(tmp_path / "val2017" / "0.jpg")],
    }
    assert sets["val"].names == {0: "cat", 1: "dog"}
    assert sets["val"].classes.tolist() == [1]


def test_coco_image_folder(tmp_path: Path) -> None:
    coco_file(tmp_path / "some.json", "x/y/0.jpg")
    put(tmp_path / "elsewhere" / "0.jpg", IMAGE)
    assert read_coco(tmp_path / "some.json", [], tmp_path / "elsewhere")["train"].num_objects == 1
    with pytest.raises(InputError, match="none of the 1 images can be read, the first is"):
        read_coco(tmp_path / "some.json", [], put(tmp_path / "empty" / "x", b"").parent)


def test_two_coco_files_of_one_split(tmp_path: Path) -> None:
    for name in ("instances_train_a.json", "instances_train_b.json"):
        coco_file(tmp_path / name, "0.jpg")
    with pytest.raises(InputError, match=r"instances_train_a\.json and instances_train_b\.json are both for train"):
        read_coco(tmp_path, [], None)


def test_coco_areas_and_holes() -> None:
    plain = to_coco_shape(PixelObject(0, (10, 5, 30, 15), []), SIZE_HW)
    assert plain == {"bbox": [10, 5, 20, 10], "area": 200, "segmentation": []}
    parts = to_coco_shape(PixelObject(0, (10, 5, 90, 45), [SQUARE, SECOND]), SIZE_HW)
    assert (len(parts["segmentation"]), parts["area"]) == (2, 1800)
    holed = to_coco_shape(PixelObject(0, (10, 5, 40, 35), [SQUARE, HOLE]), SIZE_HW)
    assert holed["segmentation"]["size"] == [50, 100]
    assert holed["area"] == 800


# -- Cityscapes -------------------------------------------------------------------------------------------------------


def cityscapes(root: Path, objects: list[dict[str, Any]]) -> Path:
    for split in ("train", "val", "test"):
        stem = f"{split}burg_000000_000019"
        content = {"imgHeight": 50, "imgWidth": 100, "objects": objects}
        put(root / "gtFine" / split / f"{split}burg" / f"{stem}_gtFine_polygons.json", json.dumps(content).encode())
        png = cv2.imencode(".png", np.full((50, 100, 3), 90, np.uint8))[1].tobytes()
        put(root / "leftImg8bit" / split / f"{split}burg" / f"{stem}_leftImg8bit.png", png)
    return root


def test_cityscapes(tmp_path: Path) -> None:
    objects = [
        {"label": "road", "polygon": [[0, 0], [99, 0], [99, 49]]},
        {"label": "car", "polygon": SQUARE.tolist()},
        {"label": "cargroup", "polygon": SQUARE.tolist()},
        {"label": "person", "polygon": [[90, 40], [110, 40], [110, 60], [90, 60]]},
        {"label": "train", "polygon": SQUARE.tolist(), "deleted": 1},
    ]
    out = tmp_path / "out"
    flags = ("--boxes", "--link", "--out", out)
    convert("--from", "cityscapes", "--source", cityscapes(tmp_path / "city", objects), *flags)
    spec = load_spec(out / "data.yaml")
    assert tuple(spec.names.values()) == CLASSES
    assert sorted(spec.splits) == ["train", "val"]
    index = load_index(spec, "val")
    assert index.classes.tolist() == [0, 3]
    assert np.abs(get_corners(index) - [[10, 5, 40, 35], [90, 40, 100, 50]]).max() < 1e-3
    assert index.polygons is None


def test_missing_or_invalid_cityscapes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"requires registration: .*gtFine_trainvaltest\.zip"):
        read_cityscapes(tmp_path, [], None)
    with pytest.raises(InputError, match=r"a\.json: not a polygon file of Cityscapes"):
        parse_cityscapes({"imgHeight": 5, "imgWidth": 5, "objects": [{"label": "car"}]}, {"car": 0}, Path("a.json"))


# -- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (read_voc, "no annotations"),
        (read_coco, "neither a JSON file nor a folder"),
        (read_labelme, "no labelme files"),
        (read_supervisely, r"meta\.json: cannot be read"),
    ],
)
def test_empty_folder(tmp_path: Path, read: Callable[..., Splits], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, [], None)


# -- rings ------------------------------------------------------------------------------------------------------------


def test_joined_rings_cover_the_same_area() -> None:
    """With even-odd filling: the area of the parts minus the holes; the bridges have no area."""
    far = SQUARE / 4 + np.array([90, 40])
    joined = join_rings([SQUARE, HOLE, far])
    assert len(joined) == 4 + 4 + 4 + 2 * 2
    x, y = joined.T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    assert area == pytest.approx(900 - 100 + 900 / 16)
    assert np.array_equal(join_rings([SQUARE]), SQUARE)
