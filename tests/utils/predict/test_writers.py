"""Files of the result writers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.core.errors import InputError
from utils.datasets.sources.frames import SourceFrame
from utils.imaging.read import imwrite, read_image
from utils.predict.writers import (
    CropWriter,
    CsvWriter,
    MediaWriter,
    StopRunning,
    TextWriter,
    WindowViewer,
    to_folder_name,
)
from utils.tasks.results import ClassResult, DrawStyle, Result

ROWS = [[10, 20, 30, 40, 0.9, 0], [0, 0, 60, 40, 0.75, 1]]
NAMES = {0: "cat", 1: "../up/dog"}


def result(path: str, rows: list[list[float]] = ROWS, *, number: int | None = None, fps: float = 0.0) -> Result:
    source = SourceFrame(path, np.full((48, 64, 3), 90, np.uint8), f"image 1/1 {path}", number, fps)
    return Result(source, np.array(rows, np.float32).reshape(-1, 6), NAMES)


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_images_keep_their_names(tmp_path: Path) -> None:
    writer = MediaWriter(tmp_path, DrawStyle())
    for path in ("a/ünï 图.png", "a/x.jpg", "b/x.jpg", "raw.npy", "photo.MPO", "loop.gif"):
        writer.write(result(path))
    writer.close()
    assert files(tmp_path) == ["loop.jpg", "photo.jpg", "raw.jpg", "x.jpg", "x_2.jpg", "ünï 图.png"]
    assert read_image(tmp_path / "ünï 图.png").shape == (48, 64, 3)


def test_videos_become_mp4_of_the_same_size_and_speed(tmp_path: Path) -> None:
    writer = MediaWriter(tmp_path, DrawStyle())
    for path, count in (("one.avi", 3), ("two.mov", 2)):
        for number in range(1, count + 1):
            writer.write(result(path, number=number, fps=12.5))
    writer.close()
    assert files(tmp_path) == ["one.mp4", "two.mp4"]
    capture = cv2.VideoCapture(str(tmp_path / "one.mp4"))
    shape = [capture.get(p) for p in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_WIDTH)]
    capture.release()
    assert shape == [3, 12.5, 64]


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Limit files to 2 kB."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("full_disk")
def test_incomplete_image_is_removed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    with pytest.raises(OSError, match="large"):
        imwrite(tmp_path / "a.png", noise)
    assert files(tmp_path) == []


def test_error_of_the_csv_file_names_it(tmp_path: Path, full_disk: None) -> None:
    writer = CsvWriter(tmp_path / "predictions.csv")
    with pytest.raises(OSError, match="predictions"):
        for _ in range(100):
            writer.write(result("a.jpg"))
    with pytest.raises(OSError, match="predictions"):
        writer.close()


@pytest.mark.parametrize("fps", [0.5, 7.001, 23.976, 240.0])
def test_videos_of_any_rate_are_complete(tmp_path: Path, fps: float) -> None:
    writer = MediaWriter(tmp_path, DrawStyle())
    for number in range(1, 8):
        writer.write(result("clip.avi", number=number, fps=fps))
    writer.close()
    assert shape_of(tmp_path / "clip.mp4")[:2] == (7, pytest.approx(fps, rel=1e-3))


def test_renamed_output_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = MediaWriter(tmp_path, DrawStyle())
    for path in ("a.avi", "a.mov"):
        writer.write(result(path, number=1, fps=10.0))
    writer.close()
    assert "a.mov: output named a_2.mp4, a.mp4 is from a.avi" in caplog.text


def live(name: str, number: int, size_hw: tuple[int, int] = (48, 64), step: int = 1) -> Result:
    frame = SourceFrame(name, np.full((*size_hw, 3), 90, np.uint8), "", number, 10.0, step, live=True)
    return Result(frame, np.zeros((0, 6), np.float32), NAMES)


def shape_of(video: Path) -> tuple[int, float, tuple[int, int]]:
    """Frames, frames per second, height and width."""
    capture = cv2.VideoCapture(str(video))
    size_hw = tuple(int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
    shape = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS), size_hw
    capture.release()
    return shape  # type: ignore[return-value]


def test_streams_keep_their_speed(tmp_path: Path) -> None:
    writer = MediaWriter(tmp_path, DrawStyle())
    for number in (1, 2, 5, 6):  # 3 and 4 were missed
        writer.write(live("door", number))
        writer.write(live("yard", 4 * number - 3, (96, 128), step=4))
    writer.write(live("door", 1000))  # after a long pause: a second's worth
    writer.close()
    assert files(tmp_path) == ["door.mp4", "yard.mp4"]
    assert shape_of(tmp_path / "door.mp4") == (6 + 10, 10.0, (48, 64))
    assert shape_of(tmp_path / "yard.mp4") == (6, 10.0, (96, 128))


def test_stream_whose_size_changes_continues_in_another_video(tmp_path: Path) -> None:
    writer = MediaWriter(tmp_path, DrawStyle())
    for number, size_hw in enumerate([(48, 64), (48, 64), (96, 128), (48, 64)], start=1):
        writer.write(live("door", number, size_hw))
    writer.close()
    shapes = [shape_of(tmp_path / name) for name in ("door.mp4", "door_2.mp4", "door_3.mp4")]
    assert [(shape[0], shape[2]) for shape in shapes] == [(2, (48, 64)), (1, (96, 128)), (1, (48, 64))]


def test_text_files_are_appended_and_only_for_objects(tmp_path: Path) -> None:
    writer = TextWriter(tmp_path / "labels", with_score=True)
    writer.write(result("a.jpg", ROWS[:1]))
    writer.write(result("empty.jpg", []))
    writer.write(result("clip.mp4", ROWS[1:], number=7))
    TextWriter(tmp_path / "labels", corners=True).write(result("a.jpg", ROWS[:1]))
    assert files(tmp_path) == ["labels/a.txt", "labels/clip_7.txt"]
    lines = (tmp_path / "labels/a.txt").read_text().splitlines()
    assert lines == ["0 0.3125 0.625 0.3125 0.416667 0.9", "0 0.15625 0.416667 0.46875 0.833333"]


def test_csv_has_a_row_per_object(tmp_path: Path) -> None:
    writer = CsvWriter(tmp_path / "predictions.csv")
    writer.write(result("dir/a, b.jpg", ROWS[:1]))
    writer.write(result("empty.jpg", []))
    writer.close()
    text = (tmp_path / "predictions.csv").read_text()
    assert text.splitlines() == ["Image Name,Prediction,Confidence", '"a, b.jpg",cat,0.90']


@pytest.mark.skipif(sys.platform != "linux", reason="macOS and Windows have no such names")
def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    path, label = os.fsdecode(b"b\xffd"), "a\ud800"
    source = SourceFrame(f"{path}.png", np.full((48, 64, 3), 90, np.uint8), "")
    probs, names = np.array([0.75, 0.25], np.float32), {0: label, 1: "dog"}
    named = ClassResult.from_probs(source, probs, names, (64, 64), (0, 0, 0))
    writers = [CropWriter(tmp_path / "crops"), TextWriter(tmp_path), MediaWriter(tmp_path, DrawStyle())]
    writers.append(CsvWriter(tmp_path / "predictions.csv"))
    for writer in writers:
        writer.write(named)
        writer.close()
    assert {f"{path}.png", f"{path}.txt", "predictions.csv"} <= set(files(tmp_path))
    assert (tmp_path / "predictions.csv").read_text().splitlines()[1] == r"b\udcffd.png,a\ud800,0.75"
    assert (tmp_path / f"{path}.txt").read_text() == "0.75 a\\ud800\n0.25 dog\n"


def test_rows_are_in_the_csv_file_at_once(tmp_path: Path) -> None:
    writer = CsvWriter(tmp_path / "predictions.csv")
    for number in (1, 2):
        writer.write(result("a.jpg", ROWS[:1]))
        assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + number
    writer.close()


def test_crops_are_numbered_within_their_class_and_never_leave_the_folder(tmp_path: Path) -> None:
    writer = CropWriter(tmp_path / "crops")
    writer.write(result("a.png", [ROWS[0], ROWS[1], ROWS[0]]))
    writer.write(result("b.png", ROWS[:1]))
    CropWriter(tmp_path / "crops").write(result("b.png", ROWS[:1]))
    assert files(tmp_path) == [
        "crops/_up_dog/a.jpg", "crops/cat/a.jpg", "crops/cat/a2.jpg", "crops/cat/b.jpg", "crops/cat/b2.jpg"
    ]  # fmt: skip
    assert read_image(tmp_path / "crops/cat/a.jpg").shape == (31, 31, 3)  # 20 * 1.02 + 10: 4.8 to 35.2


def test_crops_of_a_video_are_numbered_over_its_frames(tmp_path: Path) -> None:
    writer = CropWriter(tmp_path)
    writer.write(result("v.mp4", [ROWS[0], ROWS[0]], number=1))
    writer.write(result("v.mp4", [ROWS[0]], number=12))
    assert files(tmp_path) == ["cat/v.jpg", "cat/v2.jpg", "cat/v3.jpg"]


def test_the_least_certain_object_comes_first(tmp_path: Path) -> None:
    """In text, CSV and the numbers of crops, as the original writes them."""
    one = result("a.jpg", [[10, 10, 30, 30, 0.876, 0], [0, 0, 50, 20, 0.5, 0], [0, 0, 60, 20, 0.25, 1]])
    one.names = {0: "cat", 1: "dog"}
    for writer in (TextWriter(tmp_path, with_score=True), CropWriter(tmp_path), CsvWriter(tmp_path / "p.csv")):
        writer.write(one)
        writer.close()
    assert [line.split()[-1] for line in (tmp_path / "a.txt").read_text().splitlines()] == ["0.25", "0.5", "0.876"]
    assert (tmp_path / "p.csv").read_text().splitlines() == [
        "Image Name,Prediction,Confidence", "a.jpg,dog,0.25", "a.jpg,cat,0.50", "a.jpg,cat,0.88",
    ]  # fmt: skip
    widths = [read_image(tmp_path / f"cat/{name}.jpg").shape[1] for name in ("a", "a2")]
    assert widths == [55, 31]  # 50 px wide at the border, then 20 px: 20 * 1.02 + 10


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("..", "_"),
        ("a/b", "a_b"),
        ("traffic light", "traffic light"),
        ("", "_"),
        ("a\ud800", "a_"),
        ("图" * 999, "图" * 66),
    ],
)
def test_class_names_as_folders(label: str, name: str) -> None:
    assert to_folder_name(label) == name


def test_windows_need_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(InputError, match="--view-img: no display"):
        WindowViewer(DrawStyle())


def test_windows_need_opencv_with_gui(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(InputError, match="pip install opencv-python"):
        WindowViewer(DrawStyle())


def test_q_in_a_window_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    keys = iter([-1, ord("q")])
    monkeypatch.setenv("DISPLAY", ":0")
    for name in ("namedWindow", "destroyWindow"):
        monkeypatch.setattr(cv2, name, lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda title, frame: shown.append(title))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: next(keys))
    viewer = WindowViewer(DrawStyle())
    viewer.write(result("a.png"))
    with pytest.raises(StopRunning):
        viewer.write(result("b.png"))
    assert shown == ["a.png", "b.png"]


def test_text_files_of_images_with_the_same_stem(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = TextWriter(tmp_path)
    with caplog.at_level("WARNING", logger="openyolov5"):
        for path in ("x/a.jpg", "y/a.png", "x/a.jpg"):
            writer.write(result(path, ROWS[:1]))
        for number in (1, 2):
            writer.write(result("z/a.mp4", ROWS[:1], number=number))
    assert files(tmp_path) == ["a.txt", "a_2.txt", "a_3_1.txt", "a_3_2.txt"]
    assert [len((tmp_path / name).read_text().splitlines()) for name in files(tmp_path)] == [2, 1, 1, 1]
    assert "WARNING y/a.png: output named a_2, a is from x/a.jpg" in caplog.text


def test_many_crops_of_one_name_take_one_check_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, checks, real = CropWriter(tmp_path), [], Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: checks.append(path) or real(path))
    for number in range(30):
        writer.write(result(f"{number}/x.png", ROWS[:1]))
    assert len(files(tmp_path)) == len(checks) == 30
