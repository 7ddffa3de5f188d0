"""The processes of `--device 0,1`: how each starts the same command."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.train.launch import list_entry


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("openyolov5 train", ["-m", "openyolov5", "train"]),
        ("openyolov5 segment train", ["-m", "openyolov5", "segment", "train"]),
        ("/some/folder/train.py", ["/some/folder/train.py"]),
        ("/some/folder/openyolov5", ["/some/folder/openyolov5"]),
    ],
)
def test_entry(program: str, expected: list[str]) -> None:
    assert list_entry(program) == expected


def test_entry_of_a_script_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list_entry("train.py") == [str(tmp_path / "train.py")]
    script = tmp_path / "openyolov5 train"
    script.touch()
    assert list_entry("openyolov5 train") == [str(script)]
