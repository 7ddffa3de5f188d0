from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.core.errors import InputError
from utils.datasets.index.coco_file import read_coco
from utils.datasets.index.coco_json import iter_image_labels, load_annotations
from utils.datasets.index.data_yaml import load_spec
from utils.datasets.index.labels import load_index
from utils.datasets.prepare import shapes
from utils.imaging.read import imwrite
from utils.ops.masks import rasterize, signed_area
from utils.ops.rle import encode_rle

NAMES = {0: "cat", 1: "dog"}
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]
IMAGE = {"id": 5, "file_name": "a.png", "width": 100, "height": 50}


def write(root: Path, annotations: list[dict[str, Any]], **parts: Any) -> Path:
    content = {"images": [IMAGE], "annotations": annotations, "categories": CATEGORIES} | parts
    path = root / "instances.json"
    path.write_text(json.dumps(content))
    return path


def annotation(**parts: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 5, "category_id": 18, "bbox": [10, 5, 20, 10], "iscrowd": 0} | parts


def test_boxes_are_normalized_and_categories_matched_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, [annotation(), annotation(id=2, category_id=17, bbox=[0, 0, 100, 50])])
    images, labels = load_annotations(path, NAMES, [str(tmp_path / "a.png")], [tmp_path])
    assert images == [str(tmp_path / "a.png")]
    expected = np.array([[1, 0.2, 0.2, 0.2, 0.2], [0, 0.5, 0.5, 1, 1]], np.float32)
    assert labels[0].rows.tolist() == expected.tolist()
    assert labels[0].polygons is None
    assert labels[0].locations == [f"{path}: annotation 1", f"{path}: annotation 2"]


def test_categories_with_other_names_are_matched_by_their_ids(tmp_path: Path) -> None:
    path = write(tmp_path, [annotation(), annotation(category_id=17, bbox=[0, 0, 1, 1])])
    _, labels = load_annotations(path, {0: "Katze", 1: "Hund"}, [], [tmp_path])
    assert labels[0].rows[:, 0].tolist() == [1, 0]
    with pytest.raises(InputError, match="category 'dog' is not in the data YAML's names, and 2 categories"):
        load_annotations(path, {0: "cat"}, [], [tmp_path])


def test_polygons_run_lengths_and_plain_boxes(tmp_path: Path) -> None:
    runs = {"size": [50, 100], "counts": [50 * 10 + 5, *([10, 40] * 19), 10, 50 * 71 - 15]}  # 20 columns of rows 5-14
    rows = [
        annotation(segmentation=[[10, 5, 30, 5, 30, 15], [40, 20, 50, 20, 50, 30, 40, 30]]),
        annotation(segmentation=runs),
        annotation(segmentation=[]),
        annotation(segmentation=[[1, 2, 3]]),
        annotation(segmentation={"size": [50, 100], "counts": "broken"}),
    ]
    _, labels = load_annotations(write(tmp_path, rows), NAMES, [], [tmp_path])
    polygons = labels[0].polygons
    assert polygons is not None
    assert [len(rings) for rings in polygons] == [2, 1, 0, 0, 0]
    assert polygons[0][0].tolist() == np.array([[0.1, 0.1], [0.3, 0.1], [0.3, 0.3]], np.float32).tolist()
    low, high = polygons[1][0].min(0) * [100, 50], polygons[1][0].max(0) * [100, 50]
    assert np.concatenate([low, high]).tolist() == pytest.approx([10.5, 5.5, 29.5, 14.5])


def test_crowds_and_invalid_annotations_are_skipped(tmp_path: Path) -> None:
    rows = [
        annotation(iscrowd=1),
        annotation(id=2, bbox=[1, 2, 3]),
        annotation(id=3, bbox=None),
        annotation(id=4, category_id=99),
        annotation(id=5),
    ]
    path = write(tmp_path, rows)
    _, labels = load_annotations(path, NAMES, [], [tmp_path])
    assert len(labels[0].rows) == 1
    assert labels[0].dropped == 3
    assert labels[0].messages[0] == (
        f"{path}: annotation 2: bbox [1, 2, 3] is not left, top, width, height; row dropped"
    )


@pytest.mark.parametrize(
    "segmentation",
    [
        pytest.param([["a", 1, 2, 3, 4, 5]], id="text"),
        pytest.param([[[1, 2], [3, 4], [5, 6]]], id="nested"),
        pytest.param({"size": [25, 50], "counts": [500, 250, 500]}, id="mask of another size"),
        pytest.param({"size": [10**6, 10**6], "counts": [10**12]}, id="mask beyond memory"),
    ],
)
def test_invalid_segmentations_keep_the_box(tmp_path: Path, segmentation: Any) -> None:
    _, labels = load_annotations(write(tmp_path, [annotation(segmentation=segmentation)]), NAMES, [], [tmp_path])
    assert labels[0].rows.shape == (1, 5)
    assert labels[0].polygons is None


@pytest.mark.parametrize("width", [None, 0, -100, "wide", [100]])
def test_images_without_a_size_lose_their_rows(tmp_path: Path, width: Any) -> None:
    path = write(tmp_path, [annotation()], images=[IMAGE | {"width": width}])
    _, labels = load_annotations(path, NAMES, [], [tmp_path])
    assert labels[0].messages == [f"{path}: annotation 1: image 5 has no valid width and height; row dropped"]


def test_labels_by_the_order_of_the_category_ids(tmp_path: Path) -> None:
    path = write(tmp_path, [annotation(), annotation(iscrowd=1), annotation(category_id=17)])
    ((image, labels),) = iter_image_labels(read_coco(path), 2, path)
    assert image == IMAGE
    assert labels.rows[:, 0].tolist() == [1, 0]
    with pytest.raises(InputError, match="2 categories, but the data YAML names 3 classes"):
        next(iter_image_labels(read_coco(path), 3, path))


def test_images_are_found_by_the_end_of_their_path(tmp_path: Path) -> None:
    images = [IMAGE | {"id": n, "file_name": name} for n, name in enumerate(("b/a.png", "x/y/c.png", "gone.png"))]
    path = write(tmp_path, [], images=images)
    listed = [str(tmp_path / "b" / "a.png"), str(tmp_path / "c.png")]
    found, _ = load_annotations(path, NAMES, listed, [tmp_path])
    assert found == [*listed, str(tmp_path / "gone.png")]


def test_annotations_of_duplicate_images_are_merged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    again = IMAGE | {"id": 6}
    rows = [annotation(), annotation(id=2, image_id=6, category_id=17)]
    path = write(tmp_path, rows, images=[IMAGE, IMAGE | {"id": 7, "file_name": "b.png"}, again])
    images, labels = load_annotations(path, NAMES, [], [tmp_path])
    assert [Path(image).name for image in images] == ["a.png", "b.png"]
    assert [label.rows[:, 0].tolist() for label in labels] == [[1, 0], []]
    assert f"{path}: 1 images have a duplicate file_name" in caplog.text


@pytest.mark.parametrize(
    ("names", "files", "expected"),
    [
        pytest.param(["a/1.png", "b/1.png"], ["a/1.png"], ["a/1.png", None], id="claimed by another entry"),
        pytest.param(["c/1.png"], ["a/1.png", "b/1.png"], [None], id="two files of that name"),
        pytest.param(["1.png"], ["a/1.png", "b/1.png"], [None], id="no folder to tell them apart"),
        pytest.param(["x/b/1.png"], ["a/1.png", "b/1.png"], ["b/1.png"], id="longest end"),
        pytest.param(["x/b/1.png"], ["u/b/1.png", "v/b/1.png"], [None], id="ends of one length"),
        pytest.param(["x/1.png", "y/1.png"], ["a/1.png"], [None, None], id="both by name alone"),
        pytest.param(["x/a/1.png", "y/1.png"], ["a/1.png"], ["a/1.png", None], id="one agrees in more"),
    ],
)
def test_a_missing_image_is_not_matched_to_another_of_its_name(
    names: list[str], files: list[str], expected: list[str | None], tmp_path: Path
) -> None:
    images = [IMAGE | {"id": number, "file_name": name} for number, name in enumerate(names)]
    path = write(tmp_path, [], images=images)
    found, _ = load_annotations(path, NAMES, [str(tmp_path / file) for file in files], [tmp_path])
    assert found == [str(tmp_path / (file or name)) for file, name in zip(expected, names, strict=True)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"instances\.json:1: not valid JSON"),
        ("[]", "no list 'images'; expected COCO annotations"),
        ('{"images": [], "annotations": []}', "no list 'categories'"),
        ("[" * 100_000, "cannot be read"),
        ('{"images": ["a.png"], "annotations": [], "categories": []}', r"images\[0\]: 'a.png' is not an object"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', r"images\[0\]: no 'file_name'"),
        ('{"images": [{"file_name": "a"}], "annotations": [], "categories": []}', r"images\[0\]: no 'id'"),
        ('{"images": [], "annotations": [{"category_id": [1]}], "categories": []}', r"\[0\]: category_id \[1\] is not"),
        ('{"images": [], "annotations": [], "categories": [{"name": "cat"}]}', r"categories\[0\]: no 'id'"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_annotations(tmp_path / "instances.json", NAMES, [], [tmp_path])


def test_holes_and_orientation_of_polygons(tmp_path: Path) -> None:
    ring = np.zeros((50, 100), bool)
    ring[10:40, 20:60] = True
    ring[20:30, 30:50] = False
    ring[24:26, 38:42] = True  # an island in the hole
    code = encode_rle(ring, (0, 0), (50, 100))
    pieces = [[10, 5, 30, 5, 30, 15], [30, 15, 50, 30, 30, 30][::-1], [40, 20, 50, 20, 50, 30, 40, 30][::-1]]
    rows = [annotation(segmentation=code), annotation(segmentation=pieces)]
    _, labels = load_annotations(write(tmp_path, rows), NAMES, [], [tmp_path])
    assert labels[0].polygons is not None
    holed, parts = ([points * (100, 50) for points in rings] for rings in labels[0].polygons)
    assert (rasterize([holed], (50, 100)).dense()[0] == ring).all()
    assert len(parts) == 3 and all(signed_area(part) > 0 for part in parts)


def test_a_json_gives_the_same_labels_as_label_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "COUNTS", {"train": 5, "val": 2})
    shapes.prepare_shapes(tmp_path / "shapes", {})
    names = f"names: {list(shapes.CLASSES)}\n"
    (tmp_path / "txt.yaml").write_text("path: shapes\ntrain: images/train\nval: images/val\n" + names)
    source = "{images: images/train, annotations: annotations/train.json}"
    (tmp_path / "json.yaml").write_text(f"path: shapes\ntrain: {source}\nval: images/val\n{names}")
    by_file = load_index(load_spec(tmp_path / "txt.yaml"), "train")
    by_json = load_index(load_spec(tmp_path / "json.yaml"), "train")
    assert by_json.paths == by_file.paths
    assert by_json.offsets.tolist() == by_file.offsets.tolist()
    assert by_json.classes.tolist() == by_file.classes.tolist()
    assert np.abs(by_json.boxes_xywhn - by_file.boxes_xywhn).max() < 1e-5
    assert by_json.polygons is not None
    assert by_file.polygons is not None
    assert np.abs(by_json.polygons.points - by_file.polygons.points).max() < 1e-5
    assert (tmp_path / "shapes" / "annotations" / "train.cache").is_file()


def test_an_image_missing_on_disk_is_reported_not_fatal(tmp_path: Path) -> None:
    imwrite(tmp_path / "a.png", np.zeros((50, 100, 3), np.uint8))
    write(tmp_path, [annotation()], images=[IMAGE, IMAGE | {"id": 6, "file_name": "gone.png"}])
    source = "{images: ., annotations: instances.json}"
    (tmp_path / "d.yaml").write_text(f"train: {source}\nval: {source}\nnames: [cat, dog]")
    index = load_index(load_spec(tmp_path / "d.yaml"), "val")
    assert index.paths == [str(tmp_path / "a.png")]
    assert index.classes.tolist() == [1]
