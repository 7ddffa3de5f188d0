"""benchmarks.py from the command line and from Python."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_jobs import TINY_GRAPH

import benchmarks
from models.checkpoint import save_checkpoint
from models.yolo import DetectionModel
from utils.core.errors import InputError
from utils.core.packages import MissingPackageError
from utils.evaluate import benchmark as engine
from utils.evaluate.benchmark import DONE, FAILED, SKIPPED, Row, find_problems, format_table
from utils.export.table import EXPORT_FORMATS

Run = Callable[..., subprocess.CompletedProcess[str]]
PACKAGES = {"torchscript": "torch", "onnx": "onnxruntime"}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A checkpoint with random weights for the tiny set."""
    torch.manual_seed(0)
    model = DetectionModel(TINY_GRAPH)
    names = {0: "square", 1: "disc"}
    file = tmp_path / "tïny 1.pt"
    save_checkpoint(file, {"task": "detect", "yaml": model.yaml, "names": names, "model": model.state_dict()})
    return file


def use_formats(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Restrict the table of formats."""
    monkeypatch.setattr(engine, "EXPORT_FORMATS", [kind for kind in EXPORT_FORMATS if kind.include in names])


def test_checkpoint_only(weights: Path, tiny_data: Path, tmp_path: Path, run_script: Run) -> None:
    flags = ("--weights", weights, "--data", tiny_data, "--img", 64, "--workers", 0, "--project", tmp_path / "runs")
    done = run_script("benchmarks.py", *flags, "--pt-only", "--hard-fail")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/exp"
    assert {p.name for p in folder.iterdir()} == {"benchmarks.csv", "benchmarks.md", "benchmarks.png"}
    table = pd.read_csv(folder / "benchmarks.csv")
    assert list(table) == ["Format", "Size (MB)", "mAP50-95", "Inference time (ms)", "Load time (s)", "Note"]
    assert table["Format"].tolist() == ["PyTorch"]
    assert (table.iloc[0, [1, 3, 4]] > 0).all()
    assert "PyTorch" in (folder / "benchmarks.md").read_text(encoding="utf-8")
    assert benchmarks.main([*map(str, flags), "--pt-only", "--hard-fail", "0.99", "--device", "cpu"]) == 1


@pytest.mark.slow
def test_formats_agree_with_the_checkpoint(
    weights: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in PACKAGES.values():
        pytest.importorskip(package)
    use_formats(monkeypatch, *PACKAGES)
    settings = {"imgsz": 64, "workers": 0, "device": "cpu", "project": str(tmp_path / "runs"), "hard_fail": True}
    table = benchmarks.run(weights=str(weights), data=str(tiny_data), **settings)
    assert table["Format"].tolist() == ["PyTorch", "TorchScript", "ONNX", "ONNX (OpenCV DNN)"]
    assert np.ptp(table["mAP50-95"]) <= 0.005
    assert (table.iloc[:, 1:5].to_numpy() >= 0).all()
    assert (tmp_path / "runs/exp" / weights.name).with_suffix(".onnx").is_file()
    assert not weights.with_suffix(".onnx").exists()


@pytest.mark.slow
def test_exports_only(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_formats(monkeypatch, "torchscript")
    project = str(tmp_path / "runs")
    table = benchmarks.run(weights=str(weights), imgsz=64, test=True, hard_fail=True, device="cpu", project=project)
    assert table["Format"].tolist() == ["TorchScript"]
    assert table["Inference time (ms)"].isna().all()
    assert {file.name for file in (tmp_path / "runs/exp").iterdir()} >= {
        "benchmarks.csv",
        f"{weights.stem}.torchscript",
    }
    assert [file.name for file in weights.parent.glob(f"{weights.stem}*")] == [weights.name]


def test_missing_packages_are_skipped_and_errors_fail(
    weights: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(path: Path, model: object, kind: object, options: object) -> Path:
        if kind.include == "onnx":  # type: ignore[attr-defined]
            raise MissingPackageError("ONNX exports need the package onnx: pip install onnx")
        raise InputError("--device 0") if kind.include == "engine" else ArithmeticError("no\nconverter")  # type: ignore[attr-defined]

    use_formats(monkeypatch, "torchscript", "onnx", "engine")
    monkeypatch.setattr(engine, "export_one", export)
    settings = {"imgsz": 64, "workers": 0, "device": "cpu", "project": str(tmp_path / "runs")}
    table = benchmarks.run(weights=str(weights), data=str(tiny_data), **settings).set_index("Format")
    assert table["Note"]["ONNX"].endswith("pip install onnx")
    assert table["Note"]["TensorRT"] == "--device 0"
    assert table["Note"]["TorchScript"] == "failed: ArithmeticError: no converter"
    with pytest.raises(RuntimeError, match=r"^TorchScript failed: ArithmeticError: no converter$"):
        benchmarks.run(weights=str(weights), data=str(tiny_data), hard_fail=True, **settings)


def test_format_without_batches_does_not_fail_the_run(
    weights: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_formats(monkeypatch, "coreml")
    settings = {"imgsz": 64, "workers": 0, "device": "cpu", "project": str(tmp_path / "runs"), "batch_size": 4}
    table = benchmarks.run(weights=str(weights), data=str(tiny_data), hard_fail=True, **settings).set_index("Format")
    assert table["Note"]["CoreML"] == "--batch-size 4: CoreML supports batch size 1 only; leave it out"


def test_a_run_folder_with_the_checkpoint_is_refused(weights: Path, tiny_data: Path) -> None:
    content = weights.read_bytes()
    settings = {"imgsz": 64, "workers": 0, "device": "cpu", "exist_ok": True, "test": True}
    with pytest.raises(InputError, match="benchmarks would overwrite this file; give another --project"):
        benchmarks.run(weights=str(weights), project=str(weights.parent.parent), name=weights.parent.name, **settings)
    assert weights.read_bytes() == content


def test_tables() -> None:
    rows = [Row("PyTorch", DONE, 4.0, 0.25, 12.345, 0.5), Row("A|B", SKIPPED, note="no package"), Row("C", FAILED)]
    assert format_table(rows[:2]).splitlines() == [
        "| Format  | Size (MB) | mAP50-95 | Inference time (ms) | Load time (s) | Note       |",
        "| ------- | --------- | -------- | ------------------- | ------------- | ---------- |",
        "| PyTorch | 4.0       | 0.2500   | 12.35               | 0.50          |            |",
        "| A\\|B    | -         | -        | -                   | -             | no package |",
    ]
    assert find_problems(rows, 0.0) == ["C failed: "]
    assert find_problems(rows[:2], 0.3) == ["PyTorch: mAP50-95 0.2500 is below 0.3"]
    assert find_problems([Row("nan", score=float("nan"))], 0.0)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--hard-fail", "high"), "argument --hard-fail: invalid fraction value: 'high'"),
        (("--hard-fail", "2"), "argument --hard-fail: 2.0 must be between 0 and 1"),
        (("--test", "--pt-only"), "--test and --pt-only cannot be combined; use one of them"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_bad_input_is_named_without_a_traceback(
    flags: tuple[str, ...], text: str, weights: Path, tmp_path: Path, run_script: Run
) -> None:
    base = ("--weights", weights, "--img", 64, "--project", tmp_path)
    done = run_script("benchmarks.py", *base, *flags)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert text in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("option", ["weights", "data"])
def test_missing_files_end_the_run(option: str, weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    options = {"weights": str(weights), "data": str(tiny_data), option: str(tmp_path / "none.yaml")}
    with pytest.raises(InputError, match=r"none\.yaml"):
        benchmarks.run(**options, imgsz=64, pt_only=True, project=str(tmp_path))
