from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from utils.core.limits import NO_LIMITS
from utils.datasets.index.verify import LabelRows, check_rows, parse_label_text, read_label_file, verify_image
from utils.imaging.read import imwrite


def checked(text: str, num_classes: int = 3) -> LabelRows:
    return check_rows(parse_label_text(text, "a.txt"), num_classes)


def test_boxes_are_unchanged() -> None:
    labels = checked("0 0.5 0.5 0.25 0.125\n\n2.0 0.1 0.9 0.2 0.2\n")
    assert labels.rows.dtype == np.float32
    assert labels.rows.tolist() == np.array([[0, 0.5, 0.5, 0.25, 0.125], [2, 0.1, 0.9, 0.2, 0.2]], np.float32).tolist()
    assert (labels.polygons, labels.messages, labels.dropped, labels.clipped) == (None, [], 0, 0)
    assert labels.locations == ["a.txt:1", "a.txt:3"]


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_has_no_rows(text: str) -> None:
    labels = checked(text)
    assert (labels.rows.shape, labels.dropped, labels.messages) == ((0, 5), 0, [])


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ("3 .5 .5 .1 .1", "class 3, but the data YAML names 3 classes (0-2)"),
        ("-1 .5 .5 .1 .1", "class -1, but the data YAML names 3 classes (0-2)"),
        ("1.5 .5 .5 .1 .1", "class 1.5 is not an integer"),
        ("0 nan .5 .1 .1", "a value is not finite"),
        ("0 .5 .5 inf .1", "a value is not finite"),
        ("1e40 .5 .5 .1 .1", "a value is not finite"),
        ("0 .5 .5 1e-9 .1", "box 0.5 0.5 1e-09 0.1 is too small for float32"),
        ("0 .5 .5 0 .1", "box 0.5 0.5 0 0.1 has a size that is not positive"),
        ("0 .5 .5 .1 -.1", "box 0.5 0.5 0.1 -0.1 has a size that is not positive"),
        ("0 320 240 50 60", "box 320 240 50 60 is outside the image (0-1); are these pixels?"),
        ("0 1.04 .5 .05 .1", "box 1.04 0.5 0.05 0.1 is outside the image (0-1); are these pixels?"),
        ("0 .5 .5 .1", "4 values, but a box has 5 and a polygon 7, 9, 11 ..."),
        ("0 .5 .5 .1 .1 .9", "6 values, but a box has 5 and a polygon 7, 9, 11 ..."),
        ("0 .1 .1 .2 .1 .2 .2 .3", "8 values, but a box has 5 and a polygon 7, 9, 11 ..."),
        ("0,.5,.5,.1,.1", "'0,.5,.5,.1,.1' has a value that is not a number"),
        ("0 .5 .5 .1 x", "'0 .5 .5 .1 x' has a value that is not a number"),
        ("0x1 .5 .5 .1 .1", "'0x1 .5 .5 .1 .1' has a value that is not a number"),
        ("1_0 .5 .5 .1 .1", "'1_0 .5 .5 .1 .1' has a value that is not a number"),
        ("\uff10 .5 .5 .1 .1", "'\uff10 .5 .5 .1 .1' has a value that is not a number"),
        ("0 .5\0 .5 .1 .1", "'0 .5\\x00 .5 .1 .1' has a value that is not a number"),
        ("0 1e400 .5 .1 .1", "a value is not finite"),
        ("1000000000 .5 .5 .1 .1", "class 1e+09, but the data YAML names 3 classes (0-2)"),
        ("0 .1 .1 .2 .1 .3 .1", "box 0.2 0.1 0.2 0 has a size that is not positive"),
        ("0 10 10 20 10 20 20", "box 15 15 10 10 is outside the image (0-1); are these pixels?"),
        ("1 .2 .2 .1 .1", "duplicate row"),
    ],
)
def test_an_invalid_row_is_dropped_and_its_neighbors_are_kept(row: str, error: str) -> None:
    labels = checked(f"1 .2 .2 .1 .1\n{row}\n2 .7 .7 .1 .1\n")
    assert labels.messages == [f"a.txt:2: {error}; row dropped"]
    assert labels.dropped == 1
    assert labels.rows[:, 0].tolist() == [1, 2]
    assert labels.locations == ["a.txt:1", "a.txt:3"]


def test_boxes_beyond_the_image_are_clipped() -> None:
    labels = checked("0 0.9 0.5 0.4 0.2\n1 0.5 1.02 0.2 0.1\n")
    assert labels.rows[0].tolist() == pytest.approx([0, 0.85, 0.5, 0.3, 0.2], abs=1e-6)
    assert labels.rows[1].tolist() == pytest.approx([1, 0.5, 0.985, 0.2, 0.03], abs=1e-6)
    assert (labels.clipped, labels.dropped) == (2, 0)
    assert labels.messages[0] == "a.txt:1: box extends 10.00% beyond the image; clipped"


def test_rounding_beyond_the_image_is_accepted() -> None:
    labels = checked("0 0.950001 0.5 0.100000 0.2")
    assert labels.rows[0].tolist() == np.array([0, 0.950001, 0.5, 0.1, 0.2], np.float32).tolist()
    assert (labels.clipped, labels.messages) == (0, [])


def test_polygons_and_boxes_may_share_a_file() -> None:
    labels = checked("1 0 0 0.5 0 0.5 0.25 0 0.25\n0 .5 .5 .2 .2\n2 .1 .1 .3 .1 .2 .4\n")
    assert labels.rows[0].tolist() == [1, 0.25, 0.125, 0.5, 0.25]
    assert labels.rows[2].tolist() == pytest.approx([2, 0.2, 0.25, 0.2, 0.3])
    assert labels.polygons is not None
    assert [len(rings) for rings in labels.polygons] == [1, 0, 1]
    assert labels.polygons[0][0].tolist() == [[0, 0], [0.5, 0], [0.5, 0.25], [0, 0.25]]


def test_polygons_slightly_outside_are_clipped() -> None:
    labels = checked("9 .1 .1 .3 .1 .2 .4\n1 0.8 0.5 1.03 0.5 0.9 0.9\n")
    assert labels.dropped == 1
    assert labels.rows.tolist() == [pytest.approx([1, 0.9, 0.7, 0.2, 0.4])]
    assert labels.polygons is not None
    assert labels.polygons[0][0].tolist() == np.array([[0.8, 0.5], [1, 0.5], [0.9, 0.9]], np.float32).tolist()


def test_two_classes_on_one_box_are_not_duplicates() -> None:
    assert len(checked("0 .5 .5 .2 .2\n1 .5 .5 .2 .2\n").rows) == 2


def test_two_outlines_in_one_box_are_not_duplicates() -> None:
    upper, lower = "0 .2 .2 .4 .2 .2 .4", "0 .4 .2 .4 .4 .2 .4"  # the two halves of a square
    labels = checked("\n".join([upper, lower, upper, "0 .3 .3 .2 .2"]))
    assert labels.messages == [f"a.txt:{line}: duplicate row; row dropped" for line in (3, 4)]
    assert labels.polygons is not None and [len(rings[0]) for rings in labels.polygons] == [3, 3]


def test_a_label_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xff\xfe\x00\x81")
    labels = read_label_file(str(path), 3)
    assert (len(labels.rows), labels.dropped) == (0, 1)
    assert f"{path}: not a readable text file" in labels.messages[0]
    path.write_bytes(b"\xef\xbb\xbf0 .5 .5 .2 .2\r\n1 .4 .4 .2 .2\r\n")  # as Windows editors save it
    assert read_label_file(str(path), 3).rows[:, 0].tolist() == [0, 1]


def test_the_size_of_a_label_file_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as stream:
        stream.truncate(2**27)
    labels = read_label_file(str(path), 3)
    assert (len(labels.rows), labels.dropped) == (0, 1)
    assert labels.messages == [
        f"{path}: 134,217,728 bytes, the limit is 16,777,216; use --no-limits if you trust the file; labels dropped"
    ]
    path.write_text("0 .5 .5 .1 .1\r" * 100_001)
    labels = read_label_file(str(path), 3)
    assert (len(labels.rows), labels.dropped) == (0, 1)
    assert f"{path}: 100,001 lines, the limit is 100,000; use --no-limits" in labels.messages[0]
    monkeypatch.setenv(NO_LIMITS, "1")
    assert read_label_file(str(path), 3).dropped == 100_000  # duplicate rows


@pytest.mark.parametrize(("make", "what"), [(Path.mkdir, "folder"), (getattr(os, "mkfifo", None), "pipe")])
def test_a_label_file_must_be_a_file(tmp_path: Path, make: Callable[[Path], None] | None, what: str) -> None:
    if make is None:
        pytest.skip(f"this system has no {what} with a name")
    imwrite(tmp_path / "a.png", np.zeros((20, 50, 3), np.uint8))
    make(tmp_path / "a.txt")
    result = verify_image(str(tmp_path / "a.png"), str(tmp_path / "a.txt"), 3)
    assert result.size_hw == (20, 50)
    assert result.labels.messages[0].startswith(f"{tmp_path / 'a.txt'}: not a regular file")
    assert result.labels.dropped == 1


def test_messages_of_an_image_are_limited(tmp_path: Path) -> None:
    imwrite(tmp_path / "a.png", np.zeros((20, 50, 3), np.uint8))
    (tmp_path / "a.txt").write_text("9 .5 .5 .1 .1\n" * 5000 + "0 0.9 0.5 0.4 0.2\n")
    labels = verify_image(str(tmp_path / "a.png"), str(tmp_path / "a.txt"), 3).labels
    assert (len(labels.rows), labels.dropped, labels.clipped) == (1, 5000, 1)
    assert len(labels.messages) == 101
    assert labels.messages[-1] == f"{tmp_path / 'a.png'}: 4,901 more problems with its labels"


def test_long_lines_give_short_messages() -> None:
    for row in ("x" * 1_000_000, "0 " * 500_000, "0 " + "x " * 500_000):
        labels = checked(row)
        assert labels.dropped == 1
        assert len(labels.messages[0]) < 200


def test_a_large_polygon() -> None:
    angle = np.linspace(0, 2 * np.pi, 100_000)
    points = np.stack([np.cos(angle), np.sin(angle)], 1) / 4 + 0.5
    labels = checked("0 " + " ".join(f"{value:.6f}" for value in points.ravel()))
    assert labels.polygons is not None and labels.polygons[0][0].shape == (100_000, 2)
    assert labels.rows[0].tolist() == pytest.approx([0, 0.5, 0.5, 0.5, 0.5], abs=1e-4)


def test_unusable_images(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    result = verify_image(str(tmp_path / "text.jpg"), None, 3)
    assert result.size_hw is None
    assert result.labels.messages[0].endswith("not an image in a known format; image skipped")
    imwrite(tmp_path / "thin.png", np.zeros((9, 50, 3), np.uint8))
    result = verify_image(str(tmp_path / "thin.png"), None, 3)
    assert result.size_hw is None
    assert "50x9 pixels, sides must be at least 10" in result.labels.messages[0]


def test_an_image_without_label_file_is_a_background(tmp_path: Path) -> None:
    imwrite(tmp_path / "a.png", np.zeros((10, 50, 3), np.uint8))
    result = verify_image(str(tmp_path / "a.png"), str(tmp_path / "a.txt"), 3)
    assert (result.size_hw, result.labelled, len(result.labels.rows), result.labels.messages) == (
        (10, 50),
        False,
        0,
        [],
    )
