"""Crops of a detection set: folders, margins, squares, names of files and classes."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from utils.core.errors import InputError
from utils.datasets.index.class_folders import load_class_data, load_class_index
from utils.datasets.tools.crops import CropsConfig, class_folder_names, crop_objects, write_crops

FRAME = np.arange(100 * 200 * 3, dtype=np.uint32).reshape(100, 200, 3)  # every pixel differs
BOX = np.array([[0.5, 0.5, 0.2, 0.2]])  # x 80-120, y 40-60


def cut(*flags: str, boxes: np.ndarray = BOX) -> list[np.ndarray]:
    config = CropsConfig.from_args(["--out", "x", *flags])
    return [crop for _, crop in crop_objects(FRAME, np.zeros(len(boxes), np.int64), boxes, config)]


def test_the_box_with_and_without_surroundings() -> None:
    assert np.array_equal(cut("--margin", "0")[0], FRAME[40:60, 80:120])
    assert np.array_equal(cut("--margin", "0.5")[0], FRAME[35:65, 70:130])
    assert np.array_equal(cut("--margin", "0", "--square")[0], FRAME[30:70, 80:120])


def test_cut_at_the_edge_and_left_out_if_small() -> None:
    corner = np.array([[0.05, 0.1, 0.1, 0.2], [0.5, 0.5, 0.04, 0.5]])
    (only,) = cut("--margin", "1", boxes=corner)
    assert np.array_equal(only, FRAME[0:30, 0:30])
    assert len(cut("--min-side", "8", boxes=corner)) == 2


def test_a_set_becomes_folders(tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "the crops"
    with caplog.at_level(logging.INFO):
        counts = write_crops(CropsConfig.from_args(["--data", str(tiny_data), "--out", str(out)]))
    index = {split: load_class_index(load_class_data(out), split) for split in ("train", "val")}
    assert counts["train"].total() == len(index["train"]) == 33  # 11 images with 3 objects each
    assert index["val"].names == {0: "disc", 1: "square"}
    per_folder = Counter(Path(path).parent.name for path in index["val"].paths)
    assert per_folder == counts["val"]
    assert f"python classify/train.py --data {out}" in caplog.text
    with pytest.raises(InputError, match="not empty; name a new folder"):
        write_crops(CropsConfig.from_args(["--data", str(tiny_data), "--out", str(out)]))


def test_class_names_become_folder_names() -> None:
    assert class_folder_names({0: "größer & heller", 1: "a/b: c?", 2: "..."}) == {
        0: "größer & heller",
        1: "a_b_ c_",
        2: "_",
    }
    with pytest.raises(InputError, match="share the folder 'a_b'"):
        class_folder_names({0: "a/b", 1: "a?b"})
