"""Messages of image decoders on standard error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.datasets.index.labels import verify_images
from utils.imaging import console
from utils.imaging.console import capture_stderr, silence_decoders
from utils.imaging.read import imwrite, read_image


def write_damaged_jpeg(path: Path) -> None:
    """A JPEG of which libjpeg says `Corrupt JPEG data`."""
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8)
    data = cv2.imencode(".jpg", noise)[1].tobytes()
    middle = len(data) * 2 // 3
    path.write_bytes(data[:middle] + bytes(200) + data[middle + 200 :])


def write_damaged_tiff(path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8)
    data = cv2.imencode(".tif", frame, [cv2.IMWRITE_TIFF_COMPRESSION, 8])[1].tobytes()
    path.write_bytes(data[: len(data) // 2] + bytes(50) + data[len(data) // 2 + 50 :])


def test_captured_output_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with capture_stderr() as lines:
        os.write(2, b"Corrupt JPEG data\n[ WARN:0@1.200] global grfmt_tiff.cpp:123 TIFF_Warning Unknown field\n")
        os.write(2, b"[ERROR:0@1.200] global grfmt_tiff.cpp:117 TIFF_Error ZIPDecode: Not enough data\n\xff\n")
    assert lines == ["Corrupt JPEG data", "TIFF_Error ZIPDecode: Not enough data", "\ufffd"]
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_standard_error_is_restored_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), capture_stderr() as lines:
        os.write(2, b"within\n")
        raise KeyError
    os.write(2, b"after\n")
    assert (lines, capfd.readouterr().err) == (["within"], "after\n")


def test_a_process_without_standard_error() -> None:
    code = (
        "import os; os.close(2)\n"
        "from utils.imaging.console import capture_stderr\n"
        "with capture_stderr() as lines: pass\n"
        "assert lines == []"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0


def test_silenced_decoders(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the workers of a loader: other output remains."""
    write_damaged_jpeg(tmp_path / "a.jpg")
    read_image(tmp_path / "a.jpg")
    assert "Corrupt JPEG data" in capfd.readouterr().err
    monkeypatch.setattr(console, "_redirection", [])
    silence_decoders()
    read_image(tmp_path / "a.jpg")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_verification_names_damaged_images(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = ["a.jpg", "damaged.jpg", "b.jpg", "cut.jpg", "damaged.tif", "text.png"]
    images = [str(tmp_path / name) for name in names]
    for image in (images[0], images[2]):
        imwrite(image, np.zeros((40, 40, 3), np.uint8))
    write_damaged_jpeg(tmp_path / "damaged.jpg")
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8))[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    write_damaged_tiff(tmp_path / "damaged.tif")
    (tmp_path / "text.png").write_text("no image")
    index, findings = verify_images(images, [None] * len(images), 3, "train", 2)  # type: ignore[list-item]
    messages = {name: [line for line in findings.messages if name in line] for name in names}
    assert [len(lines) for lines in messages.values()] == [0, 1, 0, 1, 1, 1]
    assert messages["damaged.jpg"][0].startswith(f"{images[1]}: Corrupt JPEG data: ")
    assert messages["damaged.jpg"][0].endswith("; image used")
    assert "truncated, about" in messages["cut.jpg"][0]
    assert str(tmp_path / "damaged.jpg") in index.paths
    assert capfd.readouterr().err == ""
