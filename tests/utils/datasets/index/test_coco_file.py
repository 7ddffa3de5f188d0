"""COCO files with odd content: one line with file and place, or a message and no label."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from utils.core.errors import InputError
from utils.core.limits import NO_LIMITS
from utils.datasets.index import coco_file
from utils.datasets.index.coco_file import read_category_names, read_coco
from utils.datasets.index.coco_json import load_annotations
from utils.datasets.index.verify import LabelRows, check_rows

NAMES = {0: "cat", 1: "dog"}
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]
IMAGE = {"id": 5, "file_name": "a.png", "width": 100, "height": 50}
ANNOTATION = {"id": 1, "image_id": 5, "category_id": 18, "bbox": [10, 5, 20, 10], "iscrowd": 0}
NAN, INF, HUGE = float("nan"), float("inf"), 10**400


def write(root: Path, **parts: Any) -> Path:
    content = {"images": [IMAGE], "annotations": [ANNOTATION], "categories": CATEGORIES} | parts
    (root / "x.json").write_text(json.dumps(content))
    return root / "x.json"


def load(root: Path, image: dict[str, Any] = IMAGE, **values: Any) -> LabelRows:
    """Checked labels of an image with one annotation."""
    file = write(root, images=[image], annotations=[ANNOTATION | values])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, (labels,) = load_annotations(file, NAMES, [], [root])
        return check_rows(labels, 2)


@pytest.mark.parametrize("name", [["cat"], {"a": 1}, None])
def test_category_names_are_text(tmp_path: Path, name: Any) -> None:
    file = write(tmp_path, categories=[CATEGORIES[0], {"id": 1, "name": name}])
    for read in (read_category_names, lambda file: load_annotations(file, NAMES, [], [tmp_path])):
        with pytest.raises(InputError) as error:
            read(file)
        assert str(error.value) == f"{file}: categories[1]: name {name!r} is not text"


def test_a_number_as_a_category_name(tmp_path: Path) -> None:
    file = write(tmp_path, categories=[{"id": 18, "name": 5}])
    _, (labels,) = load_annotations(file, {0: "4", 1: "5"}, [], [tmp_path])
    assert labels.rows[0, 0] == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("17", "id '17': ids must be all numbers or all text"),
        (NAN, "id nan is not a number"),
        (True, "id True is not a number"),
        (None, "id None is not a number"),
        ([1], r"id \[1\] is not a number"),
        (18, r"id 18 is also that of categories\[0\]"),
        (18.0, r"id 18\.0 is also that of categories\[0\]"),
    ],
)
def test_category_ids_can_be_told_apart_and_sorted(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"x\.json: categories\[1\]: {message}$"):
        read_coco(write(tmp_path, categories=[CATEGORIES[0], {"id": value, "name": "cat"}]))


@pytest.mark.parametrize("value", [HUGE, -3, 17.5, INF])
def test_unusual_ids_are_ids(tmp_path: Path, value: float) -> None:
    file = write(
        tmp_path,
        images=[IMAGE | {"id": value}],
        categories=[CATEGORIES[0], {"id": value, "name": "cat"}],
        annotations=[ANNOTATION | {"image_id": value, "category_id": value}],
    )
    _, (labels,) = load_annotations(file, NAMES, [], [tmp_path])
    assert labels.rows[:, 0].tolist() == [0]


@pytest.mark.parametrize("value", [NAN, None, True, [5], {}])
def test_image_ids_are_numbers_or_text(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError, match=r"x\.json: images\[0\]: id .* is not a number$"):
        read_coco(write(tmp_path, images=[IMAGE | {"id": value}]))


def test_images_have_ids_of_their_own(tmp_path: Path) -> None:
    assert read_coco(write(tmp_path, images=[IMAGE, IMAGE]))
    with pytest.raises(InputError, match=r"x\.json: images\[1\]: id 5 is also that of images\[0\]"):
        read_coco(write(tmp_path, images=[IMAGE, IMAGE | {"file_name": "b.png"}]))


@pytest.mark.parametrize("name", [["x"], {"a": 1}, None, 5, "", "\ud800.png", "a\0.png", "x" * 10**6])
def test_file_names_are_paths(tmp_path: Path, name: Any) -> None:
    with pytest.raises(InputError, match=r"x\.json: images\[0\]: file_name .* is not a path$") as error:
        read_coco(write(tmp_path, images=[IMAGE | {"file_name": name}]))
    assert len(str(error.value)) < 300


def test_file_names_may_lead_elsewhere(tmp_path: Path) -> None:
    for name, expected in (("../b/a.png", tmp_path / "b/a.png"), ("/etc/a.png", Path("/etc/a.png"))):
        images, _ = load_annotations(write(tmp_path, images=[IMAGE | {"file_name": name}]), NAMES, [], [tmp_path / "c"])
        assert images == [str(expected)]


def test_annotations_of_unknown_images_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path, annotations=[ANNOTATION, ANNOTATION | {"image_id": "5"}, ANNOTATION | {"image_id": None}])
    _, (labels,) = load_annotations(file, NAMES, [], [tmp_path])
    assert len(labels.rows) == 1
    assert f"{file}: 2 annotations skipped: their image is not in the list 'images', such as '5'" in caplog.text


@pytest.mark.parametrize("value", [None, NAN, INF, HUGE, 1e300, True, "100", 0.5, -1, 0, [1]])
def test_images_without_a_size_lose_their_rows(tmp_path: Path, value: Any) -> None:
    labels = load(tmp_path, IMAGE | {"width": value})
    assert labels.messages == [f"{tmp_path}/x.json: annotation 1: image 5 has no valid width and height; row dropped"]


@pytest.mark.parametrize(
    "box",
    [
        *([1, 2, 3], [NAN] * 4, ["a"] * 4, [1, 2, HUGE, 4], [1e300] * 4, [INF] * 4, [True] * 4, "abcd", {"a": 1}, None),
        *([[1, 2], [3, 4]], [0] * 10**6),
    ],
)
def test_invalid_boxes_are_skipped(tmp_path: Path, box: Any) -> None:
    labels = load(tmp_path, bbox=box)
    assert len(labels.rows) == 0 and labels.dropped == 1
    assert labels.messages[0].startswith(f"{tmp_path}/x.json: annotation 1: bbox ") and len(labels.messages[0]) < 300
    assert labels.messages[0].endswith(" is not left, top, width, height; row dropped")


def nest(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        *((None, ""), ([], ""), ({}, ""), ([[]], "")),
        *(("abc", "'abc' is neither polygons nor a mask"), (5, "5 is neither polygons nor a mask")),
        *(([[v] * 6], "1 of 1 polygons are not lists") for v in (NAN, INF, -INF, HUGE, 1e300, True, "1", [1])),
        ([[1, 2, 3, 4, 5, 6, 7]], "1 of 1 polygons are not lists"),
        ([nest(900)], "1 of 1 polygons are not lists"),
        ({"size": [50, 100]}, "not a run-length encoding"),
        ({"size": [10**9, 10**9], "counts": [10**18]}, "not a run-length encoding"),
        ({"size": [HUGE, HUGE], "counts": [5000]}, "not a run-length encoding"),
        *(
            ({"size": [50, 100], "counts": counts}, "not a run-length encoding")
            for counts in ([2**62] * 4 + [5000], [HUGE], [[5000]], [-1, 5001], {"a": 1}, "P" * 10**6, "0" * 1000, "漢")
        ),
    ],
)
def test_the_box_remains_without_its_segmentation(tmp_path: Path, segmentation: Any, message: str) -> None:
    labels = load(tmp_path, segmentation=segmentation)
    assert labels.rows.shape == (1, 5) and labels.polygons is None
    assert [text.partition("annotation 1: segmentation: ")[2][: len(message)] for text in labels.messages] == (
        [message] if message else []
    )


def test_valid_parts_of_a_segmentation_remain(tmp_path: Path) -> None:
    labels = load(tmp_path, segmentation=[[10, 5, 30, 5, 30, 15], [1, 2, 3]])
    assert labels.polygons is not None and len(labels.polygons[0]) == 1
    assert labels.messages[0].endswith("segmentation: 1 of 2 polygons are not lists of x, y; skipped")


def test_masks_beyond_the_limit_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    giant = IMAGE | {"width": 40_000, "height": 40_000}
    labels = load(tmp_path, giant, segmentation={"size": [40_000, 40_000], "counts": [0, 1_600_000_000]})
    assert labels.polygons is None and len(labels.rows) == 1
    assert "segmentation: 1,600,000,000 pixels, the limit is 268,435,456; use --no-limits" in labels.messages[0]
    monkeypatch.setattr("utils.datasets.index.coco_json.MAX_PIXELS", 4999)
    mask = {"size": [50, 100], "counts": [0, 5000]}
    assert load(tmp_path, segmentation=mask).polygons is None
    monkeypatch.setenv(NO_LIMITS, "1")
    assert load(tmp_path, segmentation=mask).polygons is not None


@pytest.mark.parametrize("value", [[1], "x", 1, True])
def test_crowd_marks_of_any_type(tmp_path: Path, value: Any) -> None:
    assert len(load(tmp_path, iscrowd=value).rows) == 0


def test_long_values_are_cut(tmp_path: Path) -> None:
    for values in ({"id": "x" * 10**6, "bbox": 1}, {"id": 10**4000, "bbox": 1}, {"category_id": "y" * 10**6}):
        labels = load(tmp_path, **values)
        assert len(labels.rows) == 0 and len(labels.messages[0]) < 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "x.json: cannot be read"),
        (b'{"images": ' + b"[" * 900 + b"]" * 900 + b"}", r"x.json: images\[0\]: \[\[.* is not an object"),
        (b'{"images": ' + b"9" * 5000 + b"}", "x.json: cannot be read"),
        (b'{"images":\n"caf\xe9"}', "x.json:2: byte 0xe9 is not UTF-8"),
        (b'{"images": [], "images": 5}', "x.json: no list 'images'"),
        (b"", "x.json:1: not valid JSON"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_coco(tmp_path / "x.json")
    assert len(str(error.value)) < 900 and "\n" not in str(error.value)


def test_the_memory_of_a_large_file_is_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(coco_file, "LARGE_FILE", 100)
    monkeypatch.setattr(coco_file, "MEMORY_FACTOR", 6000)
    caplog.set_level("INFO")
    file = write(tmp_path, info="x" * 10**6)
    read_coco(file)
    assert f"{file}: 0.0 GB, reading takes about 6 GB of memory" in caplog.text
