"""`python -m utils.datasets`: help, exit codes, messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def command(*flags: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "utils.datasets", *map(str, flags)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_help() -> None:
    done = command("--help")
    assert done.returncode == 0
    for name in ("check", "split", "convert", "crops", "fetch"):
        assert f"\n  {name} " in done.stdout


def test_help_of_a_command() -> None:
    done = command("convert", "--help")
    assert done.stdout.startswith("usage: python -m utils.datasets convert")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("chekc",),
            "error: python -m utils.datasets chekc: no such command; choose from check, split, convert, crops, ",
        ),
        (("check", "--data", "none.yaml"), "error: --data none.yaml: no such file"),
        (("convert", "--from", "voc", "--source", "none", "--out", "x"), "no annotations"),
        (("convert", "--source", "none.yaml", "--out", "x"), "error: --source none.yaml: no such file"),
        (("split", "--images", "none"), "error: --images none: no such folder"),
        (("fetch", "--data", "none.yaml"), "error: --data none.yaml: no such file"),
    ],
)
def test_error_line_and_exit_code_2(tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    done = command(*flags, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_exit_codes_of_check(tiny_data: Path, tmp_path: Path) -> None:
    assert command("check", "--data", tiny_data, "--noplots", cwd=tmp_path).returncode == 0
    text = tiny_data.read_text().replace("path: .", f"path: {tiny_data.parent}").replace(", 1: disc", "")
    (tmp_path / "fewer.yaml").write_text(text)
    done = command("check", "--data", "fewer.yaml", "--noplots", cwd=tmp_path)
    assert done.returncode == 1
    assert "classes that do not exist: 1 (" in done.stdout + done.stderr


def test_crops(tiny_data: Path, tmp_path: Path) -> None:
    done = command("crops", "--data", tiny_data, "--out", tmp_path / "crops", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "crops").rglob("*.jpg"))) == 48


def test_fetch_of_a_present_set(tiny_data: Path, tmp_path: Path) -> None:
    done = command("fetch", "--data", tiny_data, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{tiny_data}: train, val in {tiny_data.parent}, 2 classes" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("data/scripts/get_imagenet.sh", "ILSVRC2012_img_train.tar"),
        ("data/scripts/get_coco.sh", "annotations_trainval2017.zip"),
        ("data/scripts/get_coco128.sh", "coco128.zip"),
        ("data/scripts/download_weights.sh", "yolov5n.pt"),
        ("weights/download_weights.sh", "yolov5n.pt"),
    ],
)
def test_download_scripts(tmp_path: Path, script: str, message: str) -> None:
    """With a dead proxy instead of a network, the message names the requested file."""
    dead = "http://127.0.0.1:9"
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "YOLOv5_DATASETS_DIR": str(tmp_path / "sets")}
    environment |= {"http_proxy": dead, "https_proxy": dead, "OMP_NUM_THREADS": "1"}
    line = [str(ROOT / script)]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert message in done.stderr
