"""`python -m utils.datasets check`: problems, tables and plots."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from loopback import IMAGE, put

from utils.config.datasets import CheckConfig
from utils.core.errors import InputError
from utils.datasets.index.image_index import ImageIndex
from utils.datasets.index.verify import MORE_PROBLEMS
from utils.datasets.tools.check import run
from utils.datasets.tools.summary import (
    describe_sizes,
    describe_unknown_classes,
    find_duplicate_images,
    format_class_table,
    get_box_sizes,
)

NAMES = {0: "cat", 1: "dog"}


def write_data_set(root: Path, labels: dict[str, str], splits: str = "train: images/train\nval: images/val\n") -> Path:
    """A data YAML whose images differ from each other."""
    for number, (name, text) in enumerate(labels.items()):
        frame = np.full((50, 100, 3), number, np.uint8)
        put(root / "images" / f"{name}.png", cv2.imencode(".png", frame)[1].tobytes())
        put(root / "labels" / f"{name}.txt", text.encode())
    (root / "set.yaml").write_text(f"{splits}names: [cat, dog]\n")
    return root / "set.yaml"


def check(data: Path, project: Path, *flags: str) -> int:
    return run(CheckConfig.from_args(["--data", str(data), "--project", str(project), *flags]))


def test_set_without_problems(tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert check(tiny_data, tmp_path) == 0
    assert "No problems found in images and labels" in caplog.text
    assert "image width 96 to 96, height 64 to 64 pixels; 1 size, most common 96x64 (12)" in caplog.text
    folder = tmp_path / "exp"
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.*")) == [
        "sizes.png",
        "summary.txt",
        "train/images.jpg",
        "train/labels.jpg",
        "train/labels_correlogram.jpg",
        "val/images.jpg",
        "val/labels.jpg",
        "val/labels_correlogram.jpg",
    ]
    assert "square" in (folder / "summary.txt").read_text()


def test_unknown_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = "1 .5 .5 .2 .2\n"
    labels = {"train/a": f"{good}2 .5 .5 .2 .2\n93 .2 .2 .1 .1\n", "train/b": "2 .1 .1 .1 .1\n", "val/c": good}
    with caplog.at_level(logging.INFO):
        assert check(write_data_set(tmp_path, labels), tmp_path / "runs", "--noplots") == 1
    assert "classes that do not exist: 2 (2 rows), 93 (1 row); the data YAML names 2 (0-1)" in caplog.text
    assert "a.txt:2: class 2, but the data YAML names 2 classes (0-1); row dropped" in caplog.text
    assert "train: no objects of cat" in caplog.text
    assert "0 images and 3 label rows cannot be used" in caplog.text
    problems = (tmp_path / "runs" / "exp" / "problems.txt").read_text().splitlines()
    assert len(problems) == 3
    assert problems[0].startswith("train: ")
    assert not list((tmp_path / "runs").rglob("*.jpg"))


def test_set_without_usable_rows_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = {"train/a": "2 .5 .5 .2 .2\n", "val/b": "2 .5 .5 .2 .2\n"}
    with caplog.at_level(logging.INFO):
        assert check(write_data_set(tmp_path, labels), tmp_path / "runs") == 1
    assert "2 (2 rows); the data YAML names 2 (0-1); do the class numbers start at 1?" in caplog.text
    assert (tmp_path / "runs" / "exp" / "train" / "labels.jpg").is_file()


def test_damaged_images_fail_the_check(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_data_set(tmp_path, {"train/a": "1 .5 .5 .2 .2\n", "train/b": "", "val/c": "0 .5 .5 .2 .2\n"})
    put(tmp_path / "images" / "train" / "b.png", b"no image")
    put(tmp_path / "images" / "val" / "c.png", b"nor this")
    with caplog.at_level(logging.INFO):
        assert check(data, tmp_path / "runs") == 1
    assert "2 images and 0 label rows cannot be used" in caplog.text
    assert not (tmp_path / "runs" / "exp" / "val").exists()


def test_hostile_images_are_named_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    data = write_data_set(tmp_path, {"train/a": "1 .5 .5 .2 .2\n", "val/c": "0 .5 .5 .2 .2\n"})
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    size, middle, folder = whole.index(b"\xff\xc0") + 5, len(whole) * 2 // 3, tmp_path / "images" / "train"
    put(folder / "huge.jpg", whole[:size] + b"\x7f\xbc\x7f\xbc" + whole[size + 4 :])  # 32,700 pixels wide and high
    put(folder / "zeros.jpg", whole[:middle] + bytes(200) + whole[middle + 200 :])
    put(folder / "cut.jpg", whole[: len(whole) * 3 // 4])
    put(folder / "zip.npy", b"PK\3\4 and no zip file")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.jpg")
    with caplog.at_level(logging.INFO):
        assert check(data, tmp_path / "runs", "--noplots") == 1
    assert "huge.jpg: 1,069,290,000 pixels, the limit is 268,435,456; use --no-limits" in caplog.text
    assert "zip.npy: not a readable array file" in caplog.text
    assert "zeros.jpg: Corrupt JPEG data: " in caplog.text
    assert "WARNING 2 images are damaged in part, but used" in caplog.text
    assert f"{3 if hasattr(os, 'mkfifo') else 2} images and 0 label rows cannot be used" in caplog.text
    assert "Corrupt JPEG data" not in capfd.readouterr().err
    with caplog.at_level(logging.INFO):
        check(data, tmp_path / "runs", "--noplots")  # from the cache
    assert caplog.text.count("zeros.jpg: Corrupt JPEG data: ") == 2


def test_duplicate_images_in_two_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_data_set(
        tmp_path, {"train/a": "1 .5 .5 .2 .2\n", "train/x": "0 .5 .5 .2 .2\n", "val/c": "0 .5 .5 .2 .2\n"}
    )
    copy = (tmp_path / "images" / "train" / "a.png").read_bytes()
    put(tmp_path / "images" / "val" / "c.png", copy)
    with caplog.at_level(logging.INFO):
        assert check(data, tmp_path / "runs", "--noplots") == 0
    assert f"1 images are in train and in val: {tmp_path}/images/train/a.png = " in caplog.text


def test_missing_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    splits = "train: images/train\nval: images/val\ntest: images/test\n"
    data = write_data_set(tmp_path, {"train/a": "1 .5 .5 .2 .2\n", "val/c": "0 .5 .5 .2 .2\n"}, splits)
    with caplog.at_level(logging.INFO):
        check(data, tmp_path / "runs", "--noplots", "--split", "val")
    assert "train" not in (tmp_path / "runs" / "exp" / "summary.txt").read_text()
    check(data, tmp_path / "runs", "--noplots")
    assert "test: 'images/test' not found" in caplog.text
    with pytest.raises(InputError, match=r"test: 'images/test' not found"):
        check(data, tmp_path / "runs", "--split", "test")
    with pytest.raises(InputError, match=r"--split other: .*set\.yaml has the splits train, val, test"):
        check(data, tmp_path / "runs", "--split", "other")


def test_class_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, name in enumerate(("train/hen", "train/dog", "val/hen", "val/dog")):
        frame = np.full((40, 60, 3), number, np.uint8)
        put(tmp_path / "pets" / name / "a.png", cv2.imencode(".png", frame)[1].tobytes())
    (tmp_path / "pets.yaml").write_text("path: pets\ntrain: train\nval: val\nnames: [dog, hen]\n")
    for number, data in enumerate((tmp_path / "pets", tmp_path / "pets.yaml")):
        with caplog.at_level(logging.INFO):
            assert check(data, tmp_path / "runs", "--name", str(number)) == 0
        assert (tmp_path / "runs" / str(number) / "train" / "images.jpg").is_file()
        assert not list((tmp_path / "runs").rglob("labels.jpg"))


def test_polygons_are_drawn(tmp_path: Path) -> None:
    data = write_data_set(tmp_path, {"train/a": "1 .1 .1 .9 .1 .9 .9\n", "val/c": "0 .5 .5 .2 .2\n"})
    assert check(data, tmp_path / "runs") == 0
    frame = cv2.imread(str(tmp_path / "runs" / "exp" / "train" / "images.jpg"))
    corner, inside = frame[300, 60], frame[200, 350]  # below and above the diagonal, in the tinted half
    assert inside.astype(int).max() > corner.astype(int).max() + 20


def test_semantic_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_data_set(
        tmp_path, {"train/a": "1 .5 .5 .2 .2\n", "train/b": "0 .5 .5 .2 .2\n", "val/c": "0 .5 .5 .2 .2\n"}
    )
    for name, value in (("train/a", 1), ("train/b", 9), ("val/c", 255)):
        values = np.zeros((50, 100), np.uint8)
        values[:10] = value
        put(tmp_path / "masks" / f"{name}.png", cv2.imencode(".png", values)[1].tobytes())
    data.write_text(data.read_text() + "semantic: {masks: masks, names: {0: sky, 1: road}}\n")
    with caplog.at_level(logging.INFO):
        assert check(data, tmp_path / "runs") == 1  # 9 is not a class
    assert "1 images and 0 label rows cannot be used" in caplog.text
    table = (tmp_path / "runs" / "exp" / "summary.txt").read_text().splitlines()
    assert ["sky", "80.00%", "1", "100.00%", "1"] in [line.split() for line in table]
    assert sum("image width" in line for line in table) == 3  # one of boxes and one of masks in train, one in val
    assert (tmp_path / "runs" / "exp" / "train" / "masks.jpg").is_file()
    assert (tmp_path / "runs" / "exp" / "train" / "labels.jpg").is_file()


def test_semantic_set_that_lacks_the_split(tmp_path: Path) -> None:
    boxes = write_data_set(tmp_path / "boxes", {"train/a": "1 .5 .5 .2 .2\n", "val/b": "", "test/c": "0 .5 .5 .2 .2\n"})
    boxes.write_text(boxes.read_text() + "test: images/test\n")
    semantic = write_data_set(tmp_path / "semantic", {"train/a": "", "val/c": ""})
    for name in ("train/a", "val/c"):
        file = tmp_path / "semantic" / "masks" / f"{name}.png"
        put(file, cv2.imencode(".png", np.zeros((50, 100), np.uint8))[1].tobytes())
    semantic.write_text(semantic.read_text() + "semantic: {masks: masks, names: {0: sky}}\n")
    (tmp_path / "joint.yaml").write_text(f"detection: {boxes}\nsemantic: {semantic}\n")
    assert check(tmp_path / "joint.yaml", tmp_path / "runs", "--split", "test", "--noplots") == 0
    assert "sky" not in (tmp_path / "runs" / "exp" / "summary.txt").read_text()


def test_semantic_masks_only_and_folder_with_one_yaml(tmp_path: Path) -> None:
    data = write_data_set(tmp_path, {"train/a": "", "val/c": ""})
    for name in ("train/a", "val/c"):
        put(tmp_path / "masks" / f"{name}.png", cv2.imencode(".png", np.zeros((50, 100), np.uint8))[1].tobytes())
    data.write_text("train: images/train\nval: images/val\nsemantic: {masks: masks, names: {0: sky, 1: road}}\n")
    assert check(tmp_path, tmp_path / "runs") == 0
    assert not list((tmp_path / "runs").rglob("labels.jpg"))
    assert len(list((tmp_path / "runs").rglob("masks.jpg"))) == 2


# -- statistics -------------------------------------------------------------------------------------------------------


def make_index(sizes_hw: list[list[int]], rows: list[tuple[int, int, float, float]]) -> ImageIndex:
    """An index from rows of image, class, normalized width and height."""
    owners = np.array([row[0] for row in rows], int)
    return ImageIndex(
        paths=[f"{k}.jpg" for k in range(len(sizes_hw))],
        sizes_hw=np.array(sizes_hw, np.int32),
        offsets=np.searchsorted(owners, np.arange(len(sizes_hw) + 1)).astype(np.int64),
        classes=np.array([row[1] for row in rows], np.int32),
        boxes_xywhn=np.array([[0.5, 0.5, *row[2:]] for row in rows], np.float32).reshape(-1, 4),
    )


def test_counts_and_sizes() -> None:
    index = make_index([[100, 200], [100, 100], [100, 200]], [(0, 1, 0.1, 0.2), (0, 1, 0.5, 1.0), (2, 0, 0.25, 0.5)])
    assert get_box_sizes(index).tolist() == [
        pytest.approx([20, 20]),
        pytest.approx([100, 100]),
        pytest.approx([50, 50]),
    ]
    table = [line.split() for line in format_class_table({"train": index}, NAMES).splitlines()]
    assert table[1:] == [["cat", "1", "1"], ["dog", "2", "1"], ["all", "3", "3"]]
    images, objects = describe_sizes("train", index)
    assert "width 100 to 200, height 100 to 100 pixels; 2 sizes, most common 200x100 (2), 100x100 (1)" in images
    assert "1.0 objects per image, at most 2" in objects
    assert "33% small, 33% medium, 33% large" in objects


def test_sizes_of_a_split_without_objects() -> None:
    assert len(describe_sizes("val", make_index([[10, 20]], []))) == 1


def test_unknown_classes_are_counted() -> None:
    text = "labels/a.txt:{}: class {}, but the data YAML names 2 classes (0-1); row dropped"
    assert describe_unknown_classes([text.format(1, -1), "labels/b.txt:1: duplicate row; row dropped"], NAMES) == (
        "classes that do not exist: -1 (1 row); the data YAML names 2 (0-1)"
    )
    many = describe_unknown_classes([text.format(k, k) for k in range(2, 15)], NAMES)
    assert "and 3 others" in many
    cut = describe_unknown_classes([text.format(1, 7), f"a.png: 9 {MORE_PROBLEMS}"], NAMES)
    assert "7 (at least 1 row)" in cut
    assert describe_unknown_classes([], NAMES) == ""


def test_one_file_in_both_splits(tmp_path: Path) -> None:
    index = make_index([[50, 100]], [])
    index.paths[0] = str(put(tmp_path / "a.jpg", IMAGE))
    assert find_duplicate_images({"train": index, "val": index}) == [
        "1 images are in train and in val (the same files)"
    ]
