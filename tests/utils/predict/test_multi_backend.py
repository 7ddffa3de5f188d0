"""DetectMultiBackend: the attributes and calls that other programs use, over networks and exported files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from slim_networks import SLIM
from torch import Tensor

from models.checkpoint import save_checkpoint
from models.graph import load_model_yaml
from utils.backends.base import ExportedBackend
from utils.backends.info import ModelInfo
from utils.backends.registry import Format
from utils.core.errors import InputError
from utils.ops.nms import non_max_suppression
from utils.predict.autoshape import AutoShape
from utils.predict.multi_backend import DetectMultiBackend
from utils.tasks.networks import build_model, load_model

ALL_FLAGS = (
    *("pt", "jit", "onnx", "xml", "engine", "coreml", "saved_model", "pb", "tflite", "edgetpu", "tfjs", "paddle"),
    "triton",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_model({**load_model_yaml("yolov5n"), **SLIM, "nc": 2})
    file = tmp_path_factory.mktemp("weights") / "best.pt"
    payload = {"task": "detect", "yaml": model.yaml, "names": {0: "a", 1: "b"}, "model": model.state_dict()}
    save_checkpoint(file, payload)
    return file


class Exported(ExportedBackend):
    """A mock runtime of an exported format."""

    def run(self, images: Tensor) -> list[Tensor]:
        return [images.mean(dim=(1, 2, 3))[:, None, None].expand(-1, 4, 7).contiguous()]


def flags(model: DetectMultiBackend) -> list[str]:
    return [flag for flag in ALL_FLAGS if getattr(model, flag)]


def test_a_checkpoint(checkpoint: Path) -> None:
    model = DetectMultiBackend(checkpoint)
    assert flags(model) == ["pt"]
    assert (model.stride, model.names, model.fp16, model.batch_size) == (32, {0: "a", 1: "b"}, False, 1)
    assert (model.device, model.task, model.dnn) == (torch.device("cpu"), "detect", False)
    model.warmup(imgsz=(1, 3, 64, 64))
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        found = model(images)
        expected = load_model(checkpoint)(images)
    torch.testing.assert_close(found[0], expected[0], atol=1e-3, rtol=1e-5)  # channels_last sums in another order
    assert isinstance(found, list) and [m.shape[:3] for m in found[1]] == [(2, 3, 8), (2, 3, 4), (2, 3, 2)]
    assert len(non_max_suppression(found, 0.001)) == 2
    with torch.inference_mode():
        assert model(images, augment=True)[1] is None
    assert model.eval() is model and not model.training


def test_outputs_have_the_form_of_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor for one output, a list for several: a mock of the runtimes."""
    masks = torch.zeros(1, 4, 39), torch.zeros(1, 32, 8, 8)
    outputs: dict[str, Any] = {"boxes": torch.zeros(1, 4, 7), "masks": masks}

    def load(self: Format, files: list[str], **options: Any) -> Exported:
        backend = Exported(files[0], ModelInfo(), device=options["device"], names=options["names"])
        monkeypatch.setattr(backend, "forward", lambda *_, **__: outputs[Path(files[0]).stem])
        return backend

    monkeypatch.setattr(Format, "load", load)
    assert DetectMultiBackend("boxes.onnx")(torch.zeros(1, 3, 32, 32)) is outputs["boxes"]
    found = DetectMultiBackend("masks.onnx")(torch.zeros(1, 3, 32, 32))
    assert isinstance(found, list) and all(a is b for a, b in zip(found, masks, strict=True))


def test_arrays_become_tensors(checkpoint: Path) -> None:
    model = DetectMultiBackend(checkpoint)
    assert model.from_numpy(np.array([1.5, 2])).tolist() == [1.5, 2]
    assert model.from_numpy("text") == "text"
    assert f"{type(model).__module__}.{type(model).__qualname__}" == "models.common.DetectMultiBackend"
    assert AutoShape(model, verbose=False).autoshape().__class__.__module__ == "models.common"


def test_several_checkpoints_are_an_ensemble(checkpoint: Path) -> None:
    single, double = DetectMultiBackend(checkpoint), DetectMultiBackend([checkpoint, str(checkpoint)])
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(double(images)[0], torch.cat([single(images)[0]] * 2, dim=1))
    assert flags(double) == ["pt"]


def test_it_is_a_module(checkpoint: Path) -> None:
    model = DetectMultiBackend(checkpoint, fuse=False)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in model.model.parameters()) > 0
    model.double()
    assert not model.fp16
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 64, 64))[0].dtype == torch.float64  # the input is converted
    assert model.half().fp16


@pytest.mark.parametrize(
    ("file", "flag", "dnn"),
    [
        ("a.torchscript", "jit", False),
        ("a.onnx", "onnx", False),
        ("a.onnx", "onnx", True),
        ("a_openvino_model", "xml", False),
        ("a.engine", "engine", False),
        ("a.mlpackage", "coreml", False),
        ("a.mlmodel", "coreml", False),
        ("a_saved_model", "saved_model", False),
        ("a.pb", "pb", False),
        ("a-int8.tflite", "tflite", False),
        ("a-int8_edgetpu.tflite", "edgetpu", False),
        ("a_paddle_model", "paddle", False),
        ("grpc://localhost:8001/a", "triton", False),
    ],
)
def test_the_flag_of_each_format(file: str, flag: str, dnn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock of the runtime: only which one is chosen matters here."""
    seen: dict[str, Any] = {}

    def load(self: Format, files: list[str], **options: Any) -> Exported:
        seen.update(options, files=files, runtime=self.runtime)
        return Exported(
            files[0], ModelInfo(), device=options["device"], names=options["names"], input_shape=(8, 3, None, None)
        )

    monkeypatch.setattr(Format, "load", load)
    model = DetectMultiBackend(file, device="cpu", dnn=dnn, fp16=True, threads=torch.get_num_threads())
    assert flags(model) == [flag]
    assert (seen["files"], seen["fp16"], seen["device"]) == ([file], True, torch.device("cpu"))
    assert ("opencv" in seen["runtime"]) == dnn == model.dnn
    assert (model.batch_size, model.names[998]) == (8, "class998")
    assert not hasattr(model, "model")
    assert model(torch.ones(3, 3, 32, 32)).tolist() == torch.ones(3, 4, 7).tolist()
    model.warmup()


def test_names_of_a_data_yaml(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Format, files: list[str], **options: Any) -> Exported:
        return Exported(files[0], ModelInfo(), device=options["device"], names=options["names"])

    data = tmp_path / "two.yaml"
    data.write_text("path: .\ntrain: x\nval: x\nnames: [dog, cat]\n")
    assert DetectMultiBackend(checkpoint, data=data).names == {0: "a", 1: "b"}  # a checkpoint has its own
    monkeypatch.setattr(Format, "load", load)
    assert DetectMultiBackend("a.engine", data=data).names == {0: "dog", 1: "cat"}
    with pytest.raises(InputError, match=r"nothing.yaml"):
        DetectMultiBackend("a.engine", data=tmp_path / "nothing.yaml")


def test_visualize_into_a_folder_or_a_function(checkpoint: Path, tmp_path: Path) -> None:
    model = DetectMultiBackend(checkpoint)
    images, seen = torch.rand(1, 3, 64, 64), []
    with torch.inference_mode():
        model(images, visualize=lambda layer, _: seen.append(layer.i))
        model(images, visualize=tmp_path)
    assert seen == list(range(25))
    assert (tmp_path / "stage0_Conv_features.png").is_file()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("a_web_model", "run in browsers only"),
        ("a.xyz", "unknown model format"),
        ([], "no such checkpoint|expected at least one"),
    ],
)
def test_what_cannot_be_loaded(file: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DetectMultiBackend(file)


def write_onnx(file: Path, rows: list[list[float]], size_hw: tuple[int, int]) -> Path:
    """A graph that finds the same rows in every image of one size, moved by its least value."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    constant = onnx.numpy_helper.from_array(np.array([rows], np.float32), "rows")
    nodes = [
        helper.make_node("ReduceMin", ["images"], ["low"], keepdims=0),
        helper.make_node("Add", ["rows", "low"], ["output0"]),
    ]
    inputs = [helper.make_tensor_value_info("images", kinds.FLOAT, [1, 3, *size_hw])]
    outputs = [helper.make_tensor_value_info("output0", kinds.FLOAT, [1, len(rows), len(rows[0])])]
    graph = helper.make_graph(nodes, "found", inputs, outputs, [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for key, value in (("stride", "32"), ("names", "{0: 'a', 1: 'b'}")):
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, file)
    return file


def test_an_onnx_file_of_fixed_size_is_really_run(tmp_path: Path) -> None:
    """Input 64x96; an image of 128x128 lies in its middle 64 columns, at half its size."""
    pytest.importorskip("onnxruntime")
    file = write_onnx(tmp_path / "ünn 1.onnx", [[48, 32, 32, 16, 0.9, 0.1, 0.8]], (64, 96))
    model = DetectMultiBackend(str(file))
    assert (flags(model), model.names, model.batch_size) == (["onnx"], {0: "a", 1: "b"}, 1)
    assert model(torch.zeros(2, 3, 64, 96)).shape == (2, 1, 7)
    with pytest.raises(InputError, match="fixed image size 64x96"):
        model(torch.zeros(1, 3, 64, 64))
    results = AutoShape(model)([np.zeros((128, 128, 3), np.uint8)] * 2, size=640)
    assert results.s == (2, 3, 64, 96)
    for rows in results.xyxy:
        np.testing.assert_allclose(rows, [[32, 48, 96, 80, 0.72, 1]], atol=1e-5)
    with pytest.raises(InputError, match=r"does not support --augment; use a .pt file"):
        AutoShape(model)(np.zeros((128, 128, 3), np.uint8), augment=True)
