"""train.py from the command line on a tiny set: outputs, reproducibility, exact resume, error messages."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.checkpoint import load_training_state

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--weights", "", "--cfg", "yolov5n.yaml", "--img", "64", "--batch", "4", "--workers", "0", "--device", "cpu")


def arguments(data: Path, project: Path, *more: object) -> list[str]:
    return ["train.py", "--data", str(data), "--project", str(project), *QUICK, *map(str, more)]


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return [{k.strip(): v.strip() for k, v in row.items()} for row in csv.DictReader(file)]


def assert_same_state(a: Path, b: Path) -> None:
    """Weights, EMA and optimizer of two last.pt files agree bit for bit."""
    first, second = load_training_state(a), load_training_state(b)
    for part in ("model", "ema"):
        for key, value in first[part].items():
            assert torch.equal(value, second[part][key]), f"{part}: {key}"
    for number, state in first["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], second["optimizer"]["state"][number]["momentum_buffer"])
    assert first["epoch"] == second["epoch"]
    assert first["early_stop"] == second["early_stop"]


@pytest.fixture(scope="module")
def uninterrupted(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory, run_script: Run) -> Path:
    """Run folder of four epochs without interruption."""
    project = tmp_path_factory.mktemp("uninterrupted")
    result = run_script(*arguments(tiny_data, project, "--epochs", 4))
    assert result.returncode == 0, result.stderr
    assert "Results saved to" in result.stderr
    return project / "exp"


def test_output_files(uninterrupted: Path) -> None:
    names = {p.relative_to(uninterrupted).as_posix() for p in uninterrupted.rglob("*") if p.is_file()}
    expected = {
        *("opt.yaml", "hyp.yaml", "results.csv", "results.png", "labels.jpg", "labels_correlogram.jpg"),
        *("train_batch0.jpg", "train_batch1.jpg", "train_batch2.jpg", "val_batch0_labels.jpg", "val_batch0_pred.jpg"),
        *("confusion_matrix.png", "PR_curve.png", "P_curve.png", "R_curve.png", "F1_curve.png"),
        *("weights/last.pt", "weights/best.pt"),
    }
    assert expected <= names, expected - names
    assert any("events.out.tfevents" in name for name in names)


def test_results_csv_has_every_epoch_once(uninterrupted: Path) -> None:
    rows = read_rows(uninterrupted)
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert list(rows[0])[:5] == ["epoch", "train/box_loss", "train/obj_loss", "train/cls_loss", "metrics/precision"]
    assert list(rows[0])[-3:] == ["x/lr0", "x/lr1", "x/lr2"]


def test_same_seed_gives_the_same_results(
    uninterrupted: Path, tiny_data: Path, tmp_path: Path, run_script: Run
) -> None:
    result = run_script(*arguments(tiny_data, tmp_path, "--epochs", 4, "--workers", 2))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "exp" / "results.csv").read_text() == (uninterrupted / "results.csv").read_text()
    assert_same_state(tmp_path / "exp/weights/last.pt", uninterrupted / "weights/last.pt")


def test_run_killed_twice_equals_an_uninterrupted_one(uninterrupted: Path, tiny_data: Path, tmp_path: Path) -> None:
    command = [sys.executable, *arguments(tiny_data, tmp_path, "--epochs", 4)]
    last = tmp_path / "exp/weights/last.pt"
    for epochs in (1, 3):
        start_and_kill(command, tmp_path / "exp/results.csv", epochs)
        command = [sys.executable, "train.py", "--resume", str(last)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "exp/results.csv").read_text() == (uninterrupted / "results.csv").read_text()
    assert_same_state(last, uninterrupted / "weights/last.pt")


def start_and_kill(command: list[str], results: Path, epochs: int) -> None:
    """Start training and send SIGKILL shortly after results.csv has `epochs` rows."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 240
    while not (results.exists() and len(results.read_text().splitlines()) > epochs):
        assert process.poll() is None, "training ended before it could be killed"
        assert time.time() < deadline, "training makes no progress"
        time.sleep(0.01)
    time.sleep(0.15)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_ctrl_c_leaves_a_resumable_checkpoint(tiny_data: Path, tmp_path: Path) -> None:
    command = [sys.executable, *arguments(tiny_data, tmp_path, "--epochs", 50, "--noplots")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    last = tmp_path / "exp/weights/last.pt"
    deadline = time.time() + 240
    while not last.exists() and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert f"--resume {last}" in errors
    assert load_training_state(last)["optimizer"]["param_groups"]


def test_finished_run_resumes_with_more_epochs(tiny_data: Path, tmp_path: Path, run_script: Run) -> None:
    assert run_script(*arguments(tiny_data, tmp_path, "--epochs", 1, "--noplots")).returncode == 0
    last = tmp_path / "exp/weights/last.pt"
    result = run_script("train.py", "--resume", last)
    assert result.returncode == 0, result.stderr
    assert "all 1 epochs are done: repeating the final validation; add --epochs" in result.stderr
    result = run_script("train.py", "--resume", last, "--epochs", 2)
    assert result.returncode == 0, result.stderr
    assert [row["epoch"] for row in read_rows(tmp_path / "exp")] == ["0", "1"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--multi-scale", "--optimizer", "AdamW", "--cos-lr", "--label-smoothing", "0.1"),
        ("--rect", "--single-cls", "--cache", "disk"),
        ("--quad", "--image-weights", "--cache", "ram", "--autobalance"),
        (
            "--close-mosaic",
            "1",
            "--dropblock",
            "0.1",
            "--clip-grad",
            "1",
            "--checkpoint-activations",
            "--deterministic",
        ),
        ("--freeze", "10", "--nosave", "--noval", "--noautoanchor", "--save-period", "1", "--optimizer", "Muon"),
    ],
    ids=lambda flags: flags[0],
)
def test_flags_train(flags: tuple[str, ...], tiny_data: Path, tmp_path: Path, run_script: Run) -> None:
    result = run_script(*arguments(tiny_data, tmp_path, "--epochs", 2, "--noplots", *flags))
    assert result.returncode == 0, result.stderr
    losses = [float(row["train/box_loss"]) for row in read_rows(tmp_path / "exp")]
    assert len(losses) == 2
    assert all(0 < loss < 10 for loss in losses)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--data", "nowhere.yaml"), "nowhere.yaml"),
        (("--hyp", "nohyp.yaml"), "nohyp.yaml"),
        (("--cfg", "yolov5q.yaml"), "yolov5q.yaml"),
        (("--cfg", ""), "--cfg yolov5n.yaml"),
        (("--weights", "no/such/file.pt"), "file.pt"),
        (("--bucket", "gs://x"), "--bucket"),
        (("--resume", "no/last.pt"), "no/last.pt"),
        (("--freeze", "99"), "--freeze"),
        (("--device", "7"), "--device 7"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_bad_input_is_reported_without_a_traceback(
    flags: tuple[str, ...], text: str, tiny_data: Path, tmp_path: Path, run_script: Run
) -> None:
    result = run_script(*arguments(tiny_data, tmp_path, "--epochs", 1, *flags))
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert text in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_several_devices_start_one_process_each(tiny_data: Path, tmp_path: Path, run_script: Run) -> None:
    """Like --device 0,1, on the CPU."""
    command = [*arguments(tiny_data, tmp_path, "--epochs", 1, "--sync-bn"), "--device", "cpu,cpu"]
    result = run_script(*command)
    assert result.returncode == 0, result.stderr
    assert "starting 2 processes" in result.stderr and "2 processes share each batch of 4" in result.stderr
    assert result.stderr.count("epochs done in") == 1  # only rank 0 logs
    assert (tmp_path / "exp/weights/last.pt").exists() and not (tmp_path / "exp2").exists()
    error = run_script(*command, "--data", tmp_path / "missing.yaml")
    assert error.returncode == 2 and "missing.yaml" in error.stderr and "Traceback" not in error.stderr
