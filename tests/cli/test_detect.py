"""detect.py from the command line and from Python, on small images and a network with random weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import detect
import export
from tests.detect_process import FLAGS, NUM_DETECTIONS, DetectProcess, save_random_weights
from tests.live_servers import MjpegServer, RtspServer
from utils.config.detect import DetectConfig
from utils.core.errors import InputError
from utils.imaging.read import imwrite, read_image
from utils.predict.run import load_class_names
from utils.tasks.networks import load_checkpoint

Run = Callable[..., subprocess.CompletedProcess[str]]
OPTIONS = {"imgsz": 64, "conf_thres": 0.0, "max_det": NUM_DETECTIONS, "device": "cpu"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_weights(tmp_path_factory.mktemp("weights") / "random.pt")


def write_image(path: Path, size_hw: tuple[int, int] = (48, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    imwrite(path, np.random.default_rng(0).integers(0, 255, (*size_hw, 3), np.uint8))
    return path


def write_clip(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for k in range(frames):
        writer.write(np.full((48, 64, 3), 40 * k, np.uint8))
    writer.release()
    return path


def list_files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def read_rows(file: Path) -> np.ndarray:
    return np.loadtxt(file, ndmin=2)


def test_folder_with_a_damaged_image(weights: Path, tmp_path: Path, run_script: Run) -> None:
    images = tmp_path / "images"
    write_image(images / "a.png")
    write_image(images / "ünï 图.jpg", (64, 32))
    (images / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    flags = (*FLAGS, "--save-txt", "--save-conf", "--save-crop", "--save-csv", "--project", tmp_path)
    result = run_script("detect.py", "--weights", weights, "--source", images, *flags)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert f"skipped {images / 'broken.jpg'}: damaged" in result.stderr
    assert f"image 1/3 {images / 'a.png'}: 64x64 " in result.stderr
    assert f"image 3/3 {images / 'ünï 图.jpg'}: 64x32 " in result.stderr
    assert "1 of 3 inputs had problems" in result.stderr
    assert f"Results saved to {tmp_path / 'exp'}, 2 text files in" in result.stderr
    written = list_files(tmp_path / "exp")
    assert [name for name in written if not name.startswith("crops/")] == [
        "a.png", "labels/a.txt", "labels/ünï 图.txt", "predictions.csv", "ünï 图.jpg"
    ]  # fmt: skip
    crops = [name for name in written if name.startswith("crops/")]
    assert crops and all(name.startswith(("crops/cat/", "crops/dog_wolf/")) for name in crops)
    labels = read_rows(tmp_path / "exp/labels/a.txt")
    assert labels.shape == (NUM_DETECTIONS, 6)
    assert ((labels[:, 1:] >= 0) & (labels[:, 1:] <= 1)).all()
    assert read_image(tmp_path / "exp/ünï 图.jpg").shape == (64, 32, 3)
    assert len((tmp_path / "exp/predictions.csv").read_text().splitlines()) == 1 + 2 * NUM_DETECTIONS


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("nowhere.jpg", "error: --source nowhere.jpg: no such file or folder", id="wrong-path"),
        pytest.param("96", "error: webcam 96: cannot be opened: no such camera", id="webcam"),
        pytest.param(
            "http://127.0.0.1:1/live", "error: HTTP stream http://127.0.0.1:1/live: cannot be op", id="stream"
        ),
        pytest.param("screen 1 2", "error: --source screen 1 2: expected screen [N] [left", id="screen"),
    ],
)
def test_unusable_sources_are_refused(source: str, message: str, tmp_path: Path, run_script: Run) -> None:
    result = run_script("detect.py", "--weights", "missing.pt", "--source", source, "--project", tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list_files(tmp_path)


def test_folder_without_usable_images_is_refused(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    with pytest.raises(InputError, match="the folder has no images or videos"):
        detect.run(weights=weights, source=folder, project=tmp_path / "runs", **OPTIONS)
    (folder / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of 1 inputs could be read; the first: .*a\.jpg: empty file"):
        detect.run(weights=weights, source=folder, project=tmp_path / "runs", **OPTIONS)


def test_glob_and_list_file(weights: Path, tmp_path: Path) -> None:
    for name in ("x/a.png", "y/b.png", "y/c.bmp"):
        write_image(tmp_path / name)
    summary = detect.run(weights=weights, source=f"{tmp_path}/*/*.png", project=tmp_path / "runs", **OPTIONS)
    assert (summary.images, summary.problems) == (2, ())
    assert list_files(tmp_path / "runs") == ["exp/a.png", "exp/b.png"]
    (tmp_path / "list.txt").write_text("y/c.bmp\nx/gone.png\n")
    summary = detect.run(weights=weights, source=tmp_path / "list.txt", project=tmp_path / "runs", **OPTIONS)
    assert summary.save_dir == tmp_path / "runs/exp2"
    assert list_files(summary.save_dir) == ["c.bmp"]
    assert len(summary.problems) == 1 and "gone.png: No such file" in summary.problems[0]


def test_video(weights: Path, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "clip.avi", 5)
    options = {**OPTIONS, "vid_stride": 2, "save_txt": True, "save_format": 1, "project": tmp_path / "runs"}
    summary = detect.run(weights=weights, source=source, **options)
    assert summary.images == 2
    assert summary.save_dir is not None
    assert list_files(summary.save_dir) == ["clip.mp4", "labels/clip_1.txt", "labels/clip_2.txt"]
    capture = cv2.VideoCapture(str(summary.save_dir / "clip.mp4"))
    assert [capture.get(p) for p in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS)] == [2, 5]
    capture.release()
    labels = read_rows(summary.save_dir / "labels/clip_2.txt")
    assert labels.shape == (NUM_DETECTIONS, 5)
    assert (labels[:, 3:] >= labels[:, 1:3]).all()


def test_nosave_makes_no_run_folder(weights: Path, tmp_path: Path) -> None:
    source = write_image(tmp_path / "a.png")
    summary = detect.run(weights=weights, source=source, nosave=True, project=tmp_path / "runs", **OPTIONS)
    assert (summary.save_dir, summary.images) == (None, 1)
    assert not (tmp_path / "runs").exists()


def test_view_img_without_a_display_makes_no_run_folder(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    source = write_image(tmp_path / "a.png")
    with pytest.raises(InputError, match="--view-img: no display"):
        detect.run(weights=weights, source=source, view_img=True, project=tmp_path / "runs", **OPTIONS)
    assert not (tmp_path / "runs").exists()


def test_run_folder_that_cannot_be_made(weights: Path, tmp_path: Path) -> None:
    source = write_image(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png.*: the run folder cannot be created: .*; choose another --project"):
        detect.run(weights=weights, source=source, project=source, **OPTIONS)


def test_exist_ok_uses_the_folder_and_appends_text(weights: Path, tmp_path: Path) -> None:
    source = write_image(tmp_path / "a.png")
    options = {**OPTIONS, "project": tmp_path / "runs", "name": "mine", "exist_ok": True, "save_txt": True}
    for _ in range(2):
        detect.run(weights=weights, source=source, **options)
    assert list_files(tmp_path / "runs") == ["mine/a.png", "mine/labels/a.txt"]
    assert read_rows(tmp_path / "runs/mine/labels/a.txt").shape == (2 * NUM_DETECTIONS, 5)


def test_classes_filters_detections(weights: Path, tmp_path: Path) -> None:
    source = write_image(tmp_path / "a.png")
    options = {**OPTIONS, "project": tmp_path / "runs", "save_txt": True, "nosave": True}
    summary = detect.run(weights=weights, source=source, classes=1, agnostic_nms=True, augment=True, **options)
    assert summary.save_dir is not None
    assert set(read_rows(summary.save_dir / "labels/a.txt")[:, 0]) == {1.0}
    with pytest.raises(InputError, match="--classes 2: the model has 2 classes, 0 to 1"):
        detect.run(weights=weights, source=source, classes=[0, 2], **options)


def test_ensemble_of_two_equal_models(weights: Path, tmp_path: Path) -> None:
    source = write_image(tmp_path / "a.png")
    options = {**OPTIONS, "project": tmp_path / "runs", "save_txt": True, "nosave": True}
    for checkpoints in ([weights], [weights, weights]):
        detect.run(weights=checkpoints, source=source, **options)
    one, two = (read_rows(tmp_path / f"runs/{name}/labels/a.txt") for name in ("exp", "exp2"))
    np.testing.assert_allclose(two, one)  # NMS removes the duplicate boxes of the second model


def test_feature_maps(weights: Path, tmp_path: Path) -> None:
    source = write_image(tmp_path / "a.png")
    detect.run(weights=weights, source=source, visualize=True, nosave=True, project=tmp_path / "runs", **OPTIONS)
    written = list_files(tmp_path / "runs/exp/a")
    assert "stage0_Conv_features.png" in written
    assert "stage2_C3_features.npy" in written
    assert not any("Detect" in name for name in written)


def test_update_strips_the_checkpoint(weights: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pt"
    copy.write_bytes(weights.read_bytes())
    detect.run(weights=copy, source=write_image(tmp_path / "a.png"), update=True, nosave=True, **OPTIONS)
    assert copy.stat().st_size < weights.stat().st_size
    assert load_checkpoint(copy).epoch == -1


def test_only_checkpoints_can_be_stripped() -> None:
    with pytest.raises(InputError, match=r"--update: strips \.pt checkpoints, not model\.onnx"):
        detect.run(weights="model.onnx", update=True, **OPTIONS)


def test_class_names_from_the_data_yaml(tmp_path: Path) -> None:
    assert (load_class_names(DetectConfig()) or {})[0] == "person"
    assert load_class_names(DetectConfig(data="gone.yaml")) is None
    (tmp_path / "mine.yaml").write_text("train: a\nval: b\nnames: [bolt, nut]\n")
    config = DetectConfig.from_kwargs(data=str(tmp_path / "mine.yaml"))
    assert load_class_names(config) == {0: "bolt", 1: "nut"}
    with pytest.raises(InputError, match=r"gone\.yaml"):
        load_class_names(DetectConfig.from_kwargs(data="gone.yaml"))


def test_fixed_size_export_gives_the_same_detections(weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX files need the package onnxruntime")
    (tmp_path / "random.pt").write_bytes(weights.read_bytes())
    export.run(weights=tmp_path / "random.pt", include=["onnx"], imgsz=[64])
    write_image(tmp_path / "in/a.png", (64, 64))  # equal inputs: no padding
    write_image(tmp_path / "in/b.png", (48, 80))
    options = {**OPTIONS, "source": tmp_path / "in", "save_txt": True, "save_conf": True, "project": tmp_path}
    for name in ("pt", "onnx"):
        detect.run(weights=tmp_path / f"random.{name}", name=name, **options)
    one, other = (read_rows(tmp_path / name / "labels/a.txt") for name in ("pt", "onnx"))
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert read_rows(tmp_path / "onnx/labels/b.txt").shape == (NUM_DETECTIONS, 6)
    assert list_files(tmp_path / "onnx") == ["a.png", "b.png", "labels/a.txt", "labels/b.txt"]


def test_drawing_options_change_only_the_image(weights: Path, tmp_path: Path) -> None:
    source = write_image(tmp_path / "a.png", (96, 128))
    styles: list[dict[str, object]] = [{}, {"line_thickness": 9}, {"hide_labels": True}, {"hide_conf": True}]
    drawings, texts = [], []
    for number, style in enumerate(styles):
        options = {**OPTIONS, **style, "save_txt": True, "project": tmp_path, "name": f"run{number}"}
        detect.run(weights=weights, source=source, **options)
        drawings.append(read_image(tmp_path / f"run{number}/a.png"))
        texts.append((tmp_path / f"run{number}/labels/a.txt").read_text())
    assert len(set(texts)) == 1
    assert all((a != b).any() for i, a in enumerate(drawings) for b in drawings[i + 1 :])


# -- live sources -----------------------------------------------------------------------------------------------------


needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@needs_posix
def test_two_streams_with_an_interruption_and_ctrl_c(weights: Path, tmp_path: Path) -> None:
    with MjpegServer() as web, RtspServer(size_hw=(64, 96)) as camera:
        (tmp_path / "two.streams").write_text(f"{web.url}\n{camera.url}\n")
        flags = (*FLAGS, "--save-csv", "--save-crop", "--project", tmp_path)
        with DetectProcess("--weights", weights, "--source", "two.streams", *flags, cwd=tmp_path) as run:
            run.wait_for("HTTP stream 1/2 (frame ", 5)
            run.wait_for("RTSP stream 2/2 (frame ", 5)
            camera.cut()
            run.wait_for(f"WARNING: RTSP stream {camera.url}: lost after ")
            run.wait_for("HTTP stream 1/2 (frame ", 3)
            camera.resume()
            run.wait_for("RTSP stream 2/2 (frame ", 3)
            assert run.stop() == 0, run.log
    assert f"Results saved to {tmp_path / 'exp'}" in run.log[-1] and "Traceback" not in run.log[-1]
    names = [f"127_0_0_1_{server.server_address[1]}_live" for server in (web, camera)]
    assert sorted(p.name for p in (tmp_path / "exp").glob("*.mp4")) == sorted(f"{name}.mp4" for name in names)
    for name, (height, width) in zip(names, [(96, 128), (64, 96)], strict=True):
        capture = cv2.VideoCapture(str(tmp_path / f"exp/{name}.mp4"))
        shape = [capture.get(p) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
        assert shape == [width, height] and capture.get(cv2.CAP_PROP_FRAME_COUNT) >= 3
        capture.release()


@needs_posix
def test_ctrl_c_with_a_silent_server(weights: Path, tmp_path: Path) -> None:
    with RtspServer() as camera:
        with DetectProcess("--weights", weights, "--source", camera.url, *FLAGS, "--nosave", cwd=tmp_path) as run:
            run.wait_for("RTSP stream 1/1 (frame ", 2)
            camera.stall()
            assert run.stop() == 0, run.log
        assert "stopped by Ctrl-C" in run.log[-1]


def test_dead_streams_end_with_status_1(weights: Path, tmp_path: Path) -> None:
    flags = (*FLAGS, "--nosave", "--stream-timeout", "0.5")
    with MjpegServer() as web, DetectProcess("--weights", weights, "--source", web.url, *flags, cwd=tmp_path) as run:
        run.wait_for("HTTP stream 1/1 (frame ", 2)
        web.cut()
        run.wait_for("no frame from any of 1 streams for ")
        assert run.process.wait(30) == 1


@needs_posix
def test_watched_folder(weights: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "in/a.png")
    flags = (*FLAGS, "--watch", "--project", tmp_path / "in", "--save-txt")
    with DetectProcess("--weights", weights, "--source", "in", *flags, cwd=tmp_path) as run:
        run.wait_for("image 1 in/a.png: ")
        write_image(tmp_path / "in/b.png")
        run.wait_for("image 2 in/b.png: ")
        assert run.stop() == 0, run.log
    assert list_files(tmp_path / "in/exp") == ["a.png", "b.png", "labels/a.txt", "labels/b.txt"]


def test_paths_on_standard_input(weights: Path, tmp_path: Path) -> None:
    flags = (*FLAGS, "--project", tmp_path)
    with DetectProcess("--weights", weights, "--source", "-", *flags, cwd=tmp_path, stdin=subprocess.PIPE) as run:
        assert run.process.stdin is not None
        run.process.stdin.write(f"{write_image(tmp_path / 'a.png')}\n")
        run.process.stdin.flush()
        run.wait_for("image 1 ")
        run.process.stdin.close()
        assert run.process.wait(30) == 0
    assert list_files(tmp_path / "exp") == ["a.png"]


def test_empty_standard_input_is_refused(weights: Path, tmp_path: Path) -> None:
    flags = (*FLAGS, "--nosave")
    with DetectProcess("--weights", weights, "--source", "-", *flags, cwd=tmp_path, stdin=subprocess.DEVNULL) as run:
        assert run.process.wait(60) == 2
        assert run.process.stderr is not None
        assert "--source: standard input lists no images" in run.process.stderr.read()


def test_unknown_options_are_refused() -> None:
    with pytest.raises(InputError, match="unknown option sources"):
        detect.run(sources="x")


def test_official_checkpoint_on_two_images(shared: Path, tmp_path: Path, run_script: Run) -> None:
    golden = np.load(shared / "reference" / "golden" / "yolov5n_coco.npz")
    flags = ("--save-txt", "--save-conf", "--save-format", "1", "--project", tmp_path, "--device", "cpu")
    arguments = ("--weights", shared / "weights/yolov5n.pt", "--source", shared / "data/images", *flags)
    result = run_script("detect.py", *arguments)
    assert result.returncode == 0, result.stderr
    assert "bus.jpg: 640x480 4 persons, 1 bus, " in result.stderr
    assert "zidane.jpg: 384x640 2 persons, 1 tie, " in result.stderr
    for name in ("bus", "zidane"):
        height, width = read_image(tmp_path / f"exp/{name}.jpg").shape[:2]
        labels, expected = read_rows(tmp_path / f"exp/labels/{name}.txt")[::-1], golden[f"{name}_nms_detect"]
        boxes = labels[:, 1:5] * [width, height, width, height]
        assert labels[:, 0].tolist() == expected[:, 5].tolist()
        np.testing.assert_allclose(boxes, expected[:, :4], atol=0.02)  # six decimals; boxes rounded to whole pixels
        np.testing.assert_allclose(labels[:, 5], expected[:, 4], atol=1e-4)
