"""detect.py ended from outside: signals, full disks, a run folder that is removed."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.detect_process import FLAGS, NUM_DETECTIONS, DetectProcess, save_random_weights
from tests.live_servers import MjpegServer
from utils.config.base import ROOT
from utils.predict.video import CLIP_FRAMES

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")]
QUEUED = 6  # results that are logged but not written: five in the queue, and one in the writer
NOISE = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
MOMENTS = (1, 2, 5, 11, 12, 13, 20, 24, 25, 30, 37, 50, 60, 61, 75, 90, 100, 119, 120, 150)  # frames in the log


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_weights(tmp_path_factory.mktemp("weights") / "random.pt")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video of 150 frames, which compress badly."""
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 240))
    for number in range(150):
        writer.write(np.roll(NOISE, 7 * number, axis=1))
    writer.release()
    return tmp_path / "clip.avi"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    try:
        result = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"cannot mount a file system: {error}")
    if result.returncode:
        pytest.skip(f"cannot mount a file system: {result.stderr.strip()} (needs root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def count_frames(folder: Path) -> int:
    """Frames that can be played of the only video in a folder; 0 if there is none."""
    files = [file for file in folder.glob("*.mp4") if not file.name.startswith(".")]
    assert len(files) <= 1
    if not files:
        return 0
    capture, count = cv2.VideoCapture(str(files[0])), 0
    while capture.grab():
        count += 1
    capture.release()
    return count


def count_rows(folder: Path) -> int:
    return len((folder / "predictions.csv").read_text().splitlines()) - 1


def start(weights: Path, source: object, project: Path, *flags: str, **options: object) -> DetectProcess:
    arguments = ("--weights", weights, "--source", source, "--project", project, *FLAGS, "--save-csv", *flags)
    return DetectProcess(*arguments, cwd=project.parent, **options)


def count_logged(run: DetectProcess) -> int:
    return "".join(run.log).count("(frame ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("frames", [1, 13, 120])
def test_stop_signals_end_a_stream(number: signal.Signals, frames: int, weights: Path, tmp_path: Path) -> None:
    with MjpegServer(fps=20) as camera, start(weights, camera.url, tmp_path) as run:
        run.wait_for("(frame ", frames)
        assert run.stop(number) == 128 + number, run.log
    logged = count_logged(run)
    assert run.log[-1].endswith(f"Results saved to {tmp_path / 'exp'}\nterminated ({number.name})\n")
    assert count_frames(tmp_path / "exp") >= logged >= frames  # missed frames are repeated
    assert count_rows(tmp_path / "exp") // NUM_DETECTIONS in (logged, logged + 1)  # written, and then logged
    assert not list((tmp_path / "exp").glob(".*"))


@pytest.mark.parametrize("frames", MOMENTS)
def test_killed_stream_is_playable(frames: int, weights: Path, tmp_path: Path) -> None:
    with MjpegServer(fps=20) as camera, start(weights, camera.url, tmp_path) as run:
        run.wait_for("(frame ", frames)
        assert run.stop(signal.SIGKILL) == -signal.SIGKILL
    written = count_frames(tmp_path / "exp")
    assert written % CLIP_FRAMES == 0
    assert written > count_logged(run) - QUEUED - CLIP_FRAMES
    assert count_rows(tmp_path / "exp") >= NUM_DETECTIONS * (count_logged(run) - QUEUED)


def test_stop_signal_to_a_silent_stream(weights: Path, tmp_path: Path) -> None:
    with MjpegServer(fps=20) as camera, start(weights, camera.url, tmp_path) as run:
        run.wait_for("(frame ", 3)
        camera.stall()
        assert run.stop(signal.SIGTERM) == 143, run.log
    assert count_frames(tmp_path / "exp") >= 3


def test_closed_terminal(weights: Path, tmp_path: Path) -> None:
    """The system sends SIGHUP, and nothing can be printed any more."""

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored if the tests run under nohup

    controller, terminal = pty.openpty()
    arguments = ("--weights", weights, "--project", tmp_path, *FLAGS)
    with MjpegServer(fps=20) as camera:
        command = [sys.executable, str(ROOT / "detect.py"), "--source", camera.url, *map(str, arguments)]
        process = subprocess.Popen(
            command,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(terminal)
        output = b""
        while output.count(b"(frame ") < 3:
            output += os.read(controller, 4096)
        os.close(controller)
        assert process.wait(60) == 129
    assert count_frames(tmp_path / "exp") >= 3


def test_nohup(weights: Path, tmp_path: Path) -> None:
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with MjpegServer(fps=20) as camera, start(weights, camera.url, tmp_path, **ignore) as run:
        run.wait_for("(frame ", 3)
        run.process.send_signal(signal.SIGHUP)
        run.wait_for("(frame ", 20)
        assert run.stop(signal.SIGTERM) == 143, run.log
    assert count_frames(tmp_path / "exp") >= 23


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_stop_signals_end_a_video(number: signal.Signals, weights: Path, clip: Path) -> None:
    with start(weights, clip, clip.parent) as run:
        run.wait_for("video 1/1 (", 20)
        assert run.stop(number) == 128 + number, run.log
    logged = "".join(run.log).count("video 1/1 (")
    assert 20 <= logged < 149
    assert count_frames(clip.parent / "exp") in (logged, logged + 1)  # written, and then logged


@pytest.mark.parametrize("flags", [(), ("--save-txt",)])
def test_full_disk_keeps_the_video(flags: tuple[str, ...], weights: Path, clip: Path, small_disk: Path) -> None:
    with start(weights, clip, small_disk, *flags) as run:
        assert run.wait() == 2
    log = "".join(run.log)
    assert log.splitlines()[-1].startswith("error: ") and "No space left on device" in log.splitlines()[-1]
    assert "Traceback" not in log
    assert count_frames(small_disk / "exp") % CLIP_FRAMES == 0 < count_frames(small_disk / "exp")


@pytest.mark.parametrize("flags", [(), ("--nosave",), ("--nosave", "--save-txt"), ("--nosave", "--save-crop")])
def test_removed_run_folder(flags: tuple[str, ...], weights: Path, clip: Path) -> None:
    with start(weights, clip, clip.parent, *flags) as run:
        run.wait_for("video 1/1 (", 20)
        shutil.rmtree(clip.parent / "exp")
        assert run.wait() == 2
    log = "".join(run.log)
    assert log.splitlines()[-1].startswith("error: ") and str(clip.parent / "exp") in log.splitlines()[-1]
    assert "Traceback" not in log
