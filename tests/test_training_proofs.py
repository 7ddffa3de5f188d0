"""Full training runs, minutes each: `pytest -m slow tests/test_training_proofs.py`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from utils.core.results_csv import read_results

ROOT = Path(__file__).resolve().parents[1]
MAP50, MAP = "metrics/mAP_0.5", "metrics/mAP_0.5:0.95"

pytestmark = pytest.mark.slow


def train(flags: list[str], project: Path) -> dict[str, np.ndarray]:
    """Run train.py in `project`, with its data sets inside; the columns of results.csv."""
    environment = os.environ | {"YOLOv5_DATASETS_DIR": str(project / "datasets"), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, str(ROOT / "train.py"), *flags, "--project", str(project), "--name", "run"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return read_results(project / "run/results.csv")


def test_demo_learns_shapes_from_scratch(tmp_path: Path) -> None:
    """The README's first command, which also installs the requirements."""
    environment = os.environ | {"YOLOv5_DATASETS_DIR": str(tmp_path / "datasets"), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "utils.demo", "--project", str(tmp_path / "demo")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    page = (tmp_path / "demo/index.html").read_text(encoding="utf-8")
    map50 = re.search(r"<td>mAP50</td><td>([\d.]+)</td>", page)
    assert map50
    assert float(map50[1]) >= 0.60


def test_bccd_fine_tuning(shared: Path, tmp_path: Path) -> None:
    data, weights = shared / "data/bccd/bccd.yaml", shared / "weights/yolov5n.pt"
    flags = ["--data", str(data), "--weights", str(weights), "--img", "416", "--epochs", "30", "--batch", "16"]
    assert max(train(flags, tmp_path)[MAP]) >= 0.52


def test_bccd_from_scratch(shared: Path, tmp_path: Path) -> None:
    flags = ["--data", str(shared / "data/bccd/bccd.yaml"), "--weights", "", "--cfg", "yolov5n.yaml", "--img", "320"]
    assert max(train([*flags, "--epochs", "100", "--batch", "16"], tmp_path)[MAP]) >= 0.52
