"""TensorRT exports with a mock of the builder; no GPU needed."""

from __future__ import annotations

import json
import logging
import sys
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_jobs import NAMES, build_tiny_job

from utils.backends.tensorrt import split_header
from utils.core.errors import InputError
from utils.export.base import ExportJob
from utils.export.onnx import build_onnx
from utils.export.tensorrt import build_engine, export_tensorrt

CUDA = torch.device("cuda", 0)


class MockConfig:
    """Mock of tensorrt.IBuilderConfig that records its settings."""

    def __init__(self) -> None:
        self.flags: list[str] = []
        self.profiles: list[Any] = []
        self.memory: dict[str, int] = {}
        self.cached = b""

    def set_memory_pool_limit(self, pool: str, limit: int) -> None:
        self.memory[pool] = limit

    def set_flag(self, flag: Any) -> None:
        self.flags.append(flag.name)

    def add_optimization_profile(self, profile: Any) -> None:
        self.profiles.append(profile)

    def create_timing_cache(self, content: bytes) -> bytes:
        self.cached = content
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        return cache != b"of another GPU"

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: memoryview(b"new timings"))


class MockTensorRT:
    """Mock of a tensorrt release: 8 has no strongly typed networks, 11 no precision flags."""

    __version__ = "11.4.0"
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")

    def __init__(self, release: int, *, parses: bool = True, builds: bool = True) -> None:
        self.__version__ = f"{release}.6.1"
        self.parses, self.builds, self.config = parses, builds, MockConfig()
        names = {8: ("EXPLICIT_BATCH",), 10: ("EXPLICIT_BATCH", "STRONGLY_TYPED"), 11: ("STRONGLY_TYPED",)}[release]
        self.NetworkDefinitionCreationFlag = IntEnum("Flag", {name: i for i, name in enumerate(names)})
        self.BuilderFlag = (
            IntEnum("BuilderFlag", {} if release == 11 else {"FP16": 0, "INT8": 1}) if release < 11 else ()
        )
        self.created_with = -1
        self.graph = b""

    class Logger:
        VERBOSE, WARNING = 0, 1

        def __init__(self, level: int) -> None:
            self.level = level

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        def create_network(flags: int) -> Any:
            self.created_with = flags
            return SimpleNamespace(get_input=lambda _: SimpleNamespace(name="images"))

        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=lambda: self.config,
            create_optimization_profile=MockProfile,
            build_serialized_network=lambda network, config: memoryview(b"ftrt engine") if self.builds else None,
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        def parse(graph: bytes) -> bool:
            self.graph = graph
            return self.parses

        error = SimpleNamespace(desc=lambda: "no importer\nfor Foo")
        return SimpleNamespace(parse=parse, num_errors=1, get_error=lambda _: error)


class MockProfile:
    """Mock of tensorrt.IOptimizationProfile."""

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes = {name: shapes}


def build_cuda_job(folder: Path, **options: Any) -> ExportJob:
    return build_tiny_job(folder, device=CUDA, **options)


@pytest.mark.parametrize(
    ("release", "flags", "types"), [(8, 0b1, ["FP16"]), (10, 0b11, []), (11, 0b1, [])], ids=["8", "10", "11"]
)
def test_flags_by_release(release: int, flags: int, types: list[str], tmp_path: Path) -> None:
    mock = MockTensorRT(release)
    assert build_engine(mock, b"graph", build_cuda_job(tmp_path, half=True, workspace=0.5)) == b"ftrt engine"
    assert (mock.created_with, mock.config.flags, mock.graph) == (flags, types, b"graph")
    assert mock.config.memory == {"workspace": 2**29}
    assert not mock.config.profiles


def test_dynamic_engines_take_rectangular_batches(tmp_path: Path) -> None:
    mock = MockTensorRT(11)
    build_engine(mock, b"", build_cuda_job(tmp_path, dynamic=True, batch=8))
    (profile,) = mock.config.profiles
    assert profile.shapes == {"images": ((1, 3, 32, 32), (4, 3, 64, 96), (8, 3, 112, 112))}


def test_timing_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, mock = tmp_path / "timings", MockTensorRT(11)
    file.write_bytes(b"of another GPU")
    with caplog.at_level(logging.WARNING, "openyolov5"):
        build_engine(mock, b"", build_cuda_job(tmp_path, cache=str(file)))
    assert "from another TensorRT version or GPU, overwritten" in caplog.text
    assert file.read_bytes() == b"new timings"
    build_engine(mock, b"", build_cuda_job(tmp_path, cache=str(file)))
    assert mock.config.cached == b"new timings"


def test_builder_errors_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"TensorRT 11\.6\.1 cannot parse its ONNX graph \(no importer for Foo\)"):
        build_engine(MockTensorRT(11, parses=False), b"", build_cuda_job(tmp_path))
    with pytest.raises(InputError, match=r"cannot build the engine.*larger --workspace than 4 GiB"):
        build_engine(MockTensorRT(11, builds=False), b"", build_cuda_job(tmp_path))


def test_engine_and_metadata_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", MockTensorRT(11))  # type: ignore[arg-type]
    monkeypatch.setattr("utils.export.tensorrt.build_onnx", lambda job: SimpleNamespace(SerializeToString=lambda: b""))
    file = export_tensorrt(build_cuda_job(tmp_path, half=True))
    assert file == tmp_path / "tiny mödel.engine"
    assert file.read_bytes() == b"ftrt engine"
    assert split_header(file.read_bytes()) == ({}, b"ftrt engine")
    values = json.loads((tmp_path / "tiny mödel.engine.json").read_text(encoding="utf-8"))
    assert (values["stride"], values["names"]) == (16, {str(k): v for k, v in NAMES.items()})


def test_needs_a_gpu_and_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="on the GPU that will run them; add --device 0"):
        export_tensorrt(build_tiny_job(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(InputError, match=r"TensorRT exports.* tensorrt"):
        export_tensorrt(build_cuda_job(tmp_path))


@pytest.mark.slow
def test_int8_graphs_are_symmetric_and_agree(tmp_path: Path, tiny_data: Path) -> None:
    """TensorRT needs signed Q/DQ nodes without zero points and float biases; onnxruntime runs the graph."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from utils.export.onnx_int8 import quantize

    job = build_tiny_job(tmp_path, int8=True, data=str(tiny_data))
    graph = quantize(job, build_onnx(job), for_tensorrt=True)
    constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.graph.initializer}
    pairs = [node for node in graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        zero = constants[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
        assert node.op_type == "QuantizeLinear" or node.input[0] not in constants
    images = torch.rand(1, 3, 64, 96)
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"images": images.numpy()})
    expected = job.network(images).numpy()
    assert np.abs(output - expected).mean() < 0.02 * np.abs(expected).mean()
