"""ONNX files in onnxruntime and in OpenCV: ours, such as the original writes (constructed here), and broken ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from thread_checks import assert_threads_agree
from torch.nn import functional as F

import val
from utils.backends.onnxruntime import _explain_error
from utils.backends.registry import load_backend
from utils.core.errors import InputError
from utils.core.types import NMSOutput
from utils.export.base import ExportJob

CPU = torch.device("cpu")
Exported = Callable[..., tuple[ExportJob, Path]]
Shape = list[int | str]
STATIC: Shape = [1, 3, 64, 96]
DYNAMIC: Shape = ["batch", 3, "height", "width"]
RUNTIMES = pytest.mark.parametrize("dnn", [False, True], ids=["onnxruntime", "opencv"])


def official_style(
    file: Path, shape: Shape = STATIC, *, opset: int = 12, kind: int = TensorProto.FLOAT, metadata: Any = None
) -> Path:
    """A constructed file with the names and metadata of the original's: every pixel's channels begin a row."""
    rows: Shape = [shape[0], "anchors" if isinstance(shape[2], str) else 64 * 96, 7]
    weight = helper.make_tensor("w", kind, [7, 3, 1, 1], 2 * np.eye(7, 3).reshape(-1))
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["maps"]),
        helper.make_node("Reshape", ["maps", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["output0"], perm=[0, 2, 1]),
    ]
    target = helper.make_tensor("shape", TensorProto.INT64, [3], [0, 7, -1])
    source, result = (
        helper.make_tensor_value_info(name, kind, form) for name, form in (("images", shape), ("output0", rows))
    )
    graph = helper.make_graph(nodes, "constructed", [source], [result], [weight, target])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, metadata or {"stride": "32", "names": "{0: 'a cat', 1: 'söme dog'}"})
    onnx.save(model, file)
    return file


def expected_rows(images: torch.Tensor) -> torch.Tensor:
    return F.pad(2 * images.flatten(2).transpose(1, 2), (0, 4))  # (B, H*W, 5 + 2 classes)


@RUNTIMES
@pytest.mark.parametrize("opset", [12, 17])
@pytest.mark.parametrize("shape", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_files_in_the_original_s_style(dnn: bool, opset: int, shape: Shape, tmp_path: Path) -> None:
    backend = load_backend(official_style(tmp_path / "söme nets.onnx", shape, opset=opset), device=CPU, dnn=dnn)
    assert (backend.stride, backend.names) == (32, {0: "a cat", 1: "söme dog"})
    assert backend.fixed_hw == ((64, 96) if shape is STATIC else None)
    for count in (1, 3):
        images = torch.rand(count, 3, 64, 96)
        torch.testing.assert_close(backend.forward(images), expected_rows(images))
    if shape is DYNAMIC:
        images = torch.rand(2, 3, 32, 64)
        torch.testing.assert_close(backend.forward(images), expected_rows(images))


@pytest.mark.parametrize("shape", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_a_file_without_names_is_not_measured_on_other_classes(
    shape: Shape, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = official_style(tmp_path / "n.onnx", shape, metadata={"stride": "32"})
    logging.getLogger("openyolov5").propagate = True
    assert load_backend(file, device=CPU, names={0: "a", 1: "b"}).names == {0: "a", 1: "b"}
    assert not caplog.text
    assert load_backend(file, device=CPU, names={0: "a"}).names == {0: "class0", 1: "class1"}
    assert "n.onnx has no class names and 2 classes, but --data has 1: using class numbers" in caplog.text
    spec = tmp_path / "three.yaml"
    spec.write_text("path: .\ntrain: images\nval: images\nnames: [x, y, z]\n")
    with pytest.raises(InputError, match=r"n\.onnx has 2 classes, .*three\.yaml names 3"):
        val.run(weights=str(file), data=str(spec), imgsz=64, device="cpu", noplots=True)


def test_half_precision_input_is_the_file_s(tmp_path: Path) -> None:
    file = official_style(tmp_path / "half.onnx", kind=TensorProto.FLOAT16)
    backend = load_backend(file, device=CPU)
    images = torch.rand(1, 3, 64, 96)
    assert backend.dtype == torch.float16
    torch.testing.assert_close(backend.forward(images), expected_rows(images), atol=2e-3, rtol=0)
    with pytest.raises(InputError, match=r"OpenCV runs FP32 files only; export it without --half"):
        load_backend(file, device=CPU, dnn=True)


@RUNTIMES
def test_wrong_size_for_a_fixed_graph(dnn: bool, tmp_path: Path) -> None:
    backend = load_backend(official_style(tmp_path / "m.onnx"), device=CPU, dnn=dnn)
    with pytest.raises(InputError, match="fixed image size 64x96, got 64x64; use --imgsz 64 96"):
        backend.forward(torch.rand(1, 3, 64, 64))


@RUNTIMES
@pytest.mark.parametrize("content", [b"", b"no model at all" * 50, b"\x00" * 100], ids=["empty", "text", "zeros"])
def test_a_file_that_is_none(dnn: bool, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "not a model.onnx"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"not a model\.onnx: damaged or not an ONNX file; copy or export it again"):
        load_backend(file, device=CPU, dnn=dnn)


@RUNTIMES
@pytest.mark.parametrize("share", [0.3, 0.95])
def test_a_truncated_file(dnn: bool, share: float, exported: Exported, tmp_path: Path) -> None:
    content = exported("onnx")[1].read_bytes()
    file = tmp_path / "cut.onnx"
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"cut\.onnx: "):
        load_backend(file, device=CPU, dnn=dnn)


@RUNTIMES
@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/passwd"])
def test_tensors_in_other_files_are_refused(
    dnn: bool, location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime before 1.24 reads any file that the user can read."""
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    for folder in (tmp_path, tmp_path / "inside"):
        (folder / "weights.bin").write_bytes(bytes(84))
    model = onnx.load(official_style(tmp_path / "m.onnx"))
    weight = model.graph.initializer[0]
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"m\.onnx: has tensors in other files, which is not supported; export it as"):
        load_backend(tmp_path / "m.onnx", device=CPU, dnn=dnn)


def test_huge_input_is_refused(tmp_path: Path) -> None:
    for shape, what in (([1, 3, 64, 2**20], "1,048,576 pixels"), ([2**20, 3, 64, 96], "1,048,576 images per run")):
        with pytest.raises(InputError, match=rf"m\.onnx: {what}.*, the limit is .*use --no-limits"):
            load_backend(official_style(tmp_path / "m.onnx", shape), device=CPU)


def test_an_opset_of_the_future(tmp_path: Path) -> None:
    file = official_style(tmp_path / "new.onnx", opset=200)
    known = r"opset 200 is newer than onnxruntime \S+ supports \(\d+\); pip install -U onnxruntime"
    with pytest.raises(InputError, match=known):
        load_backend(file, device=CPU)


def test_an_ir_version_of_the_future(tmp_path: Path) -> None:
    model = onnx.load(official_style(tmp_path / "new.onnx"))
    model.ir_version = 99
    onnx.save(model, tmp_path / "new.onnx")
    known = r"new\.onnx: IR version 99 is newer than onnxruntime \S+ supports \(\d+\); pip install -U onnx"
    with pytest.raises(InputError, match=known):
        load_backend(tmp_path / "new.onnx", device=CPU)


def test_the_runtime_s_own_place_in_its_code_is_left_out() -> None:
    error = RuntimeError("[ONNXRuntimeError] : 1 : FAIL : /src/a/model.cc:25 a::Model::Model(b&&, c<d>) Its cause\n")
    assert _explain_error(error, "1.2") == "onnxruntime 1.2 cannot run it (Its cause); export it again"


@RUNTIMES
@pytest.mark.parametrize("code", ["__import__('os').mkdir('made-by-metadata')", "{0: exit()}"])
def test_metadata_is_never_run(dnn: bool, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = official_style(tmp_path / "m.onnx", metadata={"stride": "32", "names": code})
    with pytest.raises(InputError, match=r"metadata names: .* is not plain data \(it is not evaluated\)"):
        load_backend(file, device=CPU, dnn=dnn)
    assert not (tmp_path / "made-by-metadata").exists()


def test_what_goes_wrong_within_a_run_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nodes = [helper.make_node("Reshape", ["images", "shape"], ["output0"])]
    target = helper.make_tensor("shape", TensorProto.INT64, [3], [1, 7, 9])
    source, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, form)
        for name, form in (("images", DYNAMIC), ("output0", [1, 7, 9]))
    )
    graph = helper.make_graph(nodes, "constructed", [source], [result], [target])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8), tmp_path / "r.onnx")
    with pytest.raises(InputError, match=r"r\.onnx: cannot run images of shape \(1, 3, 64, 96\)"):
        load_backend(tmp_path / "r.onnx", device=CPU).forward(torch.zeros(1, 3, 64, 96))
    assert capfd.readouterr().err == "", "onnxruntime says the same once more"


def test_a_graph_of_something_else(tmp_path: Path) -> None:
    vector = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [vector], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "v.onnx")
    with pytest.raises(
        InputError, match=r"expected a batch of images as the only input, found x tensor\(float\) \[4\]"
    ):
        load_backend(tmp_path / "v.onnx", device=CPU)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file or folder; export one with: .* --include onnx"):
        load_backend(tmp_path / "gone.onnx", device=CPU)


def test_nms_inside_opencv_is_refused_in_a_line(exported: Exported) -> None:
    _, file = exported("onnx", nms=True)
    assert isinstance(load_backend(file, device=CPU).forward(torch.rand(1, 3, 64, 96)), NMSOutput)
    with pytest.raises(InputError, match=r"OpenCV \S+ cannot (read|run) it .*; leave out --dnn, or export it without"):
        load_backend(file, device=CPU, dnn=True).forward(torch.rand(1, 3, 64, 96))


@RUNTIMES
def test_threads_share_a_network(dnn: bool, exported: Exported) -> None:
    backend = load_backend(exported("onnx")[1], device=CPU, dnn=dnn)
    assert_threads_agree(backend, torch.rand(8, 3, 64, 96))
