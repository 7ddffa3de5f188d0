"""Annotated videos: complete, playable while they are written, intact on a full disk."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.core.errors import InputError
from utils.datasets.sources.frames import SourceFrame
from utils.predict.video import CLIP_FRAMES, VideoFile

FRAME = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)


def append(video: VideoFile, numbers: range) -> None:
    for number in numbers:
        video.append(np.roll(FRAME, number, axis=1), SourceFrame("clip.avi", np.empty(0), "", number))


def count_frames(file: Path) -> int:
    capture, count = cv2.VideoCapture(str(file)), 0
    while capture.grab():
        count += 1
    capture.release()
    return count


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_all_but_the_last_clip_are_playable_at_any_time(tmp_path: Path) -> None:
    video, counts = VideoFile(tmp_path / "clip.mp4", (48, 64), 10.0), []
    for number in range(1, 61):
        append(video, range(number, number + 1))
        counts.append(count_frames(tmp_path / "clip.mp4"))  # as a kill would leave it
    assert counts == [number // CLIP_FRAMES * CLIP_FRAMES for number in range(1, 61)]
    video.close()
    assert count_frames(tmp_path / "clip.mp4") == 60
    assert files(tmp_path) == ["clip.mp4"]


def test_odd_sizes_lose_a_row_and_a_column(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "clip.mp4", (47, 63), 10.0)
    for number in range(15):
        video.append(FRAME[:47, :63], SourceFrame("clip.avi", np.empty(0), "", number))
    video.close()
    capture = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    assert capture.read()[1].shape == (46, 62, 3)
    capture.release()
    assert count_frames(tmp_path / "clip.mp4") == 15


def test_earlier_video_is_replaced(tmp_path: Path) -> None:
    for count in (30, 5):
        video = VideoFile(tmp_path / "clip.mp4", (48, 64), 10.0)
        append(video, range(count))
        video.close()
        video.close()  # nothing is left to do
    assert count_frames(tmp_path / "clip.mp4") == 5


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Limit files to 100 kB."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("full_disk")
def test_full_disk_ends_the_video_after_a_clip(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "clip.mp4", (48, 64), 10.0)
    with pytest.raises(OSError, match=r"large.*clip\.mp4"):
        append(video, range(200))
    video.close()  # the index fits
    assert files(tmp_path) == ["clip.mp4"]
    count = count_frames(tmp_path / "clip.mp4")
    assert 0 < count < 200 and count % CLIP_FRAMES == 0


@pytest.mark.usefixtures("full_disk")
def test_clip_that_opencv_cannot_write(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "clip.mp4", (480, 640), 10.0)
    frame = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    with pytest.raises(InputError, match=r"clip\.mp4: OpenCV has not written the last 24 frames; add --nosave"):
        for number in range(1, 100):
            video.append(frame, SourceFrame("clip.avi", np.empty(0), "", number))
    video.close()
    assert files(tmp_path) == []


def test_removed_folder_ends_the_video(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    video = VideoFile(tmp_path / "run/clip.mp4", (48, 64), 10.0)
    append(video, range(CLIP_FRAMES))
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(InputError, match=r"clip\.mp4: OpenCV cannot write this video; add --nosave, or check the disk"):
        append(video, range(CLIP_FRAMES + 1))
    video.close()
    with pytest.raises(FileNotFoundError, match="run"):
        VideoFile(tmp_path / "run/clip.mp4", (48, 64), 10.0)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS and Windows have no such names")
def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"b\xffd")
    video = VideoFile(tmp_path / f"{name}.mp4", (48, 64), 10.0)
    append(video, range(5))
    video.close()
    assert files(tmp_path) == [f"{name}.mp4"]
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=r"OpenCV cannot write videos to a folder whose name is not UTF-8"):
        VideoFile(tmp_path / name / "clip.mp4", (48, 64), 10.0)
