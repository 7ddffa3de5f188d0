"""val.py from the command line and from Python."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import val

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def weights(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory, run_script: Run) -> Path:
    """A checkpoint trained for one epoch on the tiny set."""
    project = tmp_path_factory.mktemp("trained")
    flags = ("--weights", "", "--cfg", "yolov5n.yaml", "--img", "64", "--batch", "4", "--workers", "0")
    result = run_script("train.py", "--data", tiny_data, "--project", project, *flags, "--epochs", 1, "--noplots")
    assert result.returncode == 0, result.stderr
    return project / "exp/weights/best.pt"


def test_output_files(weights: Path, tiny_data: Path, tmp_path: Path, run_script: Run) -> None:
    flags = ("--save-json", "--save-txt", "--save-conf", "--img", "96", "--batch", "4", "--workers", "0")
    result = run_script("val.py", "--weights", weights, "--data", tiny_data, "--project", tmp_path, *flags)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "exp"
    names = {p.name for p in folder.iterdir()}
    assert {"PR_curve.png", "confusion_matrix.png", "val_batch0_labels.jpg", "val_batch0_pred.jpg"} <= names
    items = json.loads((folder / "best_predictions.json").read_text())
    assert set(items[0]) == {"image_id", "category_id", "bbox", "score"}
    rows = [line.split() for line in (folder / "labels/000.txt").read_text().splitlines()]
    assert rows
    assert all(len(row) == 6 and 0 <= float(row[5]) <= 1 for row in rows)
    assert "mAP50-95" in result.stderr


def test_run_returns_metrics(weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    metrics, per_class, speed = val.run(
        weights=str(weights),
        data=str(tiny_data),
        imgsz=96,
        batch_size=4,
        workers=0,
        project=tmp_path,
        noplots=True,
        threads=1,
    )
    assert torch.get_num_threads() == 1
    assert len(metrics) == 7
    assert all(np.isfinite(metrics))
    assert per_class.shape == (2,)
    assert len(speed) == 3


def test_save_hybrid_writes_labels_first(weights: Path, tiny_data: Path, tmp_path: Path, run_script: Run) -> None:
    flags = (
        "--save-hybrid",
        "--save-conf",
        "--img",
        "96",
        "--batch",
        "4",
        "--workers",
        "0",
        "--noplots",
        "--conf",
        "0.9",
    )
    result = run_script("val.py", "--weights", weights, "--data", tiny_data, "--project", tmp_path, *flags)
    assert result.returncode == 0, result.stderr
    truth = (tiny_data.parent / "labels/val/000.txt").read_text().splitlines()
    written = (tmp_path / "exp/labels/000.txt").read_text().splitlines()
    for expected, line in zip(truth, written, strict=False):
        assert [float(v) for v in line.split()[:5]] == pytest.approx([float(v) for v in expected.split()], abs=2e-3)
        assert float(line.split()[5]) == 1


@pytest.mark.parametrize("task", ["train", "speed"])
def test_other_tasks(task: str, weights: Path, tiny_data: Path, tmp_path: Path, run_script: Run) -> None:
    flags = ("--task", task, "--img", "64", "--batch", "4", "--workers", "0", "--noplots", "--augment")
    result = run_script("val.py", "--weights", weights, weights, "--data", tiny_data, "--project", tmp_path, *flags)
    assert result.returncode == 0, result.stderr
    assert "Speed:" in result.stderr


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--weights", "none.pt"), "none.pt"),
        (("--task", "test"), "test"),
        (("--data", "data/VOC.yaml"), "names 20"),
        (("--dnn",), "--dnn"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_bad_input_is_reported_without_a_traceback(
    flags: tuple[str, ...], text: str, weights: Path, tiny_data: Path, tmp_path: Path, run_script: Run
) -> None:
    base = ("val.py", "--weights", weights, "--data", tiny_data, "--project", tmp_path, "--img", 64, "--noplots")
    result = run_script(*base, *flags)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert text in result.stderr.splitlines()[-1]


def test_losses_are_zero_with_augmentation(weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    """Test-time augmentation has no raw outputs; the loss columns stay."""
    settings = {"imgsz": 96, "batch_size": 4, "workers": 0, "noplots": True, "project": tmp_path, "augment": True}
    metrics, _, _ = val.run(weights=weights, data=str(tiny_data), **settings)
    assert len(metrics) == 7
    assert metrics[4:] == (0, 0, 0)
