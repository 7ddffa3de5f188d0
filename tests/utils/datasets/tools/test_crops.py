"""Crops of a detection set: folders, margins, squares, file and class names."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from utils.config.datasets import CropsConfig
from utils.core.errors import InputError
from utils.datasets.index.class_folders import load_class_data, load_class_index
from utils.datasets.tools.crops import crop_objects, make_folder_names, run

FRAME = np.arange(100 * 200 * 3, dtype=np.uint32).reshape(100, 200, 3)  # every pixel differs
BOX = np.array([[0.5, 0.5, 0.2, 0.2]])  # x 80-120, y 40-60


def crop(*flags: str, boxes: np.ndarray = BOX) -> list[np.ndarray]:
    config = CropsConfig.from_args(["--out", "x", *flags])
    return [patch for _, patch in crop_objects(FRAME, np.zeros(len(boxes), np.int64), boxes, config)]


def test_box_with_and_without_margin() -> None:
    assert np.array_equal(crop("--margin", "0")[0], FRAME[40:60, 80:120])
    assert np.array_equal(crop("--margin", "0.5")[0], FRAME[35:65, 70:130])
    assert np.array_equal(crop("--margin", "0", "--square")[0], FRAME[30:70, 80:120])


def test_crops_are_clipped_and_small_objects_skipped() -> None:
    corner = np.array([[0.05, 0.1, 0.1, 0.2], [0.5, 0.5, 0.04, 0.5]])
    (only,) = crop("--margin", "1", boxes=corner)
    assert np.array_equal(only, FRAME[0:30, 0:30])
    assert len(crop("--min-side", "8", boxes=corner)) == 2


def test_write_crops(tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "the crops"
    with caplog.at_level(logging.INFO):
        counts = run(CropsConfig.from_args(["--data", str(tiny_data), "--out", str(out)]))
    index = {split: load_class_index(load_class_data(out), split) for split in ("train", "val")}
    assert counts["train"].total() == len(index["train"]) == 33  # 11 images with 3 objects each
    assert index["val"].names == {0: "disc", 1: "square"}
    per_folder = Counter(Path(path).parent.name for path in index["val"].paths)
    assert per_folder == counts["val"]
    assert f"python classify/train.py --data {out}" in caplog.text
    with pytest.raises(InputError, match="is not empty; give a new folder"):
        run(CropsConfig.from_args(["--data", str(tiny_data), "--out", str(out)]))


def test_class_names_become_folder_names() -> None:
    assert make_folder_names({0: "größer & heller", 1: "a/b: c?", 2: "..."}) == {
        0: "größer & heller",
        1: "a_b_ c_",
        2: "_",
    }
    with pytest.raises(InputError, match="share the folder 'a_b'"):
        make_folder_names({0: "a/b", 1: "a?b"})
