"""The demo: a tiny run with its page."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils import demo
from utils.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a demo of one epoch on six images."""
    project = tmp_path_factory.mktemp("demo") / "its results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "TRAIN", {**demo.TRAIN, "data": str(tiny_data), "imgsz": 64, "batch_size": 4})
        patch.setattr(demo, "VAL", {"data": str(tiny_data), "imgsz": 64})
        patch.setattr(demo, "DETECT", {"imgsz": 64})
        assert demo.run(epochs=1, project=str(project), device="cpu") == project / "index.html"
    return project


def test_files(folder: Path) -> None:
    for name in ("train/weights/best.pt", "train/results.csv", "val/confusion_matrix.png", "detect/000.jpg"):
        assert (folder / name).is_file()


def test_the_page_contains_the_images(folder: Path) -> None:
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "http" not in page
    images = re.findall(r"src='data:image/(?:jpeg|png);base64,([A-Za-z0-9+/=]+)'", page)
    assert len(images) == page.count("<img") == 6 + demo.NUM_DETECTIONS
    files = [folder / "train/train_batch0.jpg", folder / "val/confusion_matrix.png", folder / "detect/005.jpg"]
    decoded = [base64.b64decode(image) for image in images]
    assert all(file.read_bytes() in decoded for file in files)
    shapes = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape for data in decoded]
    assert shapes[-1] == (64, 96, 3)


def test_the_page_has_metrics_and_commands(folder: Path) -> None:
    page = (folder / "index.html").read_text(encoding="utf-8")
    rows = dict(re.findall(r"<tr><td>([^<]+)</td><td>([\d.]+)</td></tr>", page))
    assert list(rows) == ["precision", "recall", "mAP50", "mAP50-95", "AP50-95 of square", "AP50-95 of disc"]
    mean = (float(rows["AP50-95 of square"]) + float(rows["AP50-95 of disc"])) / 2
    assert float(rows["mAP50-95"]) == pytest.approx(mean, abs=1.1e-3)
    assert page.count("<pre>python ") == 3
    assert "detect.py --weights &#x27;" in page  # quoted, because of the space


def test_text_is_escaped(tmp_path: Path) -> None:
    section = demo.Section("A & B", "<i>", {tmp_path / "missing.png": "no"})
    page = demo.format_page(demo.format_table((0.5, 0.25, 0.125, 1.0), {"a<b": 0.0625}), [section], {"Try": "a > b"})
    for text in ("<h2>A &amp; B</h2>", "&lt;i&gt;", "<td>AP50-95 of a&lt;b</td><td>0.062</td>", "<pre>a &gt; b</pre>"):
        assert text in page
    assert "<img" not in page


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="--epochs 0"):
        demo.run(epochs=0)


def test_help_needs_no_torch() -> None:
    code = (
        "import runpy, sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'numpy', 'cv2')))\n"
        "sys.argv[1:] = ['--help']\n"
        "runpy.run_module('utils.demo', run_name='__main__', alter_sys=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--epochs" in done.stdout
