"""Exports of a network in memory, with the names and arguments of YOLOv5's export.py."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_jobs import build_tiny_model
from torch import Tensor

import export
from models.checkpoint import save_checkpoint
from utils.core.errors import InputError
from utils.core.logging import LOGGER
from utils.export import script_exports


@pytest.fixture
def model() -> Any:
    return build_tiny_model().eval()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, LOGGER.name)
    return caplog


def decode(model: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)[0]


def test_torchscript(model: Any, tmp_path: Path) -> None:
    images = torch.rand(2, 3, 64, 96)
    path, nothing = export.export_torchscript(model, images, tmp_path / "a.pt", False)
    assert (path, nothing) == (str(tmp_path / "a.torchscript"), None)
    extra = {"config.txt": ""}
    network = torch.jit.load(path, _extra_files=extra)
    outputs = network(images)
    torch.testing.assert_close(outputs[0] if isinstance(outputs, tuple) else outputs, decode(model, images))
    assert json.loads(extra["config.txt"])["shape"] == [2, 3, 64, 96]
    assert not model.training and not model.model[-1].export  # the network itself is unchanged


@pytest.mark.parametrize("positionals", [(12, False, False), (12, False, False, False)], ids=["v7.0", "v6.0"])
def test_onnx(positionals: tuple[Any, ...], model: Any, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    images = torch.rand(1, 3, 64, 64)
    path, proto = export.export_onnx(model, images, tmp_path / "a.pt", *positionals)
    assert path == str(tmp_path / "a.onnx") and proto.opset_import[0].version == 12
    (rows,) = runtime.InferenceSession(path).run(["output0"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(rows), decode(model, images), atol=1e-3, rtol=1e-4)


def test_failures_are_logged(model: Any, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    arguments = (model, torch.zeros(1, 3, 64, 64), tmp_path / "a.pt")
    assert export.export_onnx(*arguments, 12, train=True) == (None, None)
    assert export.export_saved_model(*arguments, tf_nms=True) == (None, None)
    assert export.export_torchscript(torch.nn.Conv2d(3, 1, 1), *arguments[1:]) == (None, None)

    @export.try_export
    def divide(model: Any) -> Any:
        return 1 / 0

    assert divide(model) == (None, None) and divide.__name__ == "divide"
    assert "train=True: exported files have decoded boxes" in log.messages[0]
    assert "nms: not supported in TensorFlow graphs" in log.messages[1]
    assert "Conv2d: no YOLOv5 network" in log.messages[2]
    assert log.messages[3] == "error: divide: ZeroDivisionError: division by zero"
    assert not list(tmp_path.iterdir())


def test_options_reach_the_exporters(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formats whose converters are slow or missing: what is handed to them."""
    jobs: dict[str, Any] = {}

    def write(include: str, job: Any) -> str:
        jobs[include] = job
        return include

    monkeypatch.setattr(script_exports, "write", write)
    content = {"task": "detect", "yaml": model.yaml, "names": {0: "a", 1: "b"}, "model": model.state_dict()}
    save_checkpoint(tmp_path / "a.pt", content)
    file, images = tmp_path / "a.pt", torch.zeros(2, 3, 64, 96)
    assert export.export_openvino(file, {"stride": 32}, True, imgsz=(64, 96)) == ("openvino", None)
    assert export.export_paddle(model, images, file, {}) == ("paddle", None)
    assert export.export_coreml(model, images, file, True, False) == ("coreml", None)
    assert export.export_engine(model, images, file, False, True, False, 2) == ("engine", None)
    path, keras_model = export.export_saved_model(model, images, file, True, keras=True)
    assert path == "saved_model"
    assert export.export_pb(keras_model, file) == ("pb", None)
    assert export.export_tflite(keras_model, images, file, True, "data.yaml", False, False) == ("tflite", None)
    assert export.export_edgetpu(file) == ("edgetpu", None)
    assert export.export_tfjs(file, imgsz=96) == ("tfjs", None)
    sizes = {include: (job.options.batch, *job.options.imgsz) for include, job in jobs.items()}
    assert sizes == dict.fromkeys(["paddle", "coreml", "engine", "saved_model", "pb", "tflite"], (2, 64, 96)) | {
        "openvino": (1, 64, 96),
        "edgetpu": (1, 640, 640),
        "tfjs": (1, 96, 96),
    }
    assert jobs["openvino"].options.half and jobs["coreml"].options.int8 and jobs["edgetpu"].options.int8
    assert (jobs["engine"].options.dynamic, jobs["engine"].options.workspace) == (True, 2)
    assert (jobs["saved_model"].options.keras, jobs["saved_model"].options.dynamic) == (True, True)
    assert (jobs["tflite"].options.int8, jobs["tflite"].options.data) == (True, "data.yaml")
    assert jobs["saved_model"].network.normalized and not jobs["paddle"].network.normalized
    assert jobs["paddle"].info.names == {0: "0", 1: "1"}


def test_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    table = export.export_formats()
    assert list(table) == ["Format", "Argument", "Suffix", "CPU", "GPU"]
    assert table["Argument"].tolist() == [
        *("-", "torchscript", "onnx", "openvino", "engine", "coreml", "saved_model", "pb", "tflite", "edgetpu"),
        *("tfjs", "paddle"),
    ]
    assert table["Suffix"].tolist()[:4] == [".pt", ".torchscript", ".onnx", "_openvino_model"]
    assert table["CPU"].tolist() == [True, True, True, True, False, True, True, True, True, False, False, True]
    assert table["GPU"].tolist() == [True, True, True, False, True, False, True, True, False, False, False, True]
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(InputError, match=r"tables of export_formats.* pandas"):
        export.export_formats()


def test_metadata_cannot_be_added() -> None:
    with pytest.raises(InputError, match=r"a.tflite: its metadata are those of the export"):
        export.add_tflite_metadata(Path("a.tflite"), {}, 1)
