"""The TensorFlow Lite runtime: metadata, quantize tensors and messages, with a mock interpreter."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from utils.backends import tflite
from utils.backends.info import ModelInfo
from utils.backends.tflite import (
    TfliteBackend,
    dequantize,
    import_litert,
    load_edgetpu,
    load_tflite,
    quantize,
    read_info,
)
from utils.core.errors import InputError

CPU = torch.device("cpu")
GRAPH = b"\x18\0\0\0TFL3" + bytes(100)


class MockInterpreter:
    """Mock of ai_edge_litert's Interpreter: keeps what it is given and answers with fixed arrays."""

    def __init__(self, source: dict[str, Any], answers: list[tuple[np.ndarray, tuple[float, int]]]) -> None:
        self.source, self.seen = source, []
        self.answers = {number + 1: array for number, (array, _) in enumerate(answers)}
        self.targets = [
            {"index": number + 1, "shape": np.array(array.shape), "dtype": array.dtype.type, "quantization": scaling}
            for number, (array, scaling) in enumerate(answers)
        ]

    def allocate_tensors(self) -> None:
        pass

    def get_input_details(self) -> list[dict[str, Any]]:
        return [self.source]

    def get_output_details(self) -> list[dict[str, Any]]:
        return self.targets

    def set_tensor(self, index: int, value: np.ndarray) -> None:
        assert index == self.source["index"]
        assert value.dtype == self.source["dtype"]
        assert list(value.shape) == list(self.source["shape"])
        self.seen.append(value)

    def invoke(self) -> None:
        pass

    def get_tensor(self, index: int) -> np.ndarray:
        return self.answers[index]


def image_input(dtype: Any = np.float32, scaling: tuple[float, int] = (0.0, 0), batch: int = 1) -> dict[str, Any]:
    return {"index": 0, "shape": np.array([batch, 32, 64, 3]), "dtype": dtype, "quantization": scaling}


def with_text(text: str, name: str = "temp_meta.txt") -> bytes:
    content = io.BytesIO(GRAPH)
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(name, text)
    return content.getvalue()


def test_floats_become_whole_numbers_and_back() -> None:
    byte = {"dtype": np.uint8, "quantization": (0.5, 10)}
    truncated = quantize(np.array([0.0, 1.0, 1.3, 1.49, -9, 999]), byte)  # 10, 12, 12.6, 12.98, -8, 2008
    np.testing.assert_array_equal(truncated, [10, 12, 12, 12, 0, 255])
    np.testing.assert_array_equal(dequantize(np.array([10, 12, 13], np.uint8), byte), [0, 1, 1.5])
    signed = {"dtype": np.int8, "quantization": (1 / 255, -128)}
    np.testing.assert_array_equal(quantize(np.array([0.0, 0.499, 1.0]), signed), [-128, -1, 127])
    np.testing.assert_allclose(dequantize(np.array([-128, 127], np.int8), signed), [0, 1], atol=1e-6)
    floats = {"dtype": np.float32, "quantization": (0.0, 0)}
    values = np.array([0.25, -3], np.float32)
    assert quantize(values, floats) is values
    np.testing.assert_array_equal(dequantize(values, floats), values)


def test_an_official_int8_file_as_the_mock_sees_it() -> None:
    rows = np.array([[[128, 64, 32, 255, 255, 0, 51]]], np.uint8)
    interpreter = MockInterpreter(image_input(np.uint8, (1 / 255, 0)), [(rows, (1 / 255, 0))])
    backend = TfliteBackend("m.tflite", interpreter, ModelInfo(), names={0: "a", 1: "b"})
    assert (backend.fixed_hw, backend.fixed_batch, backend.channels) == ((32, 64), 1, 3)
    pixels = torch.randint(0, 256, (2, 3, 32, 64), dtype=torch.uint8)
    output = backend.forward(pixels.float() / 255)
    for seen, given in zip(interpreter.seen, pixels, strict=True):
        values = given.permute(1, 2, 0).numpy() / np.float32(255)
        np.testing.assert_array_equal(seen[0], (values / np.float32(1 / 255)).astype(np.uint8))
    assert output.shape == (2, 1, 7)
    expected = [128 / 255 * 64, 64 / 255 * 32, 32 / 255 * 64, 32, 1, 0, 0.2]
    assert output[1, 0].tolist() == pytest.approx(expected, abs=1e-5)


def test_prototypes_come_second_and_batches_are_filled_up() -> None:
    prototypes, rows = np.ones((2, 8, 8, 16), np.float32), np.zeros((2, 5, 15), np.float32)
    interpreter = MockInterpreter(image_input(batch=2), [(prototypes, (0.0, 0)), (rows, (0.0, 0))])
    outputs = TfliteBackend("m.tflite", interpreter, ModelInfo(task="segment")).forward(torch.rand(3, 3, 32, 64))
    assert [tuple(output.shape) for output in outputs] == [(3, 5, 15), (3, 8, 8, 16)]
    assert len(interpreter.seen) == 2
    assert not interpreter.seen[1][1].any()


def test_metadata_of_the_original_and_of_ours() -> None:
    theirs = with_text("{'stride': 32, 'names': {0: 'dïsc', 1: \"it's\"}}")
    assert read_info(theirs, "m").names == {0: "dïsc", 1: "it's"}
    assert read_info(with_text('{"stride": 16, "names": ["a"]}', "metadata.json"), "m").stride == 16
    assert read_info(GRAPH, "m") == ModelInfo()
    assert read_info(with_text("licence text"), "m") == ModelInfo()


@pytest.mark.parametrize("text", ["{'names': __import__('os').getcwd()}", "{'names': " * 3])
def test_metadata_is_never_evaluated(text: str) -> None:
    with pytest.raises(InputError, match=r"m\.tflite: metadata .* is not plain data \(it is not evaluated\)"):
        read_info(with_text(text), "m.tflite")


def test_other_files_are_refused_before_the_interpreter(tmp_path: Path) -> None:
    file = tmp_path / "ä b.tflite"
    with pytest.raises(InputError, match=r"no such file or folder; export one with: .* --include tflite"):
        load_tflite([str(file)], device=CPU)
    for content in (b"", b"not a model at all"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"ä b\.tflite: damaged or not a TensorFlow Lite file"):
            load_tflite([str(file)], device=CPU)


def test_a_graph_that_the_interpreter_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("Encountered unresolved custom op:\nedgetpu-custom-op.")

    file = tmp_path / "m.tflite"
    file.write_bytes(GRAPH)
    monkeypatch.setattr(tflite, "import_litert", lambda: SimpleNamespace(Interpreter=refuse))
    with pytest.raises(InputError, match=r"compiled for an Edge TPU; keep the suffix _edgetpu\.tflite"):
        load_tflite([str(file)], device=CPU)


def test_several_inputs_are_refused() -> None:
    interpreter = MockInterpreter(image_input(), [])
    interpreter.get_input_details = lambda: [image_input()] * 2  # type: ignore[method-assign]
    with pytest.raises(InputError, match="found 2 inputs"):
        TfliteBackend("m.tflite", interpreter, ModelInfo())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *_: Any) -> None:
        raise ModuleNotFoundError(name=name.partition(".")[0])

    monkeypatch.setattr("utils.core.packages.importlib.import_module", absent)
    with pytest.raises(InputError, match=r"TensorFlow Lite files need .*: pip install ai-edge-litert"):
        import_litert()


def test_edge_tpu_without_its_library_and_with_a_mock_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "m_edgetpu.tflite"
    file.write_bytes(with_text("{'names': ['a', 'b']}"))
    called: list[str] = []

    def load_delegate(library: str) -> str:
        called.append(library)
        raise ValueError("Failed to load delegate")

    litert = SimpleNamespace(load_delegate=load_delegate, Interpreter=None)
    monkeypatch.setattr(tflite, "import_litert", lambda: litert)
    monkeypatch.setattr(tflite, "EDGETPU_LIBRARIES", {"linux": "libnone-such.so.1"})
    with pytest.raises(InputError, match=r"a Coral Edge TPU only, but libnone-such.* install it: https://coral\.ai"):
        load_edgetpu([str(file)], device=CPU)
    assert not called, "LiteRT prints a traceback at a library that is not there"
    monkeypatch.undo()
    monkeypatch.setattr(tflite, "import_litert", lambda: litert)
    monkeypatch.setattr(tflite.ctypes, "CDLL", lambda _: None)
    with pytest.raises(InputError, match=r"runs on a Coral Edge TPU only, but no Edge TPU responds"):
        load_edgetpu([str(file)], device=CPU)
    rows = np.full((1, 4, 7), 255, np.uint8)
    settings: dict[str, Any] = {}

    def interpreter(**given: Any) -> MockInterpreter:
        settings.update(given)
        return MockInterpreter(image_input(np.uint8, (1 / 255, 0)), [(rows, (1 / 255, 0))])

    litert.load_delegate, litert.Interpreter = lambda library: f"delegate of {library}", interpreter
    monkeypatch.setattr(tflite.sys, "platform", "linux")
    backend = load_edgetpu([str(file)], device=CPU)
    assert settings["experimental_delegates"] == ["delegate of libedgetpu.so.1"]
    assert backend.names == {0: "a", 1: "b"}
    assert backend.forward(torch.zeros(1, 3, 32, 64))[0, 0].tolist() == [64, 32, 64, 32, 1, 1, 1]
