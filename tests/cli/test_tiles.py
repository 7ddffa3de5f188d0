"""`--tile` of detect.py, val.py, train.py and the hub, with the official checkpoint and with random weights."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

import detect
import hubconf
import val
from tests.detect_process import save_random_weights
from utils.core.errors import InputError
from utils.imaging.read import imwrite, read_image

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_weights(tmp_path_factory.mktemp("weights") / "random.pt")


@pytest.fixture(scope="module")
def street(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A data set of one image of 1,920 x 2,560 pixels with six small buses, and their boxes (6, 4)."""
    folder = tmp_path_factory.mktemp("street")
    bus = cv2.resize(read_image(shared / "data/images/bus.jpg"), (162, 216), interpolation=cv2.INTER_AREA)
    canvas = np.full((1920, 2560, 3), 114, np.uint8)
    boxes, lines = [], []
    for number in range(6):
        x, y = 40 + number % 3 * 830, 60 + number // 3 * 950
        canvas[y : y + 216, x : x + 162] = bus
        boxes.append((x + 4, y + 45, x + 161, y + 155))
        x1, y1, x2, y2 = boxes[-1]
        lines.append(f"5 {(x1 + x2) / 2 / 2560} {(y1 + y2) / 2 / 1920} {(x2 - x1) / 2560} {(y2 - y1) / 1920}\n")
    (folder / "labels").mkdir()
    (folder / "images").mkdir()
    imwrite(folder / "images/street.png", canvas)
    (folder / "labels/street.txt").write_text("".join(lines))
    names = dict(enumerate(hubconf.custom(str(shared / "weights/yolov5n.pt"), _verbose=False).names.values()))
    content = {"path": ".", "train": "images", "val": "images", "names": names}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder, np.array(boxes)


def test_small_objects_of_a_large_image(street: tuple[Path, np.ndarray], shared: Path, tmp_path: Path) -> None:
    """Each bus becomes one box, also those over seams; the files say the same."""
    folder, boxes = street
    options = {"weights": shared / "weights/yolov5n.pt", "source": folder / "images", "classes": 5, "device": "cpu"}
    summary = detect.run(**options, tile=320, save_txt=True, save_csv=True, save_crop=True, project=tmp_path)
    rows = np.loadtxt(summary.save_dir / "labels/street.txt")
    assert len(rows) == 6 and len(list((summary.save_dir / "crops/bus").iterdir())) == 6
    x, y, w, h = (rows[:, 1:] * [2560, 1920, 2560, 1920]).T
    found = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)
    distance = np.abs(found[:, None] - boxes[None]).max(axis=2)
    assert sorted(distance.argmin(axis=1)) == list(range(6)) and distance.min(axis=1).max() < 20
    assert read_image(summary.save_dir / "street.png").shape == (1920, 2560, 3)


def test_hub_and_val_agree(street: tuple[Path, np.ndarray], shared: Path, tmp_path: Path) -> None:
    folder, boxes = street
    model = hubconf.custom(str(shared / "weights/yolov5n.pt"), _verbose=False)
    model.classes = [5]
    rows = model(str(folder / "images/street.png"), tile=320).xyxy[0]
    assert len(rows) == 6
    distance = np.abs(rows[:, None, :4].numpy() - boxes[None]).max(axis=2)
    assert sorted(distance.argmin(axis=1)) == list(range(6))
    assert len(model(str(folder / "images/street.png")).xyxy[0]) < 6  # shrunk to 640 pixels
    options = {"data": folder / "data.yaml", "weights": shared / "weights/yolov5n.pt", "workers": 0, "noplots": True}
    tiled, whole = (
        val.run(**options, tile=tile, project=tmp_path, device="cpu", conf_thres=0.1)[0] for tile in (320, None)
    )
    assert tiled[1] == 1.0 and tiled[2] > whole[2]  # recall, mAP50


def test_details_of_tiles(weights: Path, tmp_path: Path) -> None:
    """Gray, 16-bit and tiny images; tiles without overlap and with the whole image."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    imwrite(tmp_path / "in/gray.png", rng.integers(0, 255, (150, 200), np.uint8))
    cv2.imwrite(str(tmp_path / "in/deep.png"), rng.integers(0, 65535, (150, 200, 3), dtype=np.uint16))
    cv2.imwrite(str(tmp_path / "in/tiny.png"), rng.integers(0, 255, (3, 2, 3), dtype=np.uint8))
    for merge in ("nms", "wbf", "ios"):
        summary = detect.run(
            weights=weights,
            source=tmp_path / "in",
            imgsz=64,
            conf_thres=0.0,
            max_det=20,
            tile=True,
            tile_overlap=0.0,
            tile_full=True,
            tile_merge=merge,
            project=tmp_path / "out",
            device="cpu",
        )
        assert summary.images == 3 and not summary.problems


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--tile", "64", "--tile-overlap", "1"), "1 must be at least 0 and below 1"),
        (("--tile", "0"), "0 must be at least 1"),
        (("--tile-full",), "--tile-full has no effect without --tile; add --tile, or leave --tile-full out"),
        (("--tile", "64", "--visualize"), "--visualize and --tile cannot be combined"),
        (("--tile", "64", "--tile-merge", "soft"), "invalid choice: 'soft'"),
    ],
)
def test_bad_flags(flags: tuple[str, ...], message: str, run_script: Run, weights: Path, tmp_path: Path) -> None:
    done = run_script("detect.py", "--weights", weights, "--source", tmp_path, *flags)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("task", ["speed", "study"])
def test_benchmark_modes_have_no_tiles(task: str, weights: Path, tiny_data: Path) -> None:
    with pytest.raises(InputError, match=f"--tile and --task {task} cannot be combined"):
        val.run(weights=weights, data=tiny_data, task=task, tile=64, device="cpu")
