"""`--track` of detect.py and `track` of the hub on a clip with moving buses, with the official checkpoint."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import detect
import hubconf
from tests.detect_process import save_random_weights
from utils.core.errors import InputError
from utils.imaging.read import read_image

Run = Callable[..., subprocess.CompletedProcess[str]]
FRAMES = 24


@pytest.fixture(scope="module")
def weights(shared: Path) -> Path:
    return shared / "weights/yolov5n.pt"


@pytest.fixture(scope="module")
def clip(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bus that moves to the right by 8 pixels a frame, above one that stands."""
    bus = cv2.resize(read_image(shared / "data/images/bus.jpg"), (243, 324))[60:240]
    file = tmp_path_factory.mktemp("clip") / "bus clip.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10, (640, 480))
    for k in range(FRAMES):
        frame = np.full((480, 640, 3), 114, np.uint8)
        frame[10:190, 20 + 8 * k : 263 + 8 * k] = bus
        frame[280:460, 200:443] = bus
        writer.write(frame)
    writer.release()
    return file


def read_mot(file: Path) -> np.ndarray:
    return np.loadtxt(file, delimiter=",", ndmin=2)


@pytest.mark.parametrize("tracker", ["bytetrack", "ocsort"])
def test_files_of_a_tracked_clip(tracker: str, clip: Path, weights: Path, tmp_path: Path) -> None:
    summary = detect.run(
        weights=weights,
        source=clip,
        classes=5,
        track=tracker,
        track_trail=10,
        save_txt=True,
        save_conf=True,
        save_csv=True,
        save_mot=True,
        count_line="262,480,262,0",
        count_zone="0,240,640,240,640,480,0,480",
        project=tmp_path,
        device="cpu",
    )
    folder = summary.save_dir
    rows = read_mot(folder / "mot/bus clip.txt")
    assert set(rows[:, 1]) == {1, 2} and rows.shape[1] == 10 and (rows[:, 7:] == -1).all()
    moving = rows[rows[:, 3] < 200]
    assert len(moving) == FRAMES and len(set(moving[:, 1])) == 1
    assert np.abs(np.diff(moving[:, 2] + moving[:, 4] / 2) - 8).mean() < 4
    last = np.loadtxt(folder / f"labels/bus clip_{FRAMES}.txt")
    assert last.shape == (2, 7) and set(last[:, 6]) == {1, 2}  # class, box, score, id
    with open(folder / "predictions.csv", encoding="utf-8") as stream:
        table = list(csv.reader(stream))
    assert table[0] == ["Image Name", "Prediction", "Confidence", "ID"] and {row[3] for row in table[1:]} == {"1", "2"}
    with open(folder / "counts.csv", encoding="utf-8") as stream:
        counts = list(csv.reader(stream))[1:]
    assert [row[1:] for row in counts] == [["line", "bus", "1", "0"], ["zone", "bus", "1", "0"]]
    video = cv2.VideoCapture(str(folder / "bus clip.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == FRAMES


def test_ids_survive_a_stride(clip: Path, weights: Path, tmp_path: Path) -> None:
    summary = detect.run(
        weights=weights,
        source=clip,
        classes=5,
        conf_thres=0.5,
        track=True,
        vid_stride=3,
        save_mot=True,
        nosave=True,
        project=tmp_path,
    )
    rows = read_mot(summary.save_dir / "mot/bus clip.txt")
    assert set(rows[:, 1]) == {1, 2} and rows[:, 0].max() == FRAMES // 3


def test_two_clips_have_tracks_of_their_own(clip: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.avi", "b.avi"):
        (tmp_path / "in" / name).write_bytes(clip.read_bytes())
    summary = detect.run(
        weights=weights, source=tmp_path / "in", classes=5, track=True, save_mot=True, nosave=True, project=tmp_path
    )
    a, b = (read_mot(summary.save_dir / f"mot/{name}.txt") for name in "ab")
    assert np.array_equal(a, b) and set(a[:, 1]) == {1, 2}


def test_sources_of_the_hub_are_apart(clip: Path, weights: Path) -> None:
    model = hubconf.custom(str(weights), _verbose=False)
    model.classes = [5]
    capture = cv2.VideoCapture(str(clip))
    for _ in range(6):
        _, frame = capture.read()
        first, second = (model.track(frame[..., ::-1], source) for source in "ab")
        assert np.array_equal(first.ids[0], second.ids[0])
    with pytest.raises(InputError, match="takes one frame a call, not 2"):
        model.track([frame, frame])


def test_hub_equals_detect(clip: Path, weights: Path, tmp_path: Path) -> None:
    model = hubconf.custom(str(weights), _verbose=False)
    model.classes = [5]
    capture, rows = cv2.VideoCapture(str(clip)), []
    for number in range(1, FRAMES + 1):
        _, frame = capture.read()
        results = model.track(frame[..., ::-1])
        assert results.pandas().xyxy[0]["id"].tolist() == results.ids[0].tolist()
        rows += [
            (number, i, *box) for i, box in zip(results.ids[0].tolist(), results.xyxy[0][:, :4].tolist(), strict=True)
        ]
    summary = detect.run(
        weights=weights, source=clip, classes=5, track=True, save_mot=True, nosave=True, project=tmp_path, device="cpu"
    )
    expected = read_mot(summary.save_dir / "mot/bus clip.txt")
    mine = np.array(sorted(rows))
    assert np.array_equal(mine[:, :2], expected[:, :2])
    assert np.abs(mine[:, 2:4] - expected[:, 2:4]).max() < 4  # the hub pads to another input size
    model.reset_tracks()
    assert model.track(np.zeros((100, 100, 3), np.uint8)).ids[0].tolist() == []
    assert model("data/images/cat.jpg").ids is None


def test_images_are_one_sequence_with_a_warning(tmp_path: Path, run_script: Run) -> None:
    weights = save_random_weights(tmp_path / "random.pt")
    (tmp_path / "in").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"in/{name}.png"), np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    done = run_script(
        *("detect.py", "--weights", weights, "--source", tmp_path / "in", "--imgsz", "64", "--track", "--save-mot"),
        *("--conf-thres", "0.001", "--project", tmp_path / "out", "--device", "cpu"),
    )
    assert done.returncode == 0, done.stderr
    assert "the images are tracked as frames of one sequence" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--track", "sort"), "invalid choice: 'sort'"),
        (("--track-trail", "5"), "--track-trail has no effect without --track"),
        (("--save-mot",), "--save-mot has no effect without --track"),
        (("--track", "--count-line", "1,2,3"), "'1,2,3': expected 2 points"),
        (("--track", "--count-zone", "1,2,3,4"), "'1,2,3,4': expected at least 3 points"),
        (("--track", "--count-line", "a,b,c,d"), "expected 2 points"),
    ],
)
def test_bad_flags(flags: tuple[str, ...], message: str, run_script: Run, tmp_path: Path) -> None:
    done = run_script("detect.py", "--source", tmp_path, *flags)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_line_outside_the_frame(clip: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--count-line 700,10,900,10: outside the frames of .*, 640x480 pixels"):
        detect.run(weights=weights, source=clip, track=True, count_line="700,10,900,10", project=tmp_path)
