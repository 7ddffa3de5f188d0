"""val.py from the command line and from Python."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import val

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def weights(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory, run_script: Run) -> Path:
    """A checkpoint trained for one epoch on the tiny set."""
    project = tmp_path_factory.mktemp("trained")
    flags = ("--weights", "", "--cfg", "yolov5n.yaml", "--img", "64", "--batch", "4", "--workers", "0")
    done = run_script("train.py", "--data", tiny_data, "--project", project, *flags, "--epochs", 1, "--noplots")
    assert done.returncode == 0, done.stderr
    return project / "exp/weights/best.pt"


def test_files_of_a_measurement(weights: Path, tiny_data: Path, tmp_path: Path, run_script: Run) -> None:
    flags = ("--save-json", "--save-txt", "--save-conf", "--img", "96", "--batch", "4", "--workers", "0")
    done = run_script("val.py", "--weights", weights, "--data", tiny_data, "--project", tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "exp"
    names = {p.name for p in folder.iterdir()}
    assert {"PR_curve.png", "confusion_matrix.png", "val_batch0_labels.jpg", "val_batch0_pred.jpg"} <= names
    items = json.loads((folder / "best_predictions.json").read_text())
    assert set(items[0]) == {"image_id", "category_id", "bbox", "score"}
    rows = [line.split() for line in (folder / "labels/000.txt").read_text().splitlines()]
    assert rows
    assert all(len(row) == 6 and 0 <= float(row[5]) <= 1 for row in rows)
    assert "mAP50-95" in done.stderr


def test_run_returns_numbers(weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    numbers, per_class, speed = val.run(
        weights=str(weights), data=str(tiny_data), imgsz=96, batch_size=4, workers=0, project=tmp_path, noplots=True
    )
    assert len(numbers) == 7
    assert all(np.isfinite(numbers))
    assert per_class.shape == (2,)
    assert len(speed) == 3


def test_hybrid_rows_begin_with_the_labels(weights: Path, tiny_data: Path, tmp_path: Path, run_script: Run) -> None:
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
    done = run_script("val.py", "--weights", weights, "--data", tiny_data, "--project", tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    truth = (tiny_data.parent / "labels/val/000.txt").read_text().splitlines()
    written = (tmp_path / "exp/labels/000.txt").read_text().splitlines()
    for expected, line in zip(truth, written, strict=False):
        assert [float(v) for v in line.split()[:5]] == pytest.approx([float(v) for v in expected.split()], abs=2e-3)
        assert float(line.split()[5]) == 1


@pytest.mark.parametrize("task", ["train", "speed"])
def test_other_tasks(task: str, weights: Path, tiny_data: Path, tmp_path: Path, run_script: Run) -> None:
    flags = ("--task", task, "--img", "64", "--batch", "4", "--workers", "0", "--noplots", "--augment")
    done = run_script("val.py", "--weights", weights, weights, "--data", tiny_data, "--project", tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    assert "Speed:" in done.stderr


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
def test_bad_input_is_named_without_a_traceback(
    flags: tuple[str, ...], text: str, weights: Path, tiny_data: Path, tmp_path: Path, run_script: Run
) -> None:
    base = ("val.py", "--weights", weights, "--data", tiny_data, "--project", tmp_path, "--img", 64, "--noplots")
    done = run_script(*base, *flags)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert text in done.stderr.splitlines()[-1]


def test_losses_are_returned_where_none_can_be_measured(weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    """Test-time augmentation gives no raw maps; the place of the losses in the result stays."""
    settings = {"imgsz": 96, "batch_size": 4, "workers": 0, "noplots": True, "project": tmp_path, "augment": True}
    numbers, _, _ = val.run(weights=weights, data=str(tiny_data), **settings)
    assert len(numbers) == 7
    assert numbers[4:] == (0, 0, 0)
