"""detect.py from the command line and from Python, on small pictures and a network with random weights."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detect
from models.checkpoint import load_checkpoint, save_checkpoint
from models.yolo import DetectionModel, SegmentationModel
from utils.datasets.image_io import imwrite, read_image
from utils.errors import InputError

Run = Callable[..., subprocess.CompletedProcess[str]]
FOUND = 3  # with --conf-thres 0 and this --max-det, random weights find exactly so many objects in each picture
FLAGS = ("--img", "64", "--conf-thres", "0", "--max-det", str(FOUND), "--device", "cpu")
OPTIONS = {"imgsz": 64, "conf_thres": 0.0, "max_det": FOUND, "device": "cpu"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained network with two classes."""
    torch.manual_seed(0)
    model = DetectionModel("yolov5n.yaml", nc=2)
    file = tmp_path_factory.mktemp("weights") / "random.pt"
    save_checkpoint(
        file,
        {
            "task": "detect",
            "yaml": model.yaml,
            "names": {0: "cat", 1: "dog/wolf"},
            "model": model.state_dict(),
            "ema": model.state_dict(),
            "epoch": 3,
            "hyp": {},
            "opt": {},
        },
    )
    return file


def picture(path: Path, size_hw: tuple[int, int] = (48, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    imwrite(path, np.random.default_rng(0).integers(0, 255, (*size_hw, 3), np.uint8))
    return path


def clip(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for k in range(frames):
        writer.write(np.full((48, 64, 3), 40 * k, np.uint8))
    writer.release()
    return path


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def rows(file: Path) -> np.ndarray:
    return np.loadtxt(file, ndmin=2)


def test_a_folder_with_a_broken_picture(weights: Path, tmp_path: Path, run_script: Run) -> None:
    pictures = tmp_path / "pictures"
    picture(pictures / "a.png")
    picture(pictures / "ünï 图.jpg", (64, 32))
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    flags = (*FLAGS, "--save-txt", "--save-conf", "--save-crop", "--save-csv", "--project", tmp_path)
    done = run_script("detect.py", "--weights", weights, "--source", pictures, *flags)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert f"passed over {pictures / 'broken.jpg'}: damaged" in done.stderr
    assert f"image 1/3 {pictures / 'a.png'}: 64x64 " in done.stderr
    assert f"image 3/3 {pictures / 'ünï 图.jpg'}: 64x32 " in done.stderr
    assert "1 of 3 inputs could not be used" in done.stderr
    assert f"Results saved to {tmp_path / 'exp'}, 2 text files in" in done.stderr
    written = files(tmp_path / "exp")
    assert [name for name in written if not name.startswith("crops/")] == [
        "a.png", "labels/a.txt", "labels/ünï 图.txt", "predictions.csv", "ünï 图.jpg"
    ]  # fmt: skip
    crops = [name for name in written if name.startswith("crops/")]
    assert crops and all(name.startswith(("crops/cat/", "crops/dog_wolf/")) for name in crops)
    found = rows(tmp_path / "exp/labels/a.txt")
    assert found.shape == (FOUND, 6)
    assert ((found[:, 1:] >= 0) & (found[:, 1:] <= 1)).all()
    assert read_image(tmp_path / "exp/ünï 图.jpg").shape == (64, 32, 3)
    assert len((tmp_path / "exp/predictions.csv").read_text().splitlines()) == 1 + 2 * FOUND


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("nowhere.jpg", "error: --source nowhere.jpg: there is no such file or folder", id="wrong-path"),
        pytest.param("0", "error: --source: 0: webcams cannot be read yet", id="webcam"),
    ],
)
def test_sources_that_cannot_be_used(source: str, message: str, tmp_path: Path, run_script: Run) -> None:
    done = run_script("detect.py", "--weights", "missing.pt", "--source", source, "--project", tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not files(tmp_path)


def test_an_empty_folder_and_one_without_a_usable_picture(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    with pytest.raises(InputError, match="the folder has no pictures or videos"):
        detect.run(weights=weights, source=folder, project=tmp_path / "runs", **OPTIONS)
    (folder / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of 1 inputs could be used; the first: .*a\.jpg: empty file"):
        detect.run(weights=weights, source=folder, project=tmp_path / "runs", **OPTIONS)


def test_a_glob_and_a_list_file(weights: Path, tmp_path: Path) -> None:
    for name in ("x/a.png", "y/b.png", "y/c.bmp"):
        picture(tmp_path / name)
    summary = detect.run(weights=weights, source=f"{tmp_path}/*/*.png", project=tmp_path / "runs", **OPTIONS)
    assert (summary.pictures, summary.problems) == (2, ())
    assert files(tmp_path / "runs") == ["exp/a.png", "exp/b.png"]
    (tmp_path / "list.txt").write_text("y/c.bmp\nx/gone.png\n")
    summary = detect.run(weights=weights, source=tmp_path / "list.txt", project=tmp_path / "runs", **OPTIONS)
    assert summary.save_dir == tmp_path / "runs/exp2"
    assert files(summary.save_dir) == ["c.bmp"]
    assert len(summary.problems) == 1 and "gone.png: No such file" in summary.problems[0]


def test_a_video(weights: Path, tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.avi", 5)
    options = {**OPTIONS, "vid_stride": 2, "save_txt": True, "save_format": 1, "project": tmp_path / "runs"}
    summary = detect.run(weights=weights, source=source, **options)
    assert summary.pictures == 3
    assert summary.save_dir is not None
    assert files(summary.save_dir) == ["clip.mp4", *(f"labels/clip_{n}.txt" for n in (1, 3, 5))]
    capture = cv2.VideoCapture(str(summary.save_dir / "clip.mp4"))
    assert [capture.get(p) for p in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS)] == [3, 5]
    capture.release()
    found = rows(summary.save_dir / "labels/clip_3.txt")
    assert found.shape == (FOUND, 5)
    assert (found[:, 3:] >= found[:, 1:3]).all()


def test_nosave_writes_nothing_and_makes_no_folder(weights: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    summary = detect.run(weights=weights, source=source, nosave=True, project=tmp_path / "runs", **OPTIONS)
    assert (summary.save_dir, summary.pictures) == (None, 1)
    assert not (tmp_path / "runs").exists()


def test_windows_without_a_screen_leave_no_folder(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    source = picture(tmp_path / "a.png")
    with pytest.raises(InputError, match="--view-img: there is no screen"):
        detect.run(weights=weights, source=source, view_img=True, project=tmp_path / "runs", **OPTIONS)
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_that_cannot_be_made(weights: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png.exp: the run folder cannot be made: .*; choose another --project"):
        detect.run(weights=weights, source=source, project=source, **OPTIONS)


def test_exist_ok_uses_the_folder_and_appends_text(weights: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    options = {**OPTIONS, "project": tmp_path / "runs", "name": "mine", "exist_ok": True, "save_txt": True}
    for _ in range(2):
        detect.run(weights=weights, source=source, **options)
    assert files(tmp_path / "runs") == ["mine/a.png", "mine/labels/a.txt"]
    assert rows(tmp_path / "runs/mine/labels/a.txt").shape == (2 * FOUND, 5)


def test_classes_keep_only_themselves(weights: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    options = {**OPTIONS, "project": tmp_path / "runs", "save_txt": True, "nosave": True}
    summary = detect.run(weights=weights, source=source, classes=1, agnostic_nms=True, augment=True, **options)
    assert summary.save_dir is not None
    assert set(rows(summary.save_dir / "labels/a.txt")[:, 0]) == {1.0}
    with pytest.raises(InputError, match="--classes 2: the model has 2 classes, 0 to 1"):
        detect.run(weights=weights, source=source, classes=[0, 2], **options)


def test_an_ensemble_gives_the_boxes_of_both(weights: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    options = {**OPTIONS, "project": tmp_path / "runs", "save_txt": True, "nosave": True}
    for files_given in ([weights], [weights, weights]):
        detect.run(weights=files_given, source=source, **options)
    one, two = (rows(tmp_path / f"runs/{name}/labels/a.txt") for name in ("exp", "exp2"))
    np.testing.assert_allclose(two, one)  # the second model's boxes are duplicates, which suppression removes


def test_feature_maps(weights: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    detect.run(weights=weights, source=source, visualize=True, nosave=True, project=tmp_path / "runs", **OPTIONS)
    written = files(tmp_path / "runs/exp/a")
    assert "stage0_Conv_features.png" in written
    assert "stage2_C3_features.npy" in written
    assert not any("Detect" in name for name in written)


def test_update_strips_the_checkpoint(weights: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pt"
    copy.write_bytes(weights.read_bytes())
    detect.run(weights=copy, source=picture(tmp_path / "a.png"), update=True, nosave=True, **OPTIONS)
    assert copy.stat().st_size < weights.stat().st_size
    assert load_checkpoint(copy).epoch == -1


def test_a_segmentation_model_is_refused(tmp_path: Path) -> None:
    model = SegmentationModel("segment/yolov5n-seg.yaml", nc=2)
    values = {"task": "segment", "yaml": model.yaml, "names": model.names, "model": model.state_dict()}
    save_checkpoint(tmp_path / "seg.pt", values)
    with pytest.raises(InputError, match=r"seg\.pt: a model of task segment; detect\.py takes detection models"):
        detect.run(weights=tmp_path / "seg.pt", source=picture(tmp_path / "a.png"), project=tmp_path, **OPTIONS)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(InputError, match="unknown option sources"):
        detect.run(sources="x")


def test_official_checkpoint_on_the_two_pictures(shared: Path, tmp_path: Path, run_script: Run) -> None:
    golden = np.load(shared / "reference" / "golden" / "yolov5n_coco.npz")
    flags = ("--save-txt", "--save-conf", "--save-format", "1", "--project", tmp_path, "--device", "cpu")
    arguments = ("--weights", shared / "weights/yolov5n.pt", "--source", shared / "data/images", *flags)
    done = run_script("detect.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert "bus.jpg: 640x480 4 persons, 1 bus, " in done.stderr
    assert "zidane.jpg: 384x640 2 persons, 1 tie, " in done.stderr
    for name in ("bus", "zidane"):
        height, width = read_image(tmp_path / f"exp/{name}.jpg").shape[:2]
        found, expected = rows(tmp_path / f"exp/labels/{name}.txt"), golden[f"{name}_nms_detect"]
        boxes = found[:, 1:5] * [width, height, width, height]
        assert found[:, 0].tolist() == expected[:, 5].tolist()
        np.testing.assert_allclose(boxes, expected[:, :4], atol=0.02)  # six digits of text; whole pixels in between
        np.testing.assert_allclose(found[:, 5], expected[:, 4], atol=1e-4)
