"""detect.py from the command line and from Python, on small images and a network with random weights."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detect
import export
from models.checkpoint import load_checkpoint, save_checkpoint
from models.yolo import DetectionModel
from tests.live_servers import MjpegServer, RtspServer
from utils.config.base import ROOT
from utils.config.detect import DetectConfig
from utils.core.errors import InputError
from utils.imaging.read import imwrite, read_image
from utils.predict.run import names_of_data

Run = Callable[..., subprocess.CompletedProcess[str]]
FOUND = 3  # with --conf-thres 0 and this --max-det, random weights find exactly so many objects in each image
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


def image(path: Path, size_hw: tuple[int, int] = (48, 64)) -> Path:
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


def test_a_folder_with_a_broken_image(weights: Path, tmp_path: Path, run_script: Run) -> None:
    images = tmp_path / "images"
    image(images / "a.png")
    image(images / "ünï 图.jpg", (64, 32))
    (images / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    flags = (*FLAGS, "--save-txt", "--save-conf", "--save-crop", "--save-csv", "--project", tmp_path)
    done = run_script("detect.py", "--weights", weights, "--source", images, *flags)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert f"passed over {images / 'broken.jpg'}: damaged" in done.stderr
    assert f"image 1/3 {images / 'a.png'}: 64x64 " in done.stderr
    assert f"image 3/3 {images / 'ünï 图.jpg'}: 64x32 " in done.stderr
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
        pytest.param("96", "error: webcam 96: cannot be opened: there is no such camera", id="webcam"),
        pytest.param(
            "http://127.0.0.1:1/live", "error: HTTP stream http://127.0.0.1:1/live: cannot be op", id="stream"
        ),
        pytest.param("screen 1 2", "error: --source screen 1 2: expected screen [N] [left", id="screen"),
    ],
)
def test_sources_that_cannot_be_used(source: str, message: str, tmp_path: Path, run_script: Run) -> None:
    done = run_script("detect.py", "--weights", "missing.pt", "--source", source, "--project", tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not files(tmp_path)


def test_an_empty_folder_and_one_without_a_usable_image(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    with pytest.raises(InputError, match="the folder has no images or videos"):
        detect.run(weights=weights, source=folder, project=tmp_path / "runs", **OPTIONS)
    (folder / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of 1 inputs could be used; the first: .*a\.jpg: empty file"):
        detect.run(weights=weights, source=folder, project=tmp_path / "runs", **OPTIONS)


def test_a_glob_and_a_list_file(weights: Path, tmp_path: Path) -> None:
    for name in ("x/a.png", "y/b.png", "y/c.bmp"):
        image(tmp_path / name)
    summary = detect.run(weights=weights, source=f"{tmp_path}/*/*.png", project=tmp_path / "runs", **OPTIONS)
    assert (summary.images, summary.problems) == (2, ())
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
    assert summary.images == 3
    assert summary.save_dir is not None
    assert files(summary.save_dir) == ["clip.mp4", *(f"labels/clip_{n}.txt" for n in (1, 3, 5))]
    capture = cv2.VideoCapture(str(summary.save_dir / "clip.mp4"))
    assert [capture.get(p) for p in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS)] == [3, 5]
    capture.release()
    found = rows(summary.save_dir / "labels/clip_3.txt")
    assert found.shape == (FOUND, 5)
    assert (found[:, 3:] >= found[:, 1:3]).all()


def test_nosave_writes_nothing_and_makes_no_folder(weights: Path, tmp_path: Path) -> None:
    source = image(tmp_path / "a.png")
    summary = detect.run(weights=weights, source=source, nosave=True, project=tmp_path / "runs", **OPTIONS)
    assert (summary.save_dir, summary.images) == (None, 1)
    assert not (tmp_path / "runs").exists()


def test_windows_without_a_screen_leave_no_folder(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    source = image(tmp_path / "a.png")
    with pytest.raises(InputError, match="--view-img: there is no screen"):
        detect.run(weights=weights, source=source, view_img=True, project=tmp_path / "runs", **OPTIONS)
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_that_cannot_be_made(weights: Path, tmp_path: Path) -> None:
    source = image(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png.exp: the run folder cannot be made: .*; choose another --project"):
        detect.run(weights=weights, source=source, project=source, **OPTIONS)


def test_exist_ok_uses_the_folder_and_appends_text(weights: Path, tmp_path: Path) -> None:
    source = image(tmp_path / "a.png")
    options = {**OPTIONS, "project": tmp_path / "runs", "name": "mine", "exist_ok": True, "save_txt": True}
    for _ in range(2):
        detect.run(weights=weights, source=source, **options)
    assert files(tmp_path / "runs") == ["mine/a.png", "mine/labels/a.txt"]
    assert rows(tmp_path / "runs/mine/labels/a.txt").shape == (2 * FOUND, 5)


def test_classes_keep_only_themselves(weights: Path, tmp_path: Path) -> None:
    source = image(tmp_path / "a.png")
    options = {**OPTIONS, "project": tmp_path / "runs", "save_txt": True, "nosave": True}
    summary = detect.run(weights=weights, source=source, classes=1, agnostic_nms=True, augment=True, **options)
    assert summary.save_dir is not None
    assert set(rows(summary.save_dir / "labels/a.txt")[:, 0]) == {1.0}
    with pytest.raises(InputError, match="--classes 2: the model has 2 classes, 0 to 1"):
        detect.run(weights=weights, source=source, classes=[0, 2], **options)


def test_an_ensemble_gives_the_boxes_of_both(weights: Path, tmp_path: Path) -> None:
    source = image(tmp_path / "a.png")
    options = {**OPTIONS, "project": tmp_path / "runs", "save_txt": True, "nosave": True}
    for files_given in ([weights], [weights, weights]):
        detect.run(weights=files_given, source=source, **options)
    one, two = (rows(tmp_path / f"runs/{name}/labels/a.txt") for name in ("exp", "exp2"))
    np.testing.assert_allclose(two, one)  # the second model's boxes are duplicates, which suppression removes


def test_feature_maps(weights: Path, tmp_path: Path) -> None:
    source = image(tmp_path / "a.png")
    detect.run(weights=weights, source=source, visualize=True, nosave=True, project=tmp_path / "runs", **OPTIONS)
    written = files(tmp_path / "runs/exp/a")
    assert "stage0_Conv_features.png" in written
    assert "stage2_C3_features.npy" in written
    assert not any("Detect" in name for name in written)


def test_update_strips_the_checkpoint(weights: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pt"
    copy.write_bytes(weights.read_bytes())
    detect.run(weights=copy, source=image(tmp_path / "a.png"), update=True, nosave=True, **OPTIONS)
    assert copy.stat().st_size < weights.stat().st_size
    assert load_checkpoint(copy).epoch == -1


def test_only_checkpoints_can_be_stripped() -> None:
    with pytest.raises(InputError, match=r"--update: strips \.pt checkpoints, not model\.onnx"):
        detect.run(weights="model.onnx", update=True, **OPTIONS)


def test_files_without_names_get_those_of_the_data(tmp_path: Path) -> None:
    assert (names_of_data(DetectConfig()) or {})[0] == "person"
    assert names_of_data(DetectConfig(data="gone.yaml")) is None
    (tmp_path / "mine.yaml").write_text("train: a\nval: b\nnames: [bolt, nut]\n")
    config = DetectConfig.from_kwargs(data=str(tmp_path / "mine.yaml"))
    assert names_of_data(config) == {0: "bolt", 1: "nut"}
    with pytest.raises(InputError, match=r"gone\.yaml"):
        names_of_data(DetectConfig.from_kwargs(data="gone.yaml"))


def test_an_exported_file_of_one_size_finds_the_same(weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX files need the package onnxruntime")
    (tmp_path / "random.pt").write_bytes(weights.read_bytes())
    export.run(weights=tmp_path / "random.pt", include=["onnx"], imgsz=[64])
    image(tmp_path / "in/a.png", (64, 64))  # the networks see the same where nothing has to be padded
    image(tmp_path / "in/b.png", (48, 80))
    options = {**OPTIONS, "source": tmp_path / "in", "save_txt": True, "save_conf": True, "project": tmp_path}
    for name in ("pt", "onnx"):
        detect.run(weights=tmp_path / f"random.{name}", name=name, **options)
    one, other = (rows(tmp_path / name / "labels/a.txt") for name in ("pt", "onnx"))
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert rows(tmp_path / "onnx/labels/b.txt").shape == (FOUND, 6)
    assert files(tmp_path / "onnx") == ["a.png", "b.png", "labels/a.txt", "labels/b.txt"]


def test_line_thickness_labels_and_scores_change_the_drawing_only(weights: Path, tmp_path: Path) -> None:
    source = image(tmp_path / "a.png", (96, 128))
    looks: list[dict[str, object]] = [{}, {"line_thickness": 9}, {"hide_labels": True}, {"hide_conf": True}]
    drawings, texts = [], []
    for number, look in enumerate(looks):
        options = {**OPTIONS, **look, "save_txt": True, "project": tmp_path, "name": f"run{number}"}
        detect.run(weights=weights, source=source, **options)
        drawings.append(read_image(tmp_path / f"run{number}/a.png"))
        texts.append((tmp_path / f"run{number}/labels/a.txt").read_text())
    assert len(set(texts)) == 1
    assert all((a != b).any() for i, a in enumerate(drawings) for b in drawings[i + 1 :])


# -- live sources -----------------------------------------------------------------------------------------------------


class Running:
    """detect.py in a process of its own, whose log can be waited for and which is ended by Ctrl-C."""

    def __init__(self, *arguments: object, cwd: Path, stdin: int | None = None) -> None:
        command = [sys.executable, str(ROOT / "detect.py"), *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd=cwd, stdin=stdin, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def wait_for(self, text: str, times: int = 1) -> None:
        """Read the log until `text` has been in so many further lines."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            times -= text in line
            if not times:
                return
        pytest.fail(f"no {text!r} in:\n{''.join(self.log)}")

    def interrupt(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        self.log.append(self.process.communicate(timeout=30)[1])
        return self.process.returncode


no_signals = pytest.mark.skipif(sys.platform == "win32", reason="sends Ctrl-C as POSIX does")


@no_signals
def test_two_streams_one_cut_and_ctrl_c(weights: Path, tmp_path: Path) -> None:
    with MjpegServer() as web, RtspServer(size_hw=(64, 96)) as camera:
        (tmp_path / "two.streams").write_text(f"{web.url}\n{camera.url}\n")
        flags = (*FLAGS, "--save-csv", "--save-crop", "--project", tmp_path)
        with Running("--weights", weights, "--source", "two.streams", *flags, cwd=tmp_path) as run:
            run.wait_for("HTTP stream 1/2 (frame ", 5)
            run.wait_for("RTSP stream 2/2 (frame ", 5)
            camera.cut()
            run.wait_for(f"WARNING: RTSP stream {camera.url}: lost after ")
            run.wait_for("HTTP stream 1/2 (frame ", 3)
            camera.resume()
            run.wait_for("RTSP stream 2/2 (frame ", 3)
            assert run.interrupt() == 0, run.log
    assert f"Results saved to {tmp_path / 'exp'}" in run.log[-1] and "Traceback" not in run.log[-1]
    names = [f"127_0_0_1_{server.server_address[1]}_live" for server in (web, camera)]
    assert sorted(p.name for p in (tmp_path / "exp").glob("*.mp4")) == sorted(f"{name}.mp4" for name in names)
    for name, (height, width) in zip(names, [(96, 128), (64, 96)], strict=True):
        capture = cv2.VideoCapture(str(tmp_path / f"exp/{name}.mp4"))
        shape = [capture.get(p) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
        assert shape == [width, height] and capture.get(cv2.CAP_PROP_FRAME_COUNT) >= 3
        capture.release()


@no_signals
def test_a_silent_server_does_not_hold_up_ctrl_c(weights: Path, tmp_path: Path) -> None:
    with RtspServer() as camera:
        with Running("--weights", weights, "--source", camera.url, *FLAGS, "--nosave", cwd=tmp_path) as run:
            run.wait_for("RTSP stream 1/1 (frame ", 2)
            camera.stall()
            assert run.interrupt() == 0, run.log
        assert "ended by Ctrl-C" in run.log[-1]


def test_streams_that_stay_dead_end_the_run_with_status_1(weights: Path, tmp_path: Path) -> None:
    flags = (*FLAGS, "--nosave", "--stream-timeout", "0.5")
    with MjpegServer() as web, Running("--weights", weights, "--source", web.url, *flags, cwd=tmp_path) as run:
        run.wait_for("HTTP stream 1/1 (frame ", 2)
        web.cut()
        run.wait_for("no frame from any of 1 streams for ")
        assert run.process.wait(30) == 1


@no_signals
def test_a_watched_folder_from_the_command_line(weights: Path, tmp_path: Path) -> None:
    image(tmp_path / "in/a.png")
    flags = (*FLAGS, "--watch", "--project", tmp_path / "in", "--save-txt")
    with Running("--weights", weights, "--source", "in", *flags, cwd=tmp_path) as run:
        run.wait_for("image 1 in/a.png: ")
        image(tmp_path / "in/b.png")
        run.wait_for("image 2 in/b.png: ")
        assert run.interrupt() == 0, run.log
    assert files(tmp_path / "in/exp") == ["a.png", "b.png", "labels/a.txt", "labels/b.txt"]


def test_a_list_on_standard_input(weights: Path, tmp_path: Path) -> None:
    flags = (*FLAGS, "--project", tmp_path)
    with Running("--weights", weights, "--source", "-", *flags, cwd=tmp_path, stdin=subprocess.PIPE) as run:
        assert run.process.stdin is not None
        run.process.stdin.write(f"{image(tmp_path / 'a.png')}\n")
        run.process.stdin.flush()
        run.wait_for("image 1 ")
        run.process.stdin.close()
        assert run.process.wait(30) == 0
    assert files(tmp_path / "exp") == ["a.png"]


def test_nothing_on_standard_input(weights: Path, tmp_path: Path) -> None:
    flags = (*FLAGS, "--nosave")
    with Running("--weights", weights, "--source", "-", *flags, cwd=tmp_path, stdin=subprocess.DEVNULL) as run:
        assert run.process.wait(60) == 2
        assert run.process.stderr is not None
        assert "there were no paths on standard input" in run.process.stderr.read()


def test_unknown_options_are_refused() -> None:
    with pytest.raises(InputError, match="unknown option sources"):
        detect.run(sources="x")


def test_official_checkpoint_on_the_two_images(shared: Path, tmp_path: Path, run_script: Run) -> None:
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
