"""Which runtime a model file gets, and what is said of those that come later."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from utils.backends.registry import find_format, load_backend
from utils.errors import InputError

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
        pytest.param("best.onnx", r"best\.onnx: ONNX files are not supported yet .*give a \.pt checkpoint", id="later"),
        pytest.param("http://localhost:8000/v2", "inference servers are not supported yet", id="server"),
        pytest.param("model.xyz", r"model\.xyz: no model format has this ending; known here: \.pt", id="unknown"),
        pytest.param(
            ["a.pt", "b.onnx"], r"--weights a\.pt b\.onnx: an ensemble is made of \.pt files only", id="mixed"
        ),
        pytest.param(["a.onnx", "b.onnx"], "an ensemble is made of", id="no-ensemble-of-exports"),
        pytest.param([], "name at least one model file", id="none"),
    ],
)
def test_files_that_cannot_be_run(weights: str | list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_backend(weights, device=CPU)


def test_a_path_object_is_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ONNX"):
        load_backend(tmp_path / "x.onnx", device=CPU)
