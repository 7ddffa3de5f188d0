"""Format of a model file, and errors for files that cannot be run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from utils.backends.registry import FORMATS, find_format, load_backend
from utils.config.base import ROOT
from utils.core.errors import InputError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("file", "title"),
    [
        ("yolov5n.pt", "PyTorch"),
        ("yolov5n", "PyTorch"),
        ("dir.v2/BEST.PT", "PyTorch"),
        ("a b.onnx", "ONNX"),
        ("yolov5n_openvino_model/", "OpenVINO"),
        ("yolov5n-int8_edgetpu.tflite", "Edge TPU"),
        ("yolov5n-fp16.tflite", "TensorFlow Lite"),
        ("yolov5n_saved_model", "TensorFlow SavedModel"),
    ],
)
def test_format_by_ending(file: str, title: str) -> None:
    assert find_format(file).title == title


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        pytest.param("model_web_model", r"TensorFlow\.js models run in browsers only", id="browser"),
        pytest.param("ftp://localhost:8000/v2", "starts with http:// or grpc://, not ftp://", id="scheme"),
        pytest.param("model.xyz", r"model\.xyz: unknown model format; supported: \.pt", id="unknown"),
        pytest.param(
            ["a.pt", "b.onnx"], r"--weights a\.pt b\.onnx: an ensemble can contain \.pt files only", id="mixed"
        ),
        pytest.param(["a.onnx", "b.onnx"], "an ensemble can contain", id="no-ensemble-of-exports"),
        pytest.param([], "expected at least one model file", id="none"),
    ],
)
def test_files_that_cannot_be_run(weights: str | list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_backend(weights, device=CPU)


def test_a_path_object_is_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run in browsers only"):
        load_backend(tmp_path / "x_web_model", device=CPU)


def test_opencv_runs_onnx_files_only() -> None:
    with pytest.raises(InputError, match=r"--dnn: OpenCV runs \.onnx files, not a\.pt"):
        load_backend("a.pt", device=CPU, dnn=True)


def test_every_runtime_of_the_table_is_there() -> None:
    for kind in FORMATS:
        module, _, function = kind.runtime.partition(":")
        file = ROOT / "utils" / "backends" / f"{module}.py"
        if kind.runtime:
            assert f"def {function}(" in file.read_text(encoding="utf-8")
