"""The TensorRT runtime: a mock of engine and context that computes in the CPU's memory, and files of every kind."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from utils.backends.info import ModelInfo
from utils.backends.registry import load_backend
from utils.backends.tensorrt import TensorRTBackend, load_tensorrt, split_header
from utils.backends.trust import UntrustedError
from utils.core.errors import InputError

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
DTYPES = {"FLOAT": torch.float32, "HALF": torch.float16}


class MockStream:
    """Mock of torch.cuda.Stream: remembers who waited for whom."""

    cuda_stream = 7

    def __init__(self) -> None:
        self.waited: list[Any] = []

    def wait_stream(self, other: Any) -> None:
        self.waited.append(other)


class MockEngine:
    """Mock of tensorrt.ICudaEngine and its context: each output is the sum of each image, in 2 rows of 7."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: str = "FLOAT",
        profile: Any = None,
        inputs: tuple[str, ...] = ("images",),
        works: bool = True,
    ) -> None:
        self.names, self.shape, self.dtype, self.profile = (*inputs, "output0"), shape, dtype, profile
        self.num_io_tensors, self.addresses, self.current, self.runs = len(self.names), {}, shape, []
        self.works = works

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name="OUTPUT" if name == "output0" else "INPUT")

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name="FLOAT" if name == "output0" else self.dtype)

    def get_tensor_profile_shape(self, name: str, index: int) -> Any:
        assert (name, index) == ("images", 0)
        return self.profile

    def create_execution_context(self) -> MockEngine:
        return self

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.current = shape
        return all(wanted in (-1, given) for wanted, given in zip(self.shape, shape, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.current[0], 2, 7) if name == "output0" else self.shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == MockStream.cuda_stream
        dtype = DTYPES[self.dtype]
        count = torch.Size(self.current).numel()
        memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(self.addresses["images"])
        images = torch.frombuffer(memory, dtype=dtype, count=count).reshape(self.current)
        rows = images.float().sum(dim=(1, 2, 3))[:, None].expand(-1, 14).contiguous()
        ctypes.memmove(self.addresses["output0"], rows.data_ptr(), rows.numel() * 4)
        self.runs.append(tuple(self.current))
        return self.works


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> MockStream:
    """A mock in the place of the stream that torch computes on."""
    stream = MockStream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: stream)
    return stream


def backend(engine: MockEngine, **info: Any) -> TensorRTBackend:
    return TensorRTBackend("m.engine", engine, ModelInfo(**info), device=CPU, names={0: "cat"}, stream=MockStream())


@pytest.mark.parametrize("dtype", ["FLOAT", "HALF"])
def test_the_mock_computes_on_the_tensors_memory(dtype: str, current: MockStream) -> None:
    engine = MockEngine((2, 3, 4, 8), dtype)
    loaded = backend(engine)
    assert (loaded.fixed_hw, loaded.fixed_batch, loaded.dtype) == ((4, 8), 2, DTYPES[dtype])
    images = torch.arange(3.0)[:, None, None, None].expand(3, 3, 4, 8)
    output = loaded.forward(images)
    assert output.shape == (3, 2, 7)
    assert output[:, 1, 6].tolist() == [0, 96, 192]
    assert engine.runs == [(2, 3, 4, 8)] * 2
    assert loaded.stream.waited == [current] * 2  # the engine starts when the images are there,
    assert current.waited == [loaded.stream] * 2  # and torch continues when the engine is done


def test_dynamic_engines_take_what_their_profile_says(current: MockStream) -> None:
    engine = MockEngine((-1, 3, -1, -1), profile=((1, 3, 4, 4), (1, 3, 8, 8), (2, 3, 8, 8)))
    loaded = backend(engine)
    assert (loaded.fixed_hw, loaded.fixed_batch) == (None, None)
    assert loaded.forward(torch.ones(5, 3, 8, 4))[:, 0, 0].tolist() == [96] * 5
    assert engine.runs == [(2, 3, 8, 4), (2, 3, 8, 4), (1, 3, 8, 4)]
    with pytest.raises(InputError, match="accepts images of 4x4 to 8x8 in batches of up to 2, got 16x4"):
        loaded.forward(torch.ones(1, 3, 16, 4))


def test_a_failed_run_is_no_result(current: MockStream) -> None:
    with pytest.raises(InputError, match="TensorRT failed to run the engine"):
        backend(MockEngine((1, 3, 4, 4), works=False)).forward(torch.ones(1, 3, 4, 4))


def test_other_engines_are_refused() -> None:
    with pytest.raises(InputError, match="expected a batch of images as the only input, found a, b"):
        backend(MockEngine((1, 3, 4, 4), inputs=("a", "b")))
    with pytest.raises(InputError, match="expected a batch of images as the only input, found images"):
        backend(MockEngine((1, 10)))
    with pytest.raises(InputError, match="expected a batch of images as the only input, found images"):
        backend(MockEngine((1, 3, 4, 4), dtype="INT32"))


def header(values: Any, length: int | None = None) -> bytes:
    text = json.dumps(values).encode()
    return (len(text) if length is None else length).to_bytes(4, "little") + text + b"ftrt engine"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(header({"stride": 32}), ({"stride": 32}, b"ftrt engine"), id="header"),
        pytest.param(b"ftrt engine", ({}, b"ftrt engine"), id="plain"),
        pytest.param(b"", ({}, b""), id="empty"),
        pytest.param(header({"stride": 32}, 2**31), ({}, header({"stride": 32}, 2**31)), id="length beyond the file"),
        pytest.param(header([1, 2]), ({}, header([1, 2])), id="no object"),
        pytest.param(b"\x04\0\0\0\xff\xff\xff\xffrest", ({}, b"\x04\0\0\0\xff\xff\xff\xffrest"), id="no text"),
        pytest.param(b"\x04\0\0\0[[[[rest", ({}, b"\x04\0\0\0[[[[rest"), id="no JSON"),
    ],
)
def test_headers_of_other_tools_are_split_off(content: bytes, expected: tuple[dict, bytes]) -> None:
    assert split_header(content) == expected


class MockTensorRT:
    """Mock of the tensorrt package: reads one engine."""

    Logger = type("Logger", (), {"ERROR": 0, "__init__": lambda self, level: None})

    def __init__(self, version: str = "11.4.0") -> None:
        self.__version__ = version

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        engine = MockEngine((1, 3, 4, 4))
        return SimpleNamespace(deserialize_cuda_engine=lambda content: engine if content == b"ftrt engine" else None)


@pytest.fixture
def mock_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mocks of the package and of what torch needs a GPU for."""
    monkeypatch.setitem(sys.modules, "tensorrt", MockTensorRT())  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: MockStream())
    monkeypatch.setattr(torch.cuda, "device", lambda device: __import__("contextlib").nullcontext())


@pytest.mark.usefixtures("mock_gpu")
def test_descriptions_come_from_beside_or_before_the_engine(tmp_path: Path) -> None:
    file = tmp_path / "ä b.engine"
    file.write_bytes(b"ftrt engine")
    assert load_tensorrt([str(file)], device=CUDA, names={0: "given"}, trust=True).names == {0: "given"}
    file.write_bytes(header({"stride": 64, "names": {"0": "before"}, "imgsz": [4, 4], "task": "detect"}))
    loaded = load_tensorrt([str(file)], device=CUDA, trust=True)
    assert (loaded.names, loaded.stride) == ({0: "before"}, 64)
    (tmp_path / "ä b.engine.json").write_text('{"names": {"0": "besïde"}}', encoding="utf-8")
    assert load_tensorrt([str(file)], device=CUDA, trust=True).names == {0: "besïde"}


@pytest.mark.usefixtures("mock_gpu")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.engine", b"ftrt eng", "damaged, or built by another release or for another GPU"),
        ("m.engine", b"", "TensorRT 11.4.0 cannot read it"),
        ("m.engine.json", b"{", r"m\.engine\.json: cannot be read"),
        ("m.engine.json", b"[]", r"m\.engine\.json: not a JSON object"),
        ("m.engine.json", b'{"names": "__import__(1)"}', "is not evaluated"),
    ],
)
def test_damaged_files_are_one_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.engine").write_bytes(b"ftrt engine")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_tensorrt([str(tmp_path / "m.engine")], device=CUDA, trust=True)
    assert "\n" not in str(caught.value)


def test_engines_need_trust(tmp_path: Path) -> None:
    (tmp_path / "m.engine").write_bytes(b"ftrt engine")
    with pytest.raises(
        UntrustedError, match=r"m\.engine: a TensorRT engine is a program, which .*; use --trust \(hub:"
    ):
        load_backend(tmp_path / "m.engine", device=CUDA)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "m.engine"
    with pytest.raises(InputError, match=r"no such file or folder; export one with: .* --include engine"):
        load_tensorrt([str(file)], device=CUDA, trust=True)
    file.write_bytes(b"ftrt")
    with pytest.raises(InputError, match="run on an NVIDIA GPU, not on cpu; use --device 0"):
        load_tensorrt([str(file)], device=CPU)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(InputError, match=r"TensorRT engines.* tensorrt"):
        load_tensorrt([str(file)], device=CUDA, trust=True)
    monkeypatch.setitem(sys.modules, "tensorrt", MockTensorRT("8.4.3"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"TensorRT 8\.4\.3 is too old; install 8\.5 or later"):
        load_tensorrt([str(file)], device=CUDA, trust=True)
